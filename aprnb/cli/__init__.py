"""The front door: a click group that imports a verb's module only when that verb is called.

Each verb stands in the table below with its one-line purpose, so that `aprnb --help` imports
nothing but click. Errors end here: one message on stderr and the exit code of errors.py.
"""
import errno
import importlib
import os
import sys

import click

from .. import __version__
from ..errors import AprnbError, Interrupted, out_of_memory
from ..interrupt import Interrupt
from .hints import hint
from .once import once

# verb -> (module under aprnb.cli, attribute, purpose)
VERBS = {
    "import": ("files", "import_", "Hugging Face folder or safetensors -> .apr, byte for byte."),
    "export": ("files", "export", ".apr -> a folder that transformers loads."),
    "inspect": ("files", "inspect", "Header, checksums, metadata, tensor table; reads no payload."),
    "tensor-stats": ("files", "tensor_stats", "Moments, digests and plausibility of every tensor."),
    "validate": ("files", "validate", "Every rule of the container and of the content."),
    "diff": ("files", "diff", "Metadata and tensors of two models, side by side."),
    "tokenize": ("tokenize", "tokenize", "Train a tokenizer, encode a corpus, audit the shards."),
    "pretrain": ("pretrain", "pretrain", "Train from scratch or continue from a model."),
    "eval": ("evaluate", "evaluate", "Held-out loss in nats of a model on token shards."),
    "parity": ("parity", "parity", "Compare with another framework, or two backends."),
    "run": ("run", "run", "Continue a prompt."),
    "bisect": ("bisect", "bisect", "Where two forward passes part, and the likely fault."),
    "contracts": ("contracts", "contracts", "Promises with falsifiers: form, verdicts, status."),
    "bench": ("bench", "bench", "Speed, beside that of strong libraries on the same device."),
    "faults": ("faults", "faults", "Mistakes planted on purpose: does each turn its test red?"),
}

EXIT_CODES = """\b
Exit codes: 0 success; 1 unexpected; 2 usage; 3 file not found; 4 not a valid model file;
5 a check or gate failed, or an output exists; 6 model does not fit the architecture;
7 I/O; 8 non-finite values; 9 package missing; 12 out of device memory; 14 no usable GPU;
130 interrupted."""


class LazyGroup(click.Group):
    """Resolves verbs through VERBS, so that help costs no heavy import."""

    def list_commands(self, ctx):
        return list(VERBS)

    def get_command(self, ctx, name):
        if name not in VERBS:
            return None
        module, attribute, _ = VERBS[name]
        return once(getattr(importlib.import_module(f"{__name__}.{module}"), attribute))

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, _, purpose) in VERBS.items()])


@click.group(cls=LazyGroup, epilog=EXIT_CODES,
             context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="aprnb")
def group():
    """Train language models from scratch with kernels whose numbers can be trusted."""


def main(args=None):
    """Run the command line; every failure is one message and the exit code of its class.

    A reader of our output that has enough, such as `head`, ends the verb without a message.
    """
    try:
        with Interrupt(last=args is None):
            code = call(sys.argv[1:] if args is None else list(args))
    except (Exception, KeyboardInterrupt) as error:  # the outermost frame: nothing above reports
        if os.environ.get("APRNB_TRACEBACK"):
            raise
        message, code = describe(error)
        if not isinstance(error, BrokenPipeError):
            print(f"error: {message}", file=sys.stderr)
        let_go(sys.stdout)
    sys.exit(code)


def call(args):
    """The exit code of a command line, after everything it printed is written."""
    try:
        with group.make_context("aprnb", args) as context:
            group.invoke(context)
        code = 0
    except click.exceptions.NoArgsIsHelpError as help_wanted:
        help_wanted.show()
        code = help_wanted.exit_code
    except click.exceptions.Exit as end:
        code = end.exit_code
    except SystemExit as end:
        code = end.code
    if sys.stdout is not None:
        sys.stdout.flush()  # here a full disk can still be reported
    return code


def let_go(stream):
    """Drop what cannot be written, so that the interpreter's last flush does not fail again."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def describe(error):
    """(message, exit code) of any exception."""
    error = out_of_memory(error) or error
    if isinstance(error, AprnbError | Interrupted):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        return usage_message(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing half-written was left", 130
    if isinstance(error, BrokenPipeError):
        return "nobody reads the output any more", 141  # as a shell counts an end by SIGPIPE
    if isinstance(error, FileNotFoundError):
        return f"{error.filename}: no such file or folder", 3
    if isinstance(error, OSError):
        hint = "; free some space or choose another folder" if error.errno == errno.ENOSPC else ""
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}{hint}", 7
    return (f"unexpected {type(error).__name__}: {error} "
            "(set APRNB_TRACEBACK=1 for the traceback and report it)"), 1


def usage_message(error):
    """What click says about a command line, in one line with the verb whose help explains it."""
    meant = hint(error)
    said = error.message if meant else error.format_message()  # click's own guess stands in there
    message = " ".join(said.split()).removesuffix(".") + meant
    context = getattr(error, "ctx", None)
    return f"{message}; see `{context.command_path} --help`" if context else message
