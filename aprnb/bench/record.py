"""evidence/bench.csv: the one table of measured figures, which every printed table is made from.

A row is known by bench, case, device and peer, the hardest to beat of a run: measured again, it
takes the place of the older one, and of those of peers that took part and were easier.
The file is replaced as a whole, so a reader never sees half of it. ratio above 1 = ours is better.
"""
import csv
import datetime
import io
import math
import tempfile
from pathlib import Path

from ..errors import CheckError, StorageError
from ..formats.atomic import refuse_existing, write_text
from ..provenance import origin, require_commit
from .timing import median, spread

COLUMNS = ("bench", "case", "unit", "ours", "spread", "peer", "peer_value", "ratio", "peer_how",
           "device", "commit", "date")
NUMBERS = ("ours", "spread", "peer_value", "ratio")
MAY_BE_ZERO = ("spread",)
OF_A_PEER = NUMBERS[2:]  # empty where nothing was beside ours
KEY = ("bench", "case", "device")
PACKAGES = ("aprnb", "numpy", "numba", "numba-cuda", "cuda-bindings", "torch", "transformers")
CHECKOUT = Path(__file__).parents[2]


class Record:
    """Where rows go, and what they all say about this run."""

    def __init__(self, path, commit=None):
        """Errors: CheckError if `path` is no such table, StorageError if its folder takes no file,
        UsageError if no commit is known, or what is given is none."""
        self.path = Path(path)
        refuse_existing(self.path, force=True)
        read(self.path)
        try:
            tempfile.TemporaryFile(dir=self.path.parent).close()
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error.strerror}; choose another "
                               "folder") from error
        self.commit = label(require_commit(origin(CHECKOUT, commit)))

    def add(self, row):
        """Put one measured row into the table.  Errors: StorageError."""
        new = table_row(row) | {"commit": self.commit, "date": str(datetime.date.today())}
        peers, old = set(row.peers) or {""}, read(self.path)
        past = [i for i, line in enumerate(old) if line["peer"] in peers
                and all(line[name] == new[name] for name in KEY)]
        place = past[0] if past else len(old)
        kept = [line for i, line in enumerate(old) if i not in past]
        write_text(self.path, text(kept[:place] + [new] + kept[place:]))


def label(where):
    """Short commit of an origin, with "+" where the code differs from it."""
    return where["commit"][:10] + ("+" if where["tree_clean"] is False else "")


def table_row(row):
    """The columns that a measured row fills, as they are written."""
    peer = row.best_peer()
    return {"bench": row.bench, "case": row.case, "unit": row.unit, "ours": short(median(row.ours)),
            "spread": short(spread(row.ours)), "peer": peer or "",
            "peer_value": short(median(row.peers[peer])) if peer else "",
            "ratio": short(row.ratio(peer)) if peer else "", "peer_how": row.how.get(peer, ""),
            "device": row.device}


def short(value):
    """Five digits that count, never an exponent for what people read."""
    return f"{float(f'{value:.5g}'):.12g}"


def read(path):
    """The rows of a table as dicts of text; none where there is no file yet."""
    if not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            if table.fieldnames is None or tuple(table.fieldnames) != COLUMNS:
                raise CheckError(f"{path}: not a table of benches: its first line is "
                                 f"{table.fieldnames}, need {','.join(COLUMNS)}; choose another "
                                 "file")
            rows = list(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise CheckError(f"{path}: not a table of benches: {error}; choose another file") from error
    for i, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise CheckError(f"{path}: line {i} has not {len(COLUMNS)} columns; repair it first")
        wrong = [name for name in NUMBERS if not _is_figure(row[name], name, row["peer"])]
        if wrong:
            raise CheckError(f"{path}: line {i}: {wrong[0]} {row[wrong[0]]!r} is "
                             f"{_need(wrong[0], row['peer'])}; repair it first")
    return rows


def _is_figure(text, name, peer):
    """Whether a column of numbers holds what a row with this peer, or with none, must have."""
    if name in OF_A_PEER and not peer:
        return not text
    try:
        value = float(text)
    except ValueError:
        return False
    return math.isfinite(value) and (value > 0 or value == 0 and name in MAY_BE_ZERO)


def _need(name, peer):
    if name in OF_A_PEER and not peer:
        return "a figure of no peer, need nothing there or the peer's name"
    return f"no number {'of at least 0' if name in MAY_BE_ZERO else 'above 0'}"


def text(rows):
    out = io.StringIO()
    table = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return out.getvalue()
