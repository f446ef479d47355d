"""What a run tells its user: plain lines, or a progress bar where the stream is a terminal.

Everything of a run goes through one Console, because whatever else printed would tear the bar:
lines written while it stands are put above it. rich is imported only where a bar is drawn.
"""
import sys

from .evaluate import perplexity


class Console:
    """Lines on one stream; warnings go to stderr, or above the bar while there is one.

    With --json the stream is stderr, so that stdout holds the document alone.
    """

    def __init__(self, stream=None, quiet=False):
        """quiet leaves only warnings and the result."""
        self.stream, self.quiet = stream or sys.stdout, quiet
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
            print(f"warning: {text}", file=sys.stderr, flush=True)

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

    def epoch(self, epoch, metadata, ln_vocab_nats, path):
        """The line at the end of an epoch, with its validation loss beside that of a guess.

        metadata: the object of epoch-NNN.metadata.json;  path: the checkpoint it belongs to.
        """
        loss = metadata["val_loss"]
        self.note(f"epoch {epoch} | validation {loss:.4f} nats (ppl {perplexity(loss):,.2f}, ln V "
                  f"{ln_vocab_nats:.4f}) | {path}")

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
