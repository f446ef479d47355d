"""What is proven, where, and how old the evidence is: read from evidence/ anew each time.

No verdict is believed that a record claims. Its files must have their digests, and every verdict is
drawn again from the outcomes and numbers beside it; where either does not fit, it is TAMPERED. The
outcomes themselves are believed: a digest is no signature, and who invents outcomes can seal them.
Evidence counts only for the binding that it was taken for: when a contract names other tests,
bounds or hardware, and when its file or one of its tests' files is no more what it was, its
falsifiers wait to be run again. Files are compared whole: a comment counts too. That the package
changed since, or a file that tests import, does not show here; commit and age do.
"""
import datetime
import json
from dataclasses import dataclass, field
from pathlib import Path

from ..evidence.folder import RECORD, read_record, verify
from ..evidence.origin import digests
from ..hardware import SIDES, UNASKED
from ..paths import printable, shown
from .document import FILE, SCHEMA, bound, judged_again, judging
from .verdict import DISCHARGED, NOT_RUN, RED

TAMPERED = "TAMPERED"


@dataclass(frozen=True)
class Evidence:
    """One folder of evidence as it stands now."""

    name: str
    problems: tuple
    """What was changed, is missing or was added; empty: nothing."""
    rows: tuple = ()
    """Of verdicts.json."""
    date: str = ""
    """UTC, ISO 8601."""
    commit: str = ""
    tree_clean: bool | None = None


@dataclass(frozen=True)
class Proven:
    """What is known of one falsifier now."""

    falsifier: object
    verdict: str
    reason: str
    evidence: Evidence | None = None
    row: dict = field(default_factory=dict)

    @property
    def hardware(self):
        return self.falsifier.binding.hardware

    def days(self, today):
        """Age of the evidence; None without any."""
        if self.evidence is None or not self.evidence.date:
            return None
        return (today - datetime.date.fromisoformat(self.evidence.date[:10])).days


def read_evidence(parent):
    """Every folder of evidence in `parent`, newest first; hidden folders and files are not."""
    parent = Path(parent)
    folders = [f for f in parent.iterdir() if f.is_dir() and not f.name.startswith(".")
               ] if parent.is_dir() else []
    # one that cannot say when it was made might be the newest
    return sorted(map(_read, folders), key=lambda e: (e.date or "9", e.name), reverse=True)


def _read(folder):
    problems, rows, told = verify(folder), [], ()
    try:
        record = read_record(folder)
        datetime.datetime.fromisoformat(record["date_utc"])
        told = record["date_utc"], printable(str(record["commit"])), record["tree_clean"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        problems = problems or [f"{RECORD}: {type(error).__name__} {error}"]
    try:
        for row, again in _judged_again(folder):
            rows.append(row)
            if again.word != row["verdict"]:
                problems.append(f"{FILE}: {row['falsifier']} is called {row['verdict']}, its own "
                                f"data say {again.word}: {again.reason}".rstrip(": "))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        problems.append(f"{FILE}: cannot be judged: {type(error).__name__} {error}")
    return Evidence(printable(folder.name), tuple(map(printable, problems)), tuple(rows), *told)


def _judged_again(folder):
    """(row, verdict that follows from it) of every row of verdicts.json, if there is one."""
    if not (folder / FILE).is_file():
        return
    document = json.loads((folder / FILE).read_text())
    if document["schema"] != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    for row in document["verdicts"]:
        again = judged_again(row, folder if document["run"] else None)
        yield row | {"reason": printable(row["reason"]), "inputs": dict(row["inputs"])}, again


def proven(contracts, evidence, root):
    """Falsifier id -> Proven, for every falsifier of the contracts.

    The newest evidence in which it was run for the binding that it has now, by the files that the
    checkout has now, counts, or, without any, the reason why it was not run.
    evidence: read_evidence();  root: the checkout.
    """
    judges = [(f, judging(c, f, root)) for c in contracts for f in c.falsifiers]
    now = digests({file for _, files in judges for file in files}, root)  # each is read once
    names = {f.id: [shown(str(file), root) for file in files] for f, files in judges}
    return {f.id: _of(f, {name: now[name] for name in names[f.id]}, evidence) for f, _ in judges}


def _of(falsifier, files, evidence):
    """files: name -> digest that it has now, of those that decide about the falsifier."""
    asked, stale, idle = bound(falsifier.binding), [], []
    for folder in evidence:
        row = next((r for r in folder.rows if r.get("falsifier") == falsifier.id), None)
        if row is None:
            continue
        if folder.problems:
            return Proven(falsifier, TAMPERED, folder.problems[0], folder, row)
        asks = [key for key, value in asked.items() if key != "faults" and row.get(key) != value]
        changed = [name for name, digest in files.items() if row["inputs"].get(name) != digest]
        if asks:
            stale.append(f"its {' and '.join(asks)} changed since {folder.name}")
        elif row["verdict"] == NOT_RUN:
            unasked = row["reason"] == UNASKED
            idle.append(f"not run in {folder.name}" if unasked else row["reason"])
        elif changed:
            stale.append(f"{' and '.join(changed)} changed since {folder.name}")
        else:
            return Proven(falsifier, row["verdict"], row["reason"], folder, row)
    # that it was run once says more than that it was not run since
    never = "never run with a record: contracts run --output"
    return Proven(falsifier, NOT_RUN, [*stale, *idle, never][0])


def supported_status(contract, known):
    """The highest status that the evidence supports, in the usual vocabulary.

    known: proven(). DRAFT_RED if anything is red or tampered with; ACTIVE_ALGORITHM_LEVEL if all
    falsifiers of CPU and simulator are discharged, ACTIVE_RUNTIME if those of the GPU are too.
    """
    mine = [known[f.id] for f in contract.falsifiers]
    if any(p.verdict in (RED, TAMPERED) for p in mine):
        return "DRAFT_RED"
    device = [p.verdict == DISCHARGED for p in mine if p.hardware == "gpu"]
    host = [p.verdict == DISCHARGED for p in mine if p.hardware != "gpu"]
    if all(host) and all(device) and device:
        return "ACTIVE_RUNTIME"
    if all(host) and host:
        return "ACTIVE_ALGORITHM_LEVEL"
    return "DRAFT_PARTIAL_DISCHARGE" if any(host + device) else "DRAFT"


def where(contract, known):
    """Hardware -> (falsifiers discharged there, falsifiers bound there), where there are any."""
    mine = [known[f.id] for f in contract.falsifiers]
    counts = {side: [p.verdict == DISCHARGED for p in mine if p.hardware == side]
              for side in SIDES}
    return {side: (sum(each), len(each)) for side, each in counts.items() if each}
