#!/usr/bin/env python3
"""Does the code still stand as the house was drawn? Imports, sizes, line lengths.

    tools/check_house.py [--sizes]

Rooms in data-flow order; a room may import those before it and nothing else of ours. Exit status 1
lists every arrow that points the wrong way, every file, function and line over its cap.
"""
import argparse
import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = ("words", "errors", "interrupt", "provenance", "dtypes", "fields", "config", "formats",
         "data", "model", "oracle", "kernels", "device", "backend", "generate", "train", "bench",
         "proof", "cli")
NEVER = {  # walls inside the order
    "oracle": set(ORDER) - {"oracle"},
    "kernels": {"oracle"},
    "device": {"oracle", "formats", "data", "model"},
    "formats": {"numba"}, "data": {"numba"}, "model": {"oracle", "kernels", "device", "numba"},
    "generate": {"oracle", "kernels", "numba"}, "train": {"oracle", "kernels", "numba"},
}
ORACLE_MAY = {"numpy", "ml_dtypes"} | set(sys.stdlib_module_names)
CUDA_HOME = ROOT / "aprnb/kernels/cuda.py"  # the only file that may import numba
MODULE_CAP, FUNCTION_CAP, KERNEL_CAP, COLUMNS = 400, 60, 120, 100


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--sizes", action="store_true", help="also print files and lines of every room")
    args = p.parse_args()
    files = sorted((ROOT / "aprnb").rglob("*.py"))
    faults = [f for file in files for f in check(file)]
    for file in sorted(ROOT.glob("t[eo][so][tl]s/*.py")):
        faults += long_lines(file)
    if args.sizes:
        report_sizes(files)
    print("\n".join(faults) or f"house: {len(files)} files, every arrow points down")
    return 1 if faults else 0


def check(file):
    tree = ast.parse(file.read_text())
    return arrows(file, tree) + sizes(file, tree) + long_lines(file)


def room(file):
    part = file.relative_to(ROOT / "aprnb").parts[0]
    return part.removesuffix(".py")


def arrows(file, tree):
    here, faults = room(file), []
    if here in ("__init__", "__main__"):
        return faults
    for node, target in imports(file, tree):
        where = f"{file.relative_to(ROOT)}:{node.lineno}"
        if target in ORDER:
            wrong = target != here and (ORDER.index(target) > ORDER.index(here)
                                        or target in NEVER.get(here, ()))
        else:
            wrong = (target in NEVER.get(here, ())
                     or here == "oracle" and target not in ORACLE_MAY
                     or target == "numba" and file != CUDA_HOME)
        if wrong:
            faults.append(f"{where}: {here} must not import {target}")
    return faults


def imports(file, tree):
    """(node, room of ours or top-level package) of every import statement."""
    package = file.relative_to(ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, ours(a.name.split("."))) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = package[:len(package) - node.level + 1]
            names = node.module.split(".") if node.module else []
            for alias in node.names if len(base) + len(names) < 2 else [None]:
                path = [*base, *names] + ([alias.name] if alias else [])
                if path[1] != "__version__":
                    yield node, ours(path)
        elif isinstance(node, ast.ImportFrom):
            yield node, ours(node.module.split("."))


def ours(path):
    return path[1] if path[0] == "aprnb" and len(path) > 1 else path[0]


def sizes(file, tree):
    faults, name = [], file.relative_to(ROOT)
    lines = len(file.read_text().splitlines())
    if lines > MODULE_CAP:
        faults.append(f"{name}: {lines} lines, cap {MODULE_CAP}")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            # a factory's own lines: the functions inside it are counted one by one
            length = _lines(node) - sum(_lines(n) for n in ast.iter_child_nodes(node)
                                        if isinstance(n, ast.FunctionDef))
            cap = KERNEL_CAP if node.name.endswith("_kernel") else FUNCTION_CAP
            if length > cap:
                faults.append(f"{name}:{node.lineno}: {node.name} has {length} lines, cap {cap}")
    return faults


def _lines(node):
    return node.end_lineno - node.lineno + 1


def long_lines(file):
    return [f"{file.relative_to(ROOT)}:{i}: {len(line)} columns, cap {COLUMNS}"
            for i, line in enumerate(file.read_text().splitlines(), 1) if len(line) > COLUMNS]


def report_sizes(files):
    rooms = {}
    for file in files:
        rooms.setdefault(room(file), []).append(len(file.read_text().splitlines()))
    for name, counts in rooms.items():
        print(f"{name:10s} {len(counts):3d} files {sum(counts):6d} lines, largest {max(counts)}")


if __name__ == "__main__":
    sys.exit(main())
