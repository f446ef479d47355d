"""Which code measured: the commit of the checkout, and the versions of what it leans on.

What nobody can say is null, never a guess.
"""
import importlib.metadata
import re
import shutil
import subprocess
from pathlib import Path

from .errors import UsageError

COMMIT = re.compile("[0-9a-f]{7,40}")


def origin(root, given=None):
    """{"commit": full hash, "tree_clean": bool} of the checkout at `root`.

    given: the commit of a copy without git; whether that copy was clean, nobody can say.
    Both are null where neither is known. Errors: UsageError if `given` can be no commit.
    """
    if given is not None:
        if COMMIT.fullmatch(given) is None:
            raise UsageError(f"--commit {given!r}: need a commit's hash, 7 to 40 hexadecimal "
                             "digits, as git rev-parse HEAD says it")
        return {"commit": given, "tree_clean": None}
    # a copy inside another checkout is not that one
    head = _git(root, "rev-parse", "HEAD") if (Path(root) / ".git").exists() else None
    # a module that git does not know yet runs too; what lies under evidence/ is no code: records
    # are written one after the other
    changes = _git(root, "status", "--porcelain", "--", ":!evidence")
    return {"commit": head, "tree_clean": changes == "" if head else None}


def require_commit(where):
    """`where`, an origin() that says its commit. Errors: UsageError."""
    if not where["commit"]:
        raise UsageError("git does not say which commit runs here; say it with --commit")
    return where


def _git(root, *words):
    """What git says; None where it is not installed or refuses."""
    git = shutil.which("git")
    if git is None:
        return None
    said = subprocess.run([git, "-C", str(root), *words], capture_output=True, text=True)
    return said.stdout.strip() if said.returncode == 0 else None


def versions(packages):
    """Name -> version of those of `packages` that are installed."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
