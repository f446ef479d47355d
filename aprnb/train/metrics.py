"""What a run writes down as it goes: metrics.jsonl, one record a step, and events.jsonl.

What is not known is null, never invented: the utilisation of a CPU, the share of a peak that no
device states. Nothing here rounds: `lr` is the very float that the optimiser was given.
"""
import json
import os
from datetime import datetime, timezone
from pathlib import Path

from ..errors import CheckError, StorageError
from ..formats.atomic import replace_file

EVENT_BEGINS = b'{"event": '
FIELDS = ("step", "loss_nats", "grad_norm", "lr", "tokens_per_sec", "mfu", "gpu_util_pct",
          "wall_ms", "data_wait_ms", "mem_peak_bytes")


def step_record(step, loss_nats, grad_norm, lr, tokens, wall_s, data_wait_s, backend):
    """The record of one step.

    loss_nats: mean over the batch's target tokens, before the update;  grad_norm: global L2 norm,
    before clipping;  tokens: target tokens of the batch;  wall_s: the whole step, waiting for
    data included, evaluation and checkpoints not.
    """
    return {
        "step": step,
        "loss_nats": loss_nats,
        "grad_norm": grad_norm,
        "lr": lr,
        "tokens_per_sec": tokens / wall_s,
        "mfu": None,  # needs the device's peak, which no backend states
        "gpu_util_pct": backend.utilisation(),
        "wall_ms": wall_s * 1e3,
        "data_wait_ms": data_wait_s * 1e3,
        "mem_peak_bytes": backend.memory_peak(),
    }


def refuse_shorter(path, nbytes):
    """CheckError if a log is missing, or shorter than when the saved state was made."""
    size = path.stat().st_size if path.exists() else None
    if nbytes and (size is None or size < nbytes):
        found = "is missing" if size is None else f"holds {size} bytes"
        raise CheckError(f"{path}: {found}, the saved state was made when it held {nbytes}; the "
                         "run cannot be resumed exactly. Put the file back, or start a new run "
                         "with --init and the newest checkpoint")


def is_object(line):
    """Whether these bytes are one object of JSON."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


class JsonLines:
    """A file of one JSON object a line, appended to; a line is there as a whole or not at all."""

    def __init__(self, path, keep_bytes=None):
        """Open for appending: after the first `keep_bytes`, or after the last whole line.

        Errors: CheckError if the file is shorter than keep_bytes; StorageError.
        """
        self.path = Path(path)
        refuse_shorter(self.path, keep_bytes)
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
            if keep_bytes is None:
                keep_bytes = self._end_of_lines()
            self._cut(keep_bytes)
        except OSError as error:
            raise self._failed(error) from error

    def _end_of_lines(self):
        """Where the last whole line ends; one that lacks its end alone is given it."""
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if not is_object(data[end:]):
            return end
        os.pwrite(self._file, b"\n", len(data))
        return len(data) + 1

    def append(self, record):
        """Add one line. Errors: StorageError, with the file as it was before."""
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        before = self.size
        try:
            while line:
                written = os.write(self._file, line)
                self.size, line = self.size + written, line[written:]
        except OSError as error:
            self._cut(before)
            raise self._failed(error) from error

    def sync(self):
        """Make every line durable."""
        os.fsync(self._file)

    def close(self):
        os.close(self._file)

    def read(self):
        """All records, wherever the file is by now."""
        return [json.loads(line) for line in self.text().splitlines()]

    def text(self):
        """What the file holds, as bytes."""
        data = b""
        while part := os.pread(self._file, self.size - len(data), len(data)):
            data += part
        return data

    def put_back(self, path):
        """Make the file anew at `path` if nothing is there any more; whether that was so.

        What it held is still known by its descriptor. Errors: StorageError.
        """
        self.path = path
        if os.path.lexists(path):
            return False
        with replace_file(path) as file:
            file.write(self.text())
        os.close(self._file)
        self._file = os.open(path, os.O_RDWR)
        self._cut(os.fstat(self._file).st_size)
        return True

    def _cut(self, size):
        os.ftruncate(self._file, size)
        os.lseek(self._file, size, os.SEEK_SET)
        self.size = size

    def _failed(self, error):
        return StorageError(f"{self.path}: cannot be written: {error.strerror}")


def event(kind, step, **facts):
    """An object of events.jsonl: what happened, at which step, when."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    return {"event": kind, "step": step, "time": now, **facts}
