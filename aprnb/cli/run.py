"""aprnb run: continue a prompt, greedily."""
import json

import click

from .options import DEVICE, JSON, precision

EPILOG = """\b
Examples:
  aprnb run model.apr "def fib(n):"
  echo "import os" | aprnb run model.apr --prompt-file - --max-tokens 32 --json

\b
Exit codes: 0 success; 2 usage; 3 file not found; 4 not a model file;
6 model does not fit, or it has no tokenizer; 14 no usable GPU."""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.argument("prompt", required=False)
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from FILE; - is stdin.")
@click.option("--max-tokens", default=128, show_default=True, type=click.IntRange(1),
              help="New tokens at most.")
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


def read_prompt(prompt, prompt_file):
    """The prompt from the argument or the file, one of which must be given."""
    import sys

    from ..errors import NotFoundError, UsageError
    if (prompt is None) == (prompt_file is None):
        raise UsageError("run: give either a PROMPT or --prompt-file FILE")
    if prompt_file is None:
        return prompt
    if prompt_file == "-":
        return sys.stdin.read()
    try:
        with open(prompt_file, encoding="utf-8", newline="") as f:
            return f.read()
    except FileNotFoundError:
        raise NotFoundError(f"{prompt_file}: no such prompt file") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{prompt_file}: the prompt is not UTF-8 ({error})") from None
