"""What was meant by a verb or an option that there is not: one with a like name, or the one that
does here what people know by that name from other tools."""
import difflib

import click

VERBS = {
    "train": "pretrain", "finetune": "pretrain --init", "fine-tune": "pretrain --init",
    "sft": "pretrain --init", "resume": "pretrain --resume", "convert": "import and export",
    "evaluate": "eval", "perplexity": "eval", "generate": "run", "complete": "run",
    "infer": "run", "info": "inspect", "show": "inspect", "compare": "diff", "stats":
    "tensor-stats", "check": "validate", "verify": "validate", "benchmark": "bench",
    "encode": "tokenize encode-corpus", "encode-corpus": "tokenize encode-corpus",
    "prepare": "tokenize encode-corpus", "audit": "tokenize audit",
    "import-hf": "import, or tokenize import-hf", "import-tokens": "tokenize import-tokens",
}
OPTIONS = {  # name elsewhere -> names here, the first one that the verb has
    "--learning-rate": ["--lr"], "--epochs": ["--num-steps"], "--num-epochs": ["--num-steps"],
    "--num-train-epochs": ["--num-steps"], "--max-steps": ["--num-steps"],
    "--max-iters": ["--num-steps"], "--steps": ["--num-steps"], "--train-iters": ["--num-steps"],
    "--iters": ["--num-steps"], "--micro-batch-size": ["--micro-batch"],
    "--per-device-train-batch-size": ["--micro-batch"], "--global-batch-size": ["--batch-size"],
    "--train-batch-size": ["--batch-size"], "--gradient-accumulation-steps": ["--micro-batch"],
    "--per-device-eval-batch-size": ["--batch-size"], "--block-size": ["--seq-length"],
    "--max-seq-length": ["--seq-length"], "--max-length": ["--seq-length", "--max-tokens"],
    "--context-length": ["--seq-length"], "--sequence-length": ["--seq-length"],
    "--warmup-ratio": ["--warmup-steps"], "--warmup-iters": ["--warmup-steps"],
    "--lr-scheduler-type": ["--schedule"], "--lr-decay-style": ["--schedule"],
    "--lr-decay-iters": ["--schedule-steps"], "--output-dir": ["--run-dir", "--output"],
    "--out-dir": ["--run-dir", "--output"], "--save-dir": ["--run-dir", "--output"],
    "--out": ["--output", "--run-dir"], "--model": ["--init"],
    "--model-name-or-path": ["--init"], "--checkpoint": ["--init", "--resume"],
    "--base-model": ["--init"], "--config": ["--arch"], "--config-name": ["--arch"],
    "--data": ["--dataset", "--corpus"], "--data-path": ["--dataset", "--corpus"],
    "--train-file": ["--dataset", "--corpus"], "--dataset-name": ["--dataset"],
    "--input": ["--corpus", "--dataset"], "--input-dir": ["--corpus"],
    "--validation-file": ["--val-shard"], "--eval-dataset": ["--val-shard"],
    "--max-grad-norm": ["--grad-clip"], "--clip-grad": ["--grad-clip"],
    "--gradient-clipping": ["--grad-clip"], "--adam-beta1": ["--beta1"],
    "--adam-beta2": ["--beta2"], "--adam-epsilon": ["--eps"], "--bf16": ["--precision"],
    "--fp16": ["--precision"], "--fp32": ["--precision"], "--dtype": ["--precision"],
    "--mixed-precision": ["--precision"], "--gradient-checkpointing": ["--recompute"],
    "--activation-checkpointing": ["--recompute"], "--save-steps": ["--checkpoint-every"],
    "--save-interval": ["--checkpoint-every"], "--save-total-limit": ["--keep"],
    "--eval-steps": ["--steps-per-epoch"], "--eval-interval": ["--steps-per-epoch"],
    "--eval-iters": ["--val-windows", "--windows"], "--load-best-model-at-end": ["--keep-best"],
    "--early-stopping-patience": ["--patience"], "--resume-from-checkpoint": ["--resume"],
    "--overwrite-output-dir": ["--force"], "--overwrite": ["--force"], "-f": ["--force"],
    "--max-new-tokens": ["--max-tokens"], "--num-predict": ["--max-tokens"],
    "--file": ["--prompt-file"], "--text-column": ["--content-field"],
    "--text-field": ["--content-field"], "--json-key": ["--content-field"],
    "--vocab": ["--vocab-size"], "--workers": ["--num-workers"],
    "--num-proc": ["--num-workers"], "--eos": ["--eos-token"], "--gpu": ["--device"],
    "--cuda": ["--device"], "--cpu": ["--device"],
}
WITHOUT = {  # name elsewhere -> what to say where nothing here does it
    ("run", ("--temperature", "--top-p", "--top-k", "--do-sample", "--repetition-penalty")):
        "run continues with the most likely token each time, without sampling",
    ("run", ("--prompt", "-p")): "the prompt is an argument: aprnb run MODEL \"PROMPT\"",
    ("pretrain", ("--optim", "--optimizer")): "AdamW is the optimiser",
    ("pretrain", ("--lora", "--lora-r", "--lora-rank", "--use-peft", "--load-in-4bit",
                  "--load-in-8bit", "--qlora")): "all weights are trained; there are no adapters",
    ("pretrain", ("--report-to", "--logging-steps", "--log-interval", "--wandb")):
        "every step is logged, in metrics.jsonl of the run's folder",
    ("pretrain", ("--weight-tying", "--tie-word-embeddings")): "the model's file says it",
}
CLOSE = 0.6  # share of like letters from which a name is taken for a slip of another


def hint(error):
    """Words to put behind the message of a usage error of click's; "" if there is no hint."""
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption) and context:
        return _option(error.option_name, context.command)
    if isinstance(error, click.UsageError) and error.message.startswith("No such command"):
        return _verb(error.message.split("'")[1], context.command.list_commands(context))
    return ""


def _option(name, verb):
    own = [text for parameter in verb.params for text in (*parameter.opts,
                                                          *parameter.secondary_opts)
           if text.startswith("-")]
    dashed = name.replace("_", "-").lower()
    for (of, names), words in WITHOUT.items():
        if of == verb.name and dashed in names:
            return f"; {words}"
    known = [text for text in (dashed, *OPTIONS.get(dashed, ())) if text in own]
    return _meant(known[:1] or difflib.get_close_matches(dashed, own, 1, CLOSE))


def _verb(name, verbs):
    if name.lower() in VERBS and "pretrain" in verbs:
        return _meant([VERBS[name.lower()]])
    return _meant(difflib.get_close_matches(name.lower(), verbs, 1, CLOSE))


def _meant(names):
    return f", did you mean {names[0]}" if names else ""
