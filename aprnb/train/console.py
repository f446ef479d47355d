"""What a run tells its user: plain lines, or a progress bar where the stream is a terminal.

Everything of a run goes through one Console, because whatever else printed would tear the bar:
lines written while it stands are put above it. rich is imported only where a bar is drawn.

A run outlives its readers: when a pipe or terminal goes away, it goes on in silence.
"""
import os
import sys
from contextlib import suppress

from .evaluate import perplexity


def open_closed_streams():
    """Give standard streams that were closed at the start (`>&-`) to the null device.

    Otherwise the first files that a run opens would take their numbers, and receive what is
    printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))


def silence(stream):
    """Turn a stream to the null device, with what it still holds in its buffer."""
    with suppress(OSError):  # a stream without a number has no reader to lose
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class Unheard:
    """A text stream that falls silent when it cannot be written any more."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        try:
            return self._stream.write(text)
        except OSError:
            return silence(self._stream)

    def flush(self):
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name):
        return getattr(self._stream, name)


class Console:
    """Lines on one stream; warnings go to stderr, or above the bar while there is one.

    With --json the stream is stderr, so that stdout holds the document alone.
    """

    def __init__(self, stream=None, quiet=False):
        """quiet leaves only warnings and the result."""
        self.stream, self.quiet = Unheard(stream or sys.stdout), quiet
        self._bar = None

    def note(self, text=""):
        """A line that --quiet leaves out."""
        if not self.quiet:
            self._print(text)

    def warn(self, text):
        """A line that is always shown and never changes how the run ends."""
        if self._bar:
            self._above_bar(f"warning: {text}")
        else:
            print(f"warning: {text}", file=Unheard(sys.stderr), flush=True)

    def result(self, text):
        """A line of the outcome, shown also with --quiet."""
        self._print(text)

    def step(self, record, steps):
        """One line, or one movement of the bar, per step.

        record: an object of metrics.jsonl;  steps: how many the run will have.
        """
        if self.quiet:
            return
        done = record["step"] + 1
        loss, rate = f"loss {record['loss_nats']:.4f}", f"lr {record['lr']:.1e}"
        speed = f"{record['tokens_per_sec']:,.0f} tok/s"
        if self.stream.isatty():  # short, so that the bar fits into 80 columns
            self._progress(steps).update(self._task, completed=done,
                                         description=f"{loss} | {rate} | {speed}")
        else:
            self._print(f"step {done:>5}/{steps} | {loss} | norm {record['grad_norm']:.2f} | "
                        f"{rate} | {record['wall_ms']:.1f} ms | {speed}")

    def epoch(self, epoch, metadata, ln_vocab_nats, path, best):
        """The line at the end of an epoch, with its validation loss beside that of a guess.

        metadata: the object of epoch-NNN.metadata.json;  path: the checkpoint it belongs to;
        best: {"epoch", "val_loss_nats", ...} of the lowest loss so far.
        """
        loss = metadata["val_loss"]
        mark = ("the best so far" if best["epoch"] == epoch else
                f"best: {best['val_loss_nats']:.4f} of epoch {best['epoch']}")
        self.note(f"epoch {epoch} | validation {loss:.4f} nats (ppl {perplexity(loss):,.2f}, ln V "
                  f"{ln_vocab_nats:.4f}), {mark} | {path}")

    def close(self):
        """End the bar, so that what follows stands below it."""
        if self._bar:
            self._bar.stop()
            self._bar = None

    def _print(self, text):
        if self._bar:
            self._above_bar(text)
        else:
            print(text, file=self.stream, flush=True)

    def _above_bar(self, text):
        # no markup: a path may hold brackets; soft_wrap: the terminal folds long lines, not rich
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _progress(self, steps):
        """The bar, begun with the first step: what is printed before it stays plain text."""
        if self._bar is None:
            from rich.console import Console as Terminal
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
            self._bar = Progress(TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
                                 BarColumn(bar_width=16), TextColumn("{task.description}"),
                                 TimeRemainingColumn(), console=Terminal(file=self.stream))
            self._task = self._bar.add_task("", total=steps)
            self._bar.start()
        return self._bar
