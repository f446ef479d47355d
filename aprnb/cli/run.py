"""aprnb run: continue a prompt, greedily."""
import json

import click

from ..words import counted
from .options import DEVICE, JSON, precision

EPILOG = """\b
Examples:
  aprnb run model.apr "def fib(n):"
  echo "import os" | aprnb run model.apr --prompt-file - --max-tokens 32 --json

\b
Exit codes: 0 success; 2 usage; 3 file not found; 4 not a model file;
6 model does not fit, or it has no tokenizer; 14 no usable GPU."""


ENDS = {"length": "--max-tokens reached", "stop": "the text has ended"}


@click.command(epilog=EPILOG)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from FILE; - is stdin.")
@click.option("--max-tokens", type=click.IntRange(1), metavar="N",
              help="New tokens at most  [default: 128, or what the model's positions leave].")
@DEVICE
@precision()
@JSON
def run(model, prompt, prompt_file, max_tokens, device, precision, as_json):
    """Continue PROMPT with the model's most likely tokens (temperature 0)."""
    from ..backend import open_backend
    from ..formats.model_file import open_model
    from ..generate.speak import speak
    text = read_prompt(prompt, prompt_file)
    with open_model(model) as source:
        report = speak(source, open_backend(device, precision), text, max_tokens)
    click.echo(json.dumps(report, indent=1) if as_json else text + report["text"])
    if not as_json:
        click.echo(pace(report), err=True)


def pace(report):
    """A line for people: how many tokens, how fast, why no more, where."""
    rate = report["decode_tokens_per_sec"]
    return (f"{counted(report['tokens'], 'token')}"
            f"{f' at {rate:,.1f} tokens/s' if rate else ''} behind a prompt of "
            f"{report['prompt_tokens']:,}; {ENDS[report['finish_reason']]}; {report['device']}")


def read_prompt(prompt, prompt_file):
    """The prompt from the argument or the file, one of which must be given.

    Errors: NotFoundError; UsageError: both or none given, not UTF-8, no character, no stdin.
    """
    import os

    from ..errors import UsageError
    if (prompt is None) == (prompt_file is None):
        raise UsageError("run: give either a PROMPT or --prompt-file FILE")
    # arguments that are no UTF-8 reach Python as lone surrogates: back to the bytes they were
    data = os.fsencode(prompt) if prompt_file is None else read_bytes(prompt_file)
    where = {None: "PROMPT", "-": "standard input"}.get(prompt_file, prompt_file)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{where}: the prompt is not UTF-8: byte 0x{data[error.start]:02x} at "
                         f"position {error.start}; convert it first") from None
    if not text:
        raise UsageError(f"{where}: the prompt is empty; give at least one character")
    return text


def read_bytes(prompt_file):
    """All bytes of a file, or of standard input for `-`."""
    import sys
    from pathlib import Path

    from ..errors import NotFoundError, UsageError
    if prompt_file != "-":
        try:
            return Path(prompt_file).read_bytes()
        except FileNotFoundError:
            raise NotFoundError(f"{prompt_file}: no such prompt file") from None
    if sys.stdin is None:  # the shell's <&-
        raise UsageError("--prompt-file -: standard input is closed; pipe the prompt in")
    return sys.stdin.buffer.read()
