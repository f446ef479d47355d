#!/usr/bin/env python3
"""Run the numeric tests as another CPU would: another BLAS kernel, no vectors in NumPy.

    tools/test_other_cpu.py [--core TYPE] [--dry-run] [PYTEST ARGUMENTS]

OpenBLAS chooses its kernels by the CPU's type, and NumPy its loops by the CPU's instructions; both
then add in another order. The type is another than this machine's, taken and asked back before a
test runs: exit 1 if a type that was asked for is not taken. Where BLAS has no choice (MKL,
Accelerate, an OpenBLAS built for one CPU) one line says so, and the exit status is 0.
"""
import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORES = ("Haswell", "Prescott", "SkylakeX", "Zen")  # the first that differs is taken
NEEDS = {"Haswell": "avx2", "Zen": "avx2", "SkylakeX": "avx512f", "Sandybridge": "avx"}
ASK = """
import json, threadpoolctl, numpy
try:
    from numpy._core import _multiarray_umath as loops
except ImportError:
    from numpy.core import _multiarray_umath as loops
print(json.dumps({
    "blas": [library.get("architecture") for library in threadpoolctl.threadpool_info()
             if library["internal_api"] == "openblas"],
    "loops": [name for name in loops.__cpu_dispatch__ if loops.__cpu_features__.get(name)]}))
"""


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--core", help="an OpenBLAS core type; by default one that is not this CPU's")
    p.add_argument("--dry-run", action="store_true", help="say what would be taken, run nothing")
    args, more = p.parse_known_args()
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES")}
    own = ask(environment)
    if not own["blas"] or platform.machine() not in ("x86_64", "AMD64"):
        return note("not applicable: NumPy's BLAS here is no OpenBLAS of an x86 CPU")
    loops = {"NPY_DISABLE_CPU_FEATURES": " ".join(own["loops"])} if own["loops"] else {}
    for core in [args.core] if args.core else CORES:
        if NEEDS.get(core, "") not in flags():
            if args.core:
                sys.exit(f"error: --core {core} needs {NEEDS[core]}, which this CPU does not have")
            continue
        other = environment | loops | {"OPENBLAS_CORETYPE": core}
        taken = ask(other)
        if args.core or taken["blas"] != own["blas"]:
            break
    if taken["blas"] == own["blas"]:
        if args.core:
            sys.exit(f"error: --core {core}: BLAS took {' '.join(own['blas'])}, as without it; try "
                     f"{' or '.join(CORES)}")
        return note(f"not applicable: this OpenBLAS has kernels for {' '.join(own['blas'])} alone")
    if taken["loops"]:
        sys.exit(f"error: NumPy still has its loops for {' '.join(taken['loops'])}")
    note(f"BLAS for {' '.join(taken['blas'])} instead of {' '.join(own['blas'])}; NumPy without "
         f"{' '.join(own['loops']) or 'any change'}")
    if not args.dry_run:
        command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", "-m",
                   "numeric and not gpu and not sim", *more]
        os.chdir(ROOT)
        os.execve(command[0], command, other)  # whoever ends us ends the tests


def ask(environment):
    """What a process with this environment computes with."""
    child = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True,
                           text=True, check=True)
    return json.loads(child.stdout)


def flags():
    """The CPU's instructions, "" among them; anything where nobody says."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {"", *NEEDS.values()}
    return {"", *next(line for line in lines if line.startswith("flags")).split()}


def note(text):
    print(f"other CPU: {text}", flush=True)


if __name__ == "__main__":
    main()
