#!/usr/bin/env python3
"""Run a command and record what it showed: evidence is written by this script, never typed.

    tools/record_evidence.py NAME [--input FILE ...] [--result FILE ...] -- COMMAND ...

Writes evidence/<date>-<NAME>/record.json (commit, whether the tree was clean, command, exit code,
seconds, device, versions, SHA-256 of every input and of every file attached) and output.txt (raw
stdout and stderr). --result files, such as a JSON report, are copied beside them. The exit code is
the command's.
"""
import argparse
import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("aprnb", "numpy", "numba", "numba-cuda", "ml_dtypes", "tokenizers", "safetensors",
            "torch", "transformers")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("name", metavar="NAME", help="of the record, after the date")
    p.add_argument("--input", action="append", default=[], help="file or folder the command reads")
    p.add_argument("--result", action="append", default=[], help="file it leaves, to be attached")
    p.add_argument("--commit", help="commit the code is of, where there is no git checkout")
    p.add_argument("--root", default=ROOT / "evidence", type=Path)
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, command = p.parse_args(sys.argv[1:cut]), sys.argv[cut + 1:]
    if not command:
        p.error("the command to run stands behind --")
    folder = args.root / f"{datetime.date.today()}-{args.name}"
    folder.mkdir(parents=True, exist_ok=True)
    begin = time.time()
    with open(folder / "output.txt", "wb") as out:
        code = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT).returncode
    seconds = time.time() - begin
    attached = [Path(shutil.copy(f, folder)) for f in args.result if Path(f).exists()]
    record = {
        "schema": "aprnb-evidence-v1",
        "name": args.name,
        "date_utc": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        **commit(args.commit),
        "command": [shown(word) for word in command],
        "exit_code": code,
        "seconds": round(seconds, 2),
        "hardware": hardware(),
        "versions": versions(),
        "inputs": {shown(str(f)): sha256(f) for i in args.input for f in files_under(Path(i))},
        "files": {f.name: sha256(f) for f in [folder / "output.txt", *attached]},
    }
    (folder / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{folder.name}: exit {code} after {seconds:.1f} s")
    return code


def commit(given):
    if given:
        return {"commit": given, "tree_clean": None}
    def git(*words):
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True).stdout
    return {"commit": git("rev-parse", "HEAD").strip(),
            "tree_clean": not git("status", "--porcelain", "--untracked-files=no").strip()}


def shown(word):
    """A path as a reader can use it: relative to the checkout, or its last two parts."""
    path = Path(word)
    if not path.is_absolute():
        return word
    if path.is_relative_to(ROOT):
        return str(path.relative_to(ROOT))
    return "/".join(path.parts[-2:])


def hardware():
    smi = shutil.which("nvidia-smi")
    gpus = subprocess.run([smi, "--query-gpu=name,driver_version,memory.total,power.limit",
                           "--format=csv,noheader"], capture_output=True, text=True
                          ).stdout.strip().splitlines() if smi else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"gpus": gpus, "cpu": cpu_name(), "cores": cores, "system": platform.system(),
            "machine": platform.machine()}


def cpu_name():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def versions():
    out = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            out[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return out


def files_under(path):
    return sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
