"""Where a record comes from: commit, machine, versions, digests. What is unknown is null."""
import datetime
import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from ... import __version__
from ...errors import UsageError
from ..paths import shown

PACKAGES = ("numpy", "numba", "numba-cuda", "ml_dtypes", "tokenizers", "safetensors", "torch",
            "transformers")
COMMIT = re.compile("[0-9a-f]{7,40}")


def now():
    """The time of a record, UTC to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


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
        raise UsageError("evidence: git does not say which commit runs here; say it with --commit")
    return where


def _git(root, *words):
    """What git says; None where it is not installed or refuses."""
    git = shutil.which("git")
    if git is None:
        return None
    said = subprocess.run([git, "-C", str(root), *words], capture_output=True, text=True)
    return said.stdout.strip() if said.returncode == 0 else None


def machine():
    """GPUs (name, driver, memory, power limit), processor, cores and system of this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"gpus": _gpus(), "cpu": _cpu(), "cores": cores, "system": platform.system(),
            "machine": platform.machine()}


def _gpus():
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    query = subprocess.run([smi, "--query-gpu=name,driver_version,memory.total,power.limit",
                            "--format=csv,noheader"], capture_output=True, text=True)
    return query.stdout.strip().splitlines() if query.returncode == 0 else []


def _cpu():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def versions():
    """Package -> version, of those that decide about numbers and are installed."""
    known = {"python": platform.python_version(), "aprnb": __version__}
    for name in PACKAGES:
        try:
            known[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return known


def digests(inputs, root):
    """Shown path -> SHA-256 of every file in `inputs`, files and folders; null: it is not there."""
    return {shown(str(file), root): sha256(file) if file.exists() else None
            for path in map(Path, inputs) for file in _files_under(path)}


def _files_under(path):
    return sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]


def sha256(path):
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
