"""Folders of evidence: written by tools, never typed, and checked file by file.

    evidence/<date>-<name>/
      record.json               commit, argv, device, versions, digests of inputs and of every file
      README.md                 made from the other files (page.py)
      output.txt, dispatch.txt  what was printed; the second name where a training run is told
      epoch-NNN.metadata.json, summary.json, metrics.jsonl ...    copies from a run's folder
      verdicts.json             what the falsifiers of contracts said (verdicts/document.py)

A record carries the SHA-256 of every file beside it and a seal, the digest of its own text: a file
that was changed, taken away or added afterwards is named by `verify`. That finds slips, no forger:
whoever can write the folder can seal it again. In texts, absolute paths are shortened to their last
two parts.
"""
import contextlib
import datetime
import hashlib
import json
import re
from pathlib import Path

from ...errors import UsageError
from ...formats.atomic import replace_folder, write_json, write_text
from ..paths import copy_shortened, printable, shorten
from .origin import digests, machine, now, sha256, versions
from .page import page

SCHEMA = "aprnb-evidence-v1"
RECORD, README, OUTPUT, DISPATCH = "record.json", "README.md", "output.txt", "dispatch.txt"
VERDICTS = "verdicts.json"
NAME = re.compile("[A-Za-z0-9_-][A-Za-z0-9._-]*")


def dated(parent, name):
    """<parent>/<date>-<name>, of today. Errors: UsageError if the name could lead elsewhere."""
    if NAME.fullmatch(name) is None:
        raise UsageError(f"evidence: name {name!r}: need letters, digits, '.', '_' and '-', and no "
                         "'.' at the beginning")
    return Path(parent) / f"{datetime.date.today()}-{name}"


@contextlib.contextmanager
def draft(folder, force=False):
    """Yield a hidden folder beside `folder`, which takes its place when the block ends.

    Errors: CheckError if `folder` exists without `force`, or holds files that no record of it
    lists; StorageError.
    """
    with replace_folder(folder, _ours(Path(folder)), force) as hidden:
        yield hidden


def _ours(folder):
    """Pattern of the files that the older record of this name lists."""
    try:
        names = RECORD, *_load(folder)["files"]
    except (OSError, ValueError, KeyError):
        names = ()
    return re.compile("|".join(map(re.escape, names)))


def attach(folder, files, root):
    """Copy files into the folder, under their own names. Those that are not there are left out."""
    for file in map(Path, files):
        if file.is_file():
            copy_shortened(file, folder / file.name, root)


def seal(folder, root, name, where, argv, exit_code, seconds, device=None, inputs=(), notes=()):
    """Write record.json and README.md beside all other files of the folder.

    root: the checkout;  name: of the folder in the end;  where: origin();  argv: what ran;
    seconds: that it took;  device: that it ran on, None if it did not say;  inputs: files and
    folders that it read;  notes: sentences of whoever recorded it.
    """
    record = {"schema": SCHEMA, "name": name, "date_utc": now(), **where,
              "argv": [shorten(word, root) for word in argv], "exit_code": exit_code,
              "seconds": round(seconds, 2), "device": device, "hardware": machine(),
              "versions": versions(), "inputs": digests(inputs, root), "notes": list(notes)}
    write_text(folder / README, page(folder, record).encode(errors="replace").decode())
    record |= {"files": {f.name: sha256(f) for f in sorted(folder.iterdir()) if f.name != RECORD}}
    write_json(folder / RECORD, record | {"seal": _digest(record)})


def read_record(folder):
    """record.json; that of an older tool has `command` for `argv`, and says no device.

    Errors: OSError, ValueError if it is none."""
    record = _load(Path(folder))
    return {"argv": record.get("command", []), "device": None, "notes": []} | record


def _load(folder):
    path = folder / RECORD
    if path.exists() and not path.is_file():  # to read a pipe or a device might never end
        raise ValueError("it is no regular file")
    record = json.loads(path.read_text())
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise ValueError(f"its schema is not {SCHEMA}")
    if not isinstance(record.get("files"), dict):
        raise ValueError("it lists no files")
    elsewhere = [name for name in record["files"] if Path(name).name != name]
    if elsewhere:
        raise ValueError(f"it lists a file that is not in the folder: {printable(elsewhere[0])}")
    return record


def verify(folder):
    """What does not stand in the folder as it was recorded, one line each; empty: all does."""
    folder = Path(folder)
    try:
        record = _load(folder)
    except OSError:
        return [f"{RECORD}: missing"]
    except (ValueError, RecursionError) as error:
        return [f"{RECORD}: changed: {error}"]
    said = []
    if _sealed(record, folder) and record.get("seal") != _digest(record):
        said.append(f"{RECORD}: changed")
    changes = {name: _change(folder / name, digest) for name, digest in record["files"].items()}
    changes |= {entry.name: "extra" for entry in sorted(folder.iterdir())
                if entry.name not in {RECORD, *record["files"]}}
    return said + [f"{_short(name)}: {change}" for name, change in changes.items() if change]


def _change(file, digest):
    """What became of a file that the record lists; None: it is as it was."""
    try:
        if not file.is_file():
            return "missing"
        return None if sha256(file) == digest else "changed"
    except OSError as error:  # its name is too long, or nobody may read it
        return f"cannot be read: {error.strerror}"


def _short(name):
    """A file's name that somebody else wrote, in a line for a terminal."""
    return printable(name if len(name) <= 80 else name[:80] + "...")


def _sealed(record, folder):
    """Whether a record must have a seal. The oldest have none, nor anything that one is for: no
    contract was run yet."""
    return ("argv" in record or "seal" in record or VERDICTS in record["files"]
            or (folder / VERDICTS).exists())


def _digest(record):
    """Of all of a record apart from its seal."""
    text = json.dumps({k: v for k, v in record.items() if k != "seal"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
