"""metrics.jsonl on a resume: checked against the state before anything is computed, and rebuilt.

A state holds step, loss, gradient norm and rate of every record before it, as (n, 4) float64 under
`__training__.records`. So a file that was edited, reformatted or damaged is found at the start, and
`--override metrics.jsonl` makes it anew: sound records stay, of the others come the four numbers
from the state and null for what it does not hold (times, memory). States of before have no numbers;
then the form of the records is checked, and one that is lost is its step alone.
"""
import json
import math
import os
import re
import shutil
from array import array

import numpy as np

from ..errors import CheckError
from ..formats.atomic import replace_file
from ..words import counted
from .metrics import EVENT_BEGINS, FIELDS, JsonLines, is_object

NUMBERS = FIELDS[:4]  # step, loss_nats, grad_norm, lr
REBUILD = "--override metrics.jsonl"


class Records(JsonLines):
    """metrics.jsonl open for appending; it knows the NUMBERS of all its records."""

    def __init__(self, path, numbers=None, keep_bytes=0):
        """numbers: (n, 4) of the records in the first keep_bytes, None of none."""
        super().__init__(path, keep_bytes)
        self._numbers = array("d", () if numbers is None else np.asarray(numbers).ravel())

    def append(self, record):
        super().append(record)
        self._numbers.extend(_row(record))

    def numbers(self):
        """(n, 4) f64, NaN for null."""
        return np.array(self._numbers, np.float64).reshape(-1, len(NUMBERS))

    def read(self):
        """All records; of those that the file lost while it was written, what is known."""
        return _joined(_sound(self.text()), self.numbers())[0]

    def losses(self):
        """[(step, loss in nats)] of the records whose loss is known."""
        return [(int(step), loss) for step, loss, *_ in self.numbers() if not math.isnan(loss)]

    def fault(self, path):
        """What became of the file at `path` since it was opened, in words; None if it is sound."""
        try:
            same = os.path.samestat(os.stat(path), os.fstat(self._file))
        except OSError:
            same = False
        text, numbers = self.text(), self.numbers()
        if same and text.count(b"\n") == _joined(_sound(text), numbers)[1] == len(numbers):
            return None
        return (f"{path} was {'changed' if same else 'removed or replaced'} while the run wrote "
                f"it; --resume {REBUILD} makes it anew")


def _row(record):
    return [math.nan if record[name] is None else record[name] for name in NUMBERS]


# ---------------------------------------------------------------- judged

def check(path, position, numbers=None):
    """(numbers, bytes) of the records that a state counts: all NUMBERS, and where they end.

    position: Position of the state;  numbers: (n, 4) that it holds, or None.
    Errors: CheckError with file, line and what is wrong there, and the way on.
    """
    found, end, rows = 0, 0, []
    try:
        with open(path, "rb") as file:
            for line in file:
                if found == position.recorded:
                    break
                fault = _fault(line, rows, position, numbers)
                if fault:
                    raise CheckError(f"{path}: line {found + 1} {fault}. {_way_on(position)}")
                rows.append(_row(json.loads(line)))
                found, end = found + 1, end + len(line)
    except FileNotFoundError:
        if position.recorded:
            raise CheckError(f"{path}: is missing. {_way_on(position)}") from None
    if found < position.recorded:
        raise CheckError(f"{path}: holds {end} bytes, {found} of the "
                         f"{counted(position.recorded, 'record')} that the state counts. "
                         f"{_way_on(position)}")
    return np.array(rows, np.float64).reshape(-1, len(NUMBERS)), end


def _way_on(position):
    records = counted(position.recorded, "record")
    return (f"The state counts {records} before step {position.step}: put the file back, or "
            f"{REBUILD} keeps the sound records and makes the others anew from the "
            "state")


def _fault(line, rows, position, numbers):
    """What is wrong with the next line, in words; None if nothing is."""
    if not line.endswith(b"\n"):
        return "has no end"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return f"is no JSON object: {line[:60].decode(errors='replace').rstrip()!r}"
    fault = form_fault(record)
    if fault:
        return fault
    if not (rows[-1][0] if rows else -1) < record["step"] < position.step:
        return (f"is of step {record['step']}" + (f" after step {rows[-1][0]:.0f}" if rows else "")
                + f", need rising steps below {position.step}")
    if numbers is None:
        return None
    for name, want in zip(NUMBERS, numbers[len(rows)]):
        got = math.nan if record[name] is None else record[name]
        if got != want and not (math.isnan(got) and math.isnan(want)):
            return f"has {name} {record[name]}, the state says {want:.17g}"
    return None


def form_fault(record):
    """Why an object of JSON is no record, or None."""
    if not isinstance(record, dict):
        return "is no JSON object"
    lacks = [name for name in FIELDS if name not in record]
    more = [name for name in record if name not in FIELDS]
    if lacks or more:
        return " and ".join(f"{verb} {', '.join(names)}" for verb, names in
                            (("lacks", lacks), ("holds the unknown", more)) if names)
    for name, value in record.items():
        sound = (isinstance(value, int) and 0 <= value < 1 << 53 and not isinstance(value, bool)
                 if name == "step" else value is None or _is_finite(value))
        if not sound:
            return f"has {name} {value!r}, need a {'step' if name == 'step' else 'number or null'}"
    return None


def _is_finite(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of 400 digits
        return False


# ---------------------------------------------------------------- made anew

def rebuilt(path, position, numbers=None, skipped=()):
    """(records, numbers, how many of them were sound) of a file that `check` refused.

    skipped: steps without a record, used where the state holds no numbers.
    Errors: CheckError if nobody knows which steps were recorded.
    """
    sound = _sound(path.read_bytes() if path.exists() else b"")
    if numbers is None:
        steps = [s for s in range(position.step)
                 if s in sound or position.recorded == position.step or s not in skipped]
        if len(steps) != position.recorded:
            raise CheckError(f"{path}: cannot be made anew: {position.recorded} of "
                             f"{counted(position.step, 'step')} were recorded, and neither the "
                             "state nor events.jsonl says which. Put the file back, or start a new "
                             "run with --init and the newest checkpoint")
        rows = [_row(sound[s]) if s in sound else [s] + [math.nan] * 3 for s in steps]
        numbers = np.array(rows, np.float64).reshape(-1, len(NUMBERS))
    records, kept = _joined(sound, numbers)
    return records, numbers, kept


def _joined(sound, numbers):
    """(records, how many of them are sound): a record for every row of numbers."""
    records, kept = [], 0
    for row in numbers:
        record = sound.get(int(row[0]))
        if record and np.array_equal(_row(record), row, equal_nan=True):
            kept += 1
        else:
            values = [int(row[0]), *(None if math.isnan(v) else float(v) for v in row[1:])]
            record = dict.fromkeys(FIELDS) | dict(zip(NUMBERS, values))
        records.append(record)
    return records, kept


def _sound(data):
    """{step: record} of all records in some bytes, one a line or otherwise laid out."""
    return {value["step"]: value for value in _objects(data.decode(errors="replace"))
            if not form_fault(value)}


def _objects(text):
    """Every JSON object that can be read of a text."""
    decoder, start = json.JSONDecoder(), re.compile(r"\{")
    at = start.search(text)
    while at:
        try:
            value, end = decoder.raw_decode(text, at.start())
        except (ValueError, RecursionError):
            end = at.end()
        else:
            yield value
        at = start.search(text, end)


def replace(folder, records):
    """Write records as the metrics.jsonl of a run; the old one stays beside it.

    Returns the name that the old one has now, None if there was none. Errors: StorageError.
    """
    old, n = folder.metrics.with_name("metrics.jsonl.damaged"), 1
    while old.exists():
        old, n = folder.metrics.with_name(f"metrics.jsonl.damaged-{n}"), n + 1
    had = folder.metrics.exists()
    if had:
        shutil.copyfile(folder.metrics, old)
    with replace_file(folder.metrics, force=True) as file:
        for record in records:
            file.write(json.dumps(record, allow_nan=False).encode() + b"\n")
    return old.name if had else None


# ---------------------------------------------------------------- events.jsonl

def read_events(path):
    """(objects, warnings) of events.jsonl, which a resume goes on writing whatever it holds.

    The torn last line of a process that was killed is cut off, which is none of the warnings.
    """
    try:
        *lines, tail = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], [f"{path}: is missing; it is begun anew, what happened before is not in it"]
    warnings = []
    bad = [i for i, line in enumerate(lines, 1) if not is_object(line)]
    if bad:
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        warnings.append(f"{path}: line {bad[0]}{more} is no JSON object; the file is kept as it "
                        "is, and written on")
    if not is_object(tail) and tail[:len(EVENT_BEGINS)] != EVENT_BEGINS[:len(tail)]:
        warnings.append(f"{path}: its last {len(tail)} bytes are no line of a run; they are cut "
                        "off")
    return [json.loads(line) for line in [*lines, tail] if is_object(line)], warnings
