"""Which files below a folder are its corpus; everything else is counted and named.

Folders are walked in lexical order and links are followed, each file and folder once. Left out are
what no corpus is made of (hidden files, environments, installed packages, caches), what its name
says is held out from training (test, valid, dev, ...), and what cannot be read. A link is judged by
what it points to as well. `--include NAME` takes what is left out for its name.
"""
import os
import re
from pathlib import Path
from typing import NamedTuple

from ..errors import NotFoundError, UsageError

SUFFIXES = (".jsonl", ".json", ".txt", ".py", ".parquet")
PACKED = (".gz", ".zst")  # behind any suffix of a text
CACHES = {"__pycache__", "node_modules"}
PACKAGES = {"site-packages", "dist-packages", "__pypackages__"}
ENVIRONMENT = "lib*/py*/*-packages"  # what one holds; Lib/site-packages is in CPython's sources
HELD_OUT = {"test", "tests", "valid", "validation", "val", "dev", "eval", "evaluation", "heldout",
            "held-out", "held_out", "holdout"}
LIKE_HELD_OUT = (r"(?<![a-z])(" + "|".join(sorted(HELD_OUT))
                 + r")([-_]?(set|data)|ing)?(?![a-z])")
NUMBERING = re.compile(r"([^a-z]|of|part|shard|v)*$")  # behind the words of a name
ENDINGS = re.compile(r"(\.(jsonl?|txt|py|parquet|bin|gz|zst))+$")
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
        self.held_out = set()
        """Files of a folder that are read although their names say that they are held out."""
        self._include, self._unmet, self._taken = list(include), list(include), set()
        self.files = [file for path in paths for file in self._files_of(path)]
        if self._unmet:
            raise UsageError(f"--include {', '.join(self._unmet)}: nothing of that name was left "
                             "out; need the name or path of a file or folder of the corpus")

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
            reason = self._reason(entry, seen, root, path)
            if reason:
                leads = os.path.islink(entry) and reason != "dangling link"
                self.leave_out(reason, f"{entry}{'/' * os.path.isdir(entry)}"
                               + (f" -> {os.readlink(entry)}" if leads else ""))
                continue
            seen.add(os.path.realpath(entry))
            if os.path.isdir(entry):
                waiting += self._entries(entry)
            else:
                found.append(entry)
        self.held_out |= {file for file in found if self._looks_held_out(file, path)}
        return found

    def _entries(self, folder):
        """What a folder holds, the lexically first last; nothing, and a reason, if unreadable."""
        try:
            return sorted(folder.iterdir(), reverse=True)
        except OSError as error:
            self.leave_out("unreadable", f"{folder}/ ({error.strerror})")
            return []

    def _reason(self, entry, seen, root, path):
        """Why an entry of the folder `path`, whose real path is `root`, is not read, or None."""
        try:
            os.stat(entry)
        except OSError:
            return "dangling link" if os.path.islink(entry) else "unreadable"
        reasons = [reason for reason, name in reasons_of_name(entry, root)
                   if not self._takes(entry, name, path)]
        target = os.path.realpath(entry)
        if target in seen:
            return "read already under another name"
        if root.startswith(target.rstrip(os.sep) + os.sep):
            return "link to a folder that holds the corpus"
        if reasons:
            return reasons[0]
        if os.path.isdir(entry):
            return None
        if not os.path.isfile(entry):
            return "no regular file"
        if kind_of(entry) is None:
            return "unknown suffix"
        if not os.path.getsize(entry):
            return "empty"
        return None if os.access(entry, os.R_OK) else "unreadable"

    def _takes(self, entry, name, path):
        """Whether --include names an entry that `name` leaves out: by a name, or by its path."""
        spelled = {folded(entry.name), folded(name), folded(entry.relative_to(path))}
        met = [each for each in self._include if folded(each) in spelled
               or folded(os.path.abspath(each)) == folded(os.path.abspath(entry))]
        self._unmet = [each for each in self._unmet if each not in met]
        if met:
            self._taken.add(entry)
        return bool(met)

    def _looks_held_out(self, file, path):
        """Whether a file of texts that is read has a name, or lies in a folder, of test data."""
        if kind_of(file).suffix == ".py":  # test_x.py is code like any other
            return False
        below = [file, *file.parents][:len(file.relative_to(path).parts)]
        return (any(named_held_out(each) for each in below if each not in self._taken)
                or named_held_out(Path(os.path.realpath(file))))

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


def reasons_of_name(entry, root):
    """[(why an entry of a folder is left out, the name that says it)].

    A link is judged by its own name and by those of the folders in which its target lies, as far
    as they are not folders of the corpus at `root`, too.
    """
    found = [("hidden", entry.name)] if entry.name.startswith(".") else []
    if os.path.isdir(entry):
        found += [("virtual environment", entry.name)] if is_environment(entry) else []
        found += reasons_of_folders([entry.name])
    if os.path.islink(entry):
        target = os.path.realpath(entry)
        folder = target if os.path.isdir(target) else os.path.dirname(target)
        found += reasons_of_folders(os.path.relpath(folder, root).split(os.sep))
    return found


def reasons_of_folders(names):
    """[(why a folder of this name is left out, its name)]."""
    sets = (("cache", CACHES), ("installed packages", PACKAGES), ("held out by its name", HELD_OUT))
    return [(reason, name) for name in names for reason, known in sets
            if (name.casefold() if known is HELD_OUT else name) in known]


def is_environment(folder):
    """Whether a folder holds a Python or conda environment."""
    return (os.path.exists(folder / "pyvenv.cfg") or os.path.isdir(folder / "conda-meta")
            or any(os.path.isdir(place) for place in folder.glob(ENVIRONMENT)))


def folded(name):
    """A name or path as --include compares it."""
    return os.path.normpath(name).casefold()


def named_held_out(file):
    """Whether the first or last word of a name says that it is held out from training.

    Numbers and the like stand behind the last word: data-validation-00000-of-00001.parquet.
    """
    name = ENDINGS.sub("", file.name.lower())
    found = [match.span() for match in re.finditer(LIKE_HELD_OUT, name)]
    return any(begin == 0 or NUMBERING.fullmatch(name, end) for begin, end in found)


def summary(left_out):
    """{reason: {"count", "names"}} of at most NAMED names each, JSON-able."""
    return {reason: {"count": len(names), "names": names[:NAMED]}
            for reason, names in sorted(left_out.items())}
