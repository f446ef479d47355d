"""Where a record comes from, beside its commit: time, machine, versions, digests of its inputs."""
import datetime
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

from ... import __version__, provenance
from ..paths import shown

PACKAGES = ("numpy", "numba", "numba-cuda", "ml_dtypes", "tokenizers", "safetensors", "torch",
            "transformers")


def now():
    """The time of a record, UTC to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


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
    return {"python": platform.python_version(), "aprnb": __version__,
            **provenance.versions(PACKAGES)}


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
