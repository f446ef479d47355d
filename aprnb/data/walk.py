"""Which files below a folder are its corpus; everything else is counted and named.

Folders are walked in lexical order and links are followed, each file and folder once. Left out are
what no corpus is made of (hidden files, virtual environments, caches), what its name says is held
out from training (test, valid, dev, ...), and what cannot be read. `--include NAME` takes what is
left out for its name.
"""
import os
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import NotFoundError, UsageError

SUFFIXES = (".jsonl", ".json", ".txt", ".py", ".parquet")
PACKED = (".gz", ".zst")  # behind any suffix of a text
CACHES = {"__pycache__", "node_modules"}
HELD_OUT = {"test", "tests", "valid", "validation", "val", "dev", "eval", "evaluation", "heldout",
            "held-out", "held_out", "holdout"}
NAMED = 20  # of what is left out for one reason; the others are counted


class Kind(NamedTuple):
    """What a file holds by its name."""

    suffix: str
    """One of SUFFIXES."""
    packing: str
    """One of PACKED, or ""."""


def kind_of(file):
    """Kind of a file by its suffixes, whatever their case; None for one that cannot be read."""
    stem, packing = os.path.splitext(file.name.lower())
    if packing not in PACKED:
        stem, packing = file.name.lower(), ""
    suffix = os.path.splitext(stem)[1]
    if suffix not in SUFFIXES or packing and suffix == ".parquet":
        return None
    return Kind(suffix, packing)


class Walk:
    """The corpus files that paths name, and what was left out of them.

    Errors: NotFoundError; UsageError (a file that cannot be read, --include of nothing).
    """

    def __init__(self, paths, include=()):
        self.left_out = {}
        """Reason -> names, in the order in which they were met."""
        self.named = {path for path in paths if path.is_file()}
        """Files that were named themselves."""
        self._include = {name.casefold().rstrip("/"): name for name in include}
        self._unmet = dict(self._include)
        self.files = [file for path in paths for file in self._files_of(path)]
        if self._unmet:
            raise UsageError(f"--include {', '.join(self._unmet.values())}: nothing of that name "
                             "was left out; need the name of a file or folder of the corpus")

    def leave_out(self, reason, name):
        """Count and name a file or folder that is not read."""
        self.left_out.setdefault(reason, []).append(str(name))

    def _files_of(self, path):
        if not os.path.exists(path):
            raise NotFoundError(f"{path}: no such file or folder")
        if not path.is_dir():
            self._refuse_unreadable(path)
            return [path]
        root = os.path.realpath(path)
        seen, found, waiting = {root}, [], self._entries(path)
        while waiting:
            entry = waiting.pop()
            reason = self._reason(entry, seen, root)
            if reason:
                self.leave_out(reason, f"{entry}/" if os.path.isdir(entry) else entry)
                continue
            seen.add(os.path.realpath(entry))
            if os.path.isdir(entry):
                waiting += self._entries(entry)
            else:
                found.append(entry)
        return found

    def _entries(self, folder):
        """What a folder holds, the lexically first last; nothing, and a reason, if unreadable."""
        try:
            return sorted(folder.iterdir(), reverse=True)
        except OSError as error:
            self.leave_out("unreadable", f"{folder}/ ({error.strerror})")
            return []

    def _reason(self, entry, seen, root):
        """Why an entry of a folder is not read, or None."""
        try:
            os.stat(entry)
        except OSError:
            return "dangling link" if os.path.islink(entry) else "unreadable"
        reason, name = self._reason_of_name(entry), entry.name.casefold()
        if reason and name not in self._include:
            return reason
        if reason:
            self._unmet.pop(name, None)
        target = os.path.realpath(entry)
        if target in seen or root.startswith(target.rstrip(os.sep) + os.sep):
            return "read already under another name"
        if os.path.isdir(entry):
            return None
        if not os.path.isfile(entry):
            return "no regular file"
        if kind_of(entry) is None:
            return "unknown suffix"
        if not os.path.getsize(entry):
            return "empty"
        return None if os.access(entry, os.R_OK) else "unreadable"

    @staticmethod
    def _reason_of_name(entry):
        if entry.name.startswith("."):
            return "hidden"
        if not os.path.isdir(entry):
            return None
        if entry.name in CACHES:
            return "cache"
        if os.path.exists(entry / "pyvenv.cfg"):
            return "virtual environment"
        return "held out by its name" if entry.name.casefold() in HELD_OUT else None

    @staticmethod
    def _refuse_unreadable(path):
        """Errors of a path that was named itself and is no folder."""
        if not path.is_file():
            raise UsageError(f"{path}: a pipe or device, which cannot be read twice; need a file "
                             "or folder, so write its content to a file first")
        if kind_of(path) is None:
            raise UsageError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; need "
                             f"{', '.join(SUFFIXES)}, texts also with {' or '.join(PACKED)}, or a "
                             "folder")


def named_held_out(file):
    """Whether the first word of a file's name says that it is held out from training."""
    return re.split("[^a-z]", file.name.lower(), maxsplit=1)[0] in HELD_OUT


def summary(left_out):
    """{reason: {"count", "names"}} of at most NAMED names each, JSON-able."""
    return {reason: {"count": len(names), "names": names[:NAMED]}
            for reason, names in sorted(left_out.items())}
