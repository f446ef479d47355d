"""`aprnb eval`: the held-out loss of a model."""
import json

import click

from ..errors import UsageError
from ..words import counted
from .options import DEVICE, JSON, precision

EPILOG = """\b
Examples:
  aprnb eval runs/tiny/ckpt/epoch-002.apr --dataset held-out/
  aprnb eval model.apr --dataset held-out/ --seq-length 1024
  aprnb eval runs/tiny/ckpt/epoch-002.apr --dataset shards/ --seq-length 256 --windows 64 --json

\b
Exit codes: 0 success; 2 usage; 3 file not found; 4 not a model file; 5 unusable data, or nothing
to evaluate; 6 model does not fit; 8 non-finite loss; 12 out of device memory; 14 no usable GPU."""


@click.command("eval", epilog=EPILOG)
@click.argument("model")
@click.option("--dataset", required=True, metavar="PATH",
              help="Folder of token shards, or one .bin file.")
@click.option("--seq-length", type=click.IntRange(1), metavar="N",
              help="Target tokens per window; windows do not overlap  [default: the length that "
                   "the model was trained with here, else its positions, at most 2048].")
@click.option("--windows", "drawn", type=click.IntRange(1), metavar="N",
              help="Windows, drawn over the dataset by --seed as pretrain draws those of "
                   "--val-shard  [default: every window].")
@click.option("--seed", default=42, show_default=True, type=click.IntRange(0), metavar="N",
              help="Of the draw of --windows.")
@click.option("--max-batches", type=click.IntRange(1), metavar="N",
              help="The first N times --batch-size windows instead, which then depend on it.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(1), metavar="N",
              help="Windows per batch; the loss does not depend on it.")
@DEVICE
@precision()
@JSON
def evaluate(model, dataset, seq_length, drawn, seed, max_batches, batch_size, device, precision,
             as_json):
    """Mean loss in nats per token of MODEL on the windows of a dataset."""
    if drawn and max_batches:
        raise UsageError("--windows and --max-batches: need one of them")
    from ..formats.model_file import open_model
    from ..train.score import score
    with open_model(model) as source:
        report = score(source, dataset, seq_length, batch_size, device, precision, drawn, seed,
                       max_batches)
    click.echo(json.dumps(report) if as_json else lines(report))
    for text in report["warnings"]:
        click.echo(f"warning: {text}", err=True)


def lines(report):
    """The report for people."""
    ppl, bits = (f"{report[key]:,.4f}" if report[key] is not None else "unknown"
                 for key in ("ppl", "bits_per_byte"))
    return (f"{report['loss_nats']:.6f} nats per token, perplexity {ppl}; a uniform guess scores "
            f"ln V = {report['ln_vocab']:.4f}\n"
            f"{bits} bits per byte; {counted(report['tokens'], 'token')} in "
            f"{counted(report['windows'], 'window')} of {counted(report['seq_length'], 'target')} "
            f"({report['seq_length_from']}); left out: "
            f"{counted(report['windows_left_out'], 'window')}, "
            f"{counted(report['tokens_in_no_window']['tokens'], 'token')} that fill none\n"
            f"{report['device']}")
