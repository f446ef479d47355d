"""`aprnb pretrain`: train from random weights or go on from a model.

No flag has a default here: train/settings.py holds them, so that config.json can say of every
value whether it was given. The help names them.
"""
import errno
import json
import sys

import click

from ..words import counted
from .sections import SectionedCommand, section

EPILOG = """\b
Examples:
  aprnb pretrain --dataset shards/ --arch tiny --run-dir runs/tiny --num-steps 300 --seq-length 256
  aprnb pretrain --dataset shards/ --init model.apr --run-dir runs/tuned --lr 2e-5 --json
  aprnb pretrain --run-dir runs/tuned --resume
  aprnb pretrain --run-dir runs/tuned --resume state-000300.apr --override lr --lr 1e-5

\b
Exit codes: 0 done, or stopped by --patience; 2 usage; 3 file not found; 4 not a model file; 5 a
gate failed, the target was missed, unusable data, or the run folder exists; 6 model, tokenizer or
configuration do not fit; 7 I/O, disk full; 8 non-finite values; 12 out of device memory; 14 no
usable GPU; 130 interrupted by a signal or by --max-minutes: a state was saved, unless the message
says that there was nothing to save."""

N, X = {"type": int, "metavar": "N"}, {"type": float, "metavar": "X"}
NEWEST = "newest"  # --resume alone
PATH = {"metavar": "PATH"}


def one_of(*names):
    return {"type": click.Choice(names)}


def micro_batch(ctx, parameter, value):
    """N, or None for "auto"."""
    if value in (None, "auto"):
        return None
    try:
        return int(value)
    except ValueError:
        raise click.BadParameter(f"{value!r}: need a number or auto") from None


@click.command(cls=SectionedCommand, epilog=EPILOG)
@section(
    "Model and data",
    ("--dataset", "Folder of token shards, or one .bin file; needed unless --resume.", PATH),
    ("--run-dir", "Folder that the run writes.", {**PATH, "required": True}),
    ("--init", "Go on from this .apr file or Hugging Face folder.", PATH),
    ("--arch", "Start from random weights: qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, llama-370m, "
               "tiny, or a config.json.", {"metavar": "NAME-or-FILE"}),
    ("--tokenizer", "tokenizer.json or its folder, for the checkpoints  [default: that of --init, "
                    "else that of the dataset]", PATH),
    ("--resume", "Go on exactly where the run in --run-dir stopped; auto: or start it, if it has "
                 "no state yet; a step, name or path of a state: from there, and what the run has "
                 "of later steps is set aside. Only gates, --num-steps, --schedule-steps, "
                 "--checkpoint-every, --keep and --keep-best may be given anew.",
     {"is_flag": False, "flag_value": NEWEST, "metavar": "[auto|STATE]"}),
    ("--override", "With --resume: go on although this setting of config.json, or of the command "
                   "line, is not that of the state; config.json, metrics.jsonl: have the file "
                   "written anew from the state. May be given again.",
     {"multiple": True, "metavar": "KEY"}))
@section(
    "Device",
    ("--device", "auto, cpu, cuda or cuda:N; only auto may choose the CPU, and says so  "
                 "[default: auto]", {"metavar": "NAME"}),
    ("--precision", "Of working weights and activations  [default: auto: bf16 where the GPU has "
                    "it, else fp32]", one_of("auto", "fp32", "bf16")),
    ("--residual", "Of the residual stream and its gradient: fp32 beside bf16 rounds less and "
                   "moves more memory  [default: auto: as --precision]",
     one_of("auto", "fp32", "bf16")),
    ("--kernels", "Of a GPU: the best that it runs, or one kind by name  [default: auto]",
     one_of("auto", "sm_90", "sm_80", "portable")))
@section(
    "Size",
    ("--num-steps", "Optimiser steps  [default: 1000]", N),
    ("--batch-size", "Sequences per optimiser step  [default: 16]", N),
    ("--micro-batch", "Sequences per pass; the numbers do not depend on it  [default: auto]",
     {"metavar": "N|auto", "callback": micro_batch}),
    ("--recompute", "What the backward pass computes anew instead of keeping it: the wide part of "
                    "every MLP, or all of a layer  [default: none]",
     one_of("none", "ffn", "block")),
    ("--seq-length", "Target tokens per sequence  [default: 1024]", N),
    ("--steps-per-epoch", "Steps between evaluations  [default: 100]", N))
@section(
    "Optimiser",
    ("--mode", "Sets the defaults of --lr and --warmup-steps  [default: finetune with --init, "
               "else from-scratch]", one_of("finetune", "from-scratch")),
    ("--lr", "Peak learning rate  [default: 5e-5 finetune, 3e-4 from-scratch]", X),
    ("--warmup-steps", "Steps before the peak  [default: 100 finetune, 1000 from-scratch, at most "
                       "a tenth of --schedule-steps]", N),
    ("--schedule", "Rate after warm-up; wsd stays at the peak and decays over the last fifth  "
                   "[default: cosine]", one_of("cosine", "linear", "constant", "wsd")),
    ("--schedule-steps", "Steps that the schedule is laid out for; after them the rate stays at "
                         "--min-lr  [default: --num-steps of the start]", N),
    ("--min-lr", "Rate of the last step of the schedule  [default: a tenth of --lr]", X),
    ("--beta1", "AdamW, decay of the first moment  [default: 0.9]", X),
    ("--beta2", "AdamW, decay of the second moment  [default: 0.95]", X),
    ("--eps", "AdamW, added to the root of the second moment  [default: 1e-8]", X),
    ("--weight-decay", "Decoupled, times the rate  [default: 0.1]", X),
    ("--decay-on", "What decays: matrices, or norms and biases too  [default: matrices]",
     one_of("matrices", "all")),
    ("--grad-clip", "Largest global L2 norm of the gradient; 0: no clip  [default: 1.0]", X))
@section(
    "Data",
    ("--order", "Of the windows  [default: shuffled]", one_of("shuffled", "sequential")),
    ("--seed", "Of random weights, order and the draw of the validation windows  [default: 42]",
     N),
    ("--val-shard", "Dataset to validate on  [default: windows of --dataset, never trained on]",
     PATH),
    ("--val-windows", "Windows per evaluation; of --dataset at most 5 %  [default: 256]", N),
    ("--val-batches", "The same in batches: N times --batch-size, on which the windows then "
                      "depend", N),
    ("--val-order", "Validation windows drawn over all data by --seed, or the last of --dataset "
                    "and the first of --val-shard  [default: shuffled]",
     one_of("shuffled", "sequential")))
@section(
    "Gates",
    ("--preflight", "auto: on a GPU, one window through oracle and device before step 0  "
                    "[default: auto]", one_of("auto", "off")),
    ("--target-val-loss", "Nats; missed: exit 5  [default: no target]", X),
    ("--patience", "Epochs without a better validation loss before the run stops  [default: 5]",
     N),
    ("--max-epoch0-loss", "Nats, of the first validation  [default: 10.0 with --init, 2 ln V "
                          "without]", X),
    ("--on-nonfinite", "What a NaN or infinite loss or gradient does to a run: skip the step (3 "
                       "in a row stop), or stop  [default: skip]", one_of("skip", "stop")),
    ("--max-minutes", "Save a state and stop after so long, with exit code 130; --resume has as "
                      "long again  [default: no limit]", X))
@section(
    "Output",
    ("--checkpoint-every", "Steps between saved states, besides those of every epoch", N),
    ("--keep", "Newest checkpoints to keep, besides that of the best epoch, which always stays  "
               "[default: those of all epochs, and 2 states]", N),
    ("--keep-best", "Keep the best epoch, the newest one and one state.",
     {"is_flag": True, "default": None}),
    ("--force", "Replace the run in --run-dir.", {"is_flag": True}),
    ("--json as_json", "One JSON document on stdout, everything else on stderr.",
     {"is_flag": True}),
    ("--quiet", "Only warnings and the result.", {"is_flag": True}))
def pretrain(resume, override, force, as_json, quiet, **flags):
    """Train a model on token shards, from random weights or from a given model.

    Writes config.json, metrics.jsonl, events.jsonl, checkpoints, loss.svg and summary.json. Losses
    are in nats.
    """
    from ..errors import UsageError
    from ..train.console import Console, open_closed_streams
    from ..train.run import pretrain as train
    if resume == "":  # an empty variable of a shell
        raise UsageError("--resume '': need auto or a state (step, name or path); without a value "
                         "it goes on from the newest")
    resume = True if resume == NEWEST else resume or False
    if resume and force:
        raise UsageError("--resume and --force: need one of them")
    open_closed_streams()
    console = Console(sys.stderr if as_json else sys.stdout, quiet)
    given = {name: value for name, value in flags.items() if value is not None}
    report = train(given, console, resume, force, override)
    print_report(report, as_json, console)
    sys.exit(report["exit_code"])


def print_report(report, as_json, console):
    """The final JSON document, or its lines for people. Errors: OSError of a full disk."""
    from ..train.console import silence
    if as_json:
        try:
            click.echo(json.dumps(report))
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # EIO: of a terminal that was closed
                raise
            silence(sys.stdout)  # nobody reads it; summary.json holds the same
        return
    console.result(f"{report['status']}: {report['detail']}")
    if report["final_val_loss"] is not None:
        console.result(f"  validation  {report['final_val_loss']:.4f} nats; ln V = "
                       f"{report['ln_vocab']:.4f}; {counted(report['steps_recorded'], 'step')} in "
                       f"{counted(report['epochs_completed'], 'epoch')}")
    best = report["best"]
    if best:
        console.result(f"  best        {best['val_loss_nats']:.4f} nats, epoch {best['epoch']}: "
                       f"{best['checkpoint'] or without_checkpoint(best, report)}")
    for name, file in (("checkpoint", report["checkpoint"]), ("loss curve", report["loss_svg"]),
                       ("summary", report["summary"])):
        console.result(f"  {name:<11} {file or 'none was written'}")


def without_checkpoint(best, report):
    """Why the best epoch has no file: its evaluation ended the run, or somebody removed it."""
    return ("no checkpoint was written, the run was stopped by that evaluation"
            if best["epoch"] >= report["epochs_completed"]
            else "its checkpoint is not there any more")
