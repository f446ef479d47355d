"""tensor-stats: moments, digests and plausibility of every tensor, and comparison with a source.

One streaming pass over each payload. 16-bit tensors are reduced to the histogram of their 65,536
bit patterns, from which the moments follow exactly and the dtype can be judged.
"""
import hashlib
import math
from fnmatch import fnmatchcase

import numpy as np

from ..errors import CheckError
from .dtype_evidence import OTHER, fits_other, pattern_values
from .model_file import open_tensors, same_values
from .moments import Moments
from .names import EMBEDDING, HEAD, is_buffer, is_state
from .tensors import CHUNK, DENSE

NORM_MEAN = (0.01, 100.0)  # mean |w| of a norm's weight; outside: flagged
EMBEDDING_STD = (0.005, 0.5)  # outside: flagged
PATTERNS = 65536


def tensor_stats(path, pattern="*", first=5, against=None):
    """Report (schema aprnb-tensor-stats-v1) on the tensors whose names match a glob.

    first: how many leading values to list. against: a source whose bytes are compared.
    `suspect` names the file if its dtype tags look swapped; `against.clean` says whether every
    tensor matched.
    """
    with open_tensors(path) as model:
        rows = [stats_row(model, name, first) for name in sorted(model.tensors)
                if fnmatchcase(name, pattern)]
        if not rows and pattern != "*":
            raise CheckError(f"{path}: no tensor matches --filter {pattern}; nothing was examined")
        report = {"schema": "aprnb-tensor-stats-v1", "model": str(path), "tensors": rows,
                  "suspect": suspicion(rows), "against": None}
        if against is not None:
            with open_tensors(against) as source:
                report["against"] = compare_with_source(model, source, rows, pattern)
    return report


def stats_row(model, name, first=0):
    """Everything that tensor-stats says about one tensor."""
    entry = model.tensors[name]
    sha, moments = hashlib.sha256(), Moments()
    histogram = np.zeros(PATTERNS, np.int64)
    item = DENSE[entry.dtype].itemsize if entry.dtype in DENSE else 1
    leading = []
    for piece in model.chunks(name, nbytes=CHUNK // 8 * 8):
        sha.update(piece)
        if entry.dtype in OTHER:
            histogram += np.bincount(np.frombuffer(piece, "<u2"), minlength=PATTERNS)
        elif entry.dtype in DENSE:
            moments.add(np.frombuffer(piece, DENSE[entry.dtype]))
        if entry.dtype in DENSE and len(leading) < first:
            values = np.frombuffer(piece[:item * (first - len(leading))], DENSE[entry.dtype])
            leading += [_json_number(v) for v in values]
    if entry.dtype in OTHER:
        moments.add(pattern_values(entry.dtype), histogram)
    elif entry.dtype not in DENSE and entry.nbytes:
        flat = model.values(name).reshape(-1)
        moments.add(flat)
        leading = [_json_number(v) for v in flat[:first]]
    flags = _flags(entry, moments, fits_other(entry.dtype, histogram, len(entry.shape)))
    return {"name": name, "dtype": entry.dtype, "shape": list(entry.shape), **moments.report(),
            "first": leading, "sha256": sha.hexdigest(), "flags": flags}


def _json_number(value):
    """JSON has no NaN: what is not finite is null."""
    value = float(value)
    return value if math.isfinite(value) else None


def _flags(entry, moments, other):
    """Names of what is implausible; never a verdict."""
    flags = []
    if entry.is_placeholder:
        return ["placeholder without bytes"]
    report = moments.report()
    flags += [f"{moments.nan} NaN"] * (moments.nan > 0)
    flags += [f"{moments.inf} infinite"] * (moments.inf > 0)
    if is_state(entry.name):  # moments of an optimiser begin at zero and have no usual size
        return flags
    if moments.count > 1 and moments.zeros == moments.count:
        flags.append("all zero")
    elif moments.count > 1 and report["min"] == report["max"] and not moments.nan + moments.inf:
        flags.append("constant")
    if report["mean"] is None:
        return flags
    low, high = NORM_MEAN
    if entry.name.endswith("norm.weight") and not low <= moments.mean_abs <= high:
        flags.append(f"norm: mean |w| {moments.mean_abs:.3g} outside {low}..{high}")
    low, high = EMBEDDING_STD
    if entry.name == EMBEDDING and not low <= report["std"] <= high:
        flags.append(f"embedding: std {report['std']:.3g} outside {low}..{high}")
    if other:
        flags.append(f"exponents fit {other}, not {entry.dtype}")
    return flags


def suspicion(rows):
    """One sentence if the F16/BF16 tags of a file look swapped, else None."""
    for dtype, other in OTHER.items():
        matrices = [r for r in rows if r["dtype"] == dtype and len(r["shape"]) >= 2]
        caught = sum(f"exponents fit {other}, not {dtype}" in r["flags"] for r in matrices)
        if caught:
            return (f"{caught} of {len(matrices)} matrices tagged {dtype} hold {other} bits by "
                    "their exponents: the dtype tags are most likely swapped")
    return None


def compare_with_source(model, source, rows, pattern="*"):
    """Byte comparison by name; adds `matches` to each row and returns the summary.

    A head that one side lacks is no fault if the other side's is a copy of the embedding or a
    placeholder; it is listed as synthesised (in the model) or left_out (of the model).
    """
    report = {"source": str(source.path), "matched": 0, "mismatched": [], "missing": [],
              "extra": [], "synthesised": [], "left_out": [], "passed_over": []}
    for row in rows:
        name = row["name"]
        row["matches"] = None
        if is_state(name):
            report["passed_over"].append(name)
        elif name in source.tensors:
            reason = _difference(row, source, name)
            row["matches"] = reason is None
            if reason:
                report["mismatched"].append({"name": name, "reason": reason})
            report["matched"] += reason is None
        elif name == HEAD and (model.tensors[name].is_placeholder
                               or same_values(model, HEAD, EMBEDDING)):
            report["synthesised"].append(name)
        else:
            row["matches"] = False
            report["extra"].append(name)
    absent = sorted(n for n in source.tensors.keys() - model.tensors.keys()
                    if fnmatchcase(n, pattern))
    for name in absent:
        copy = name == HEAD and (source.tensors[name].is_placeholder
                                 or same_values(source, HEAD, EMBEDDING))
        kind = "passed_over" if is_buffer(name) else "left_out" if copy else "missing"
        report[kind].append(name)
    report["clean"] = not (report["mismatched"] or report["missing"] or report["extra"])
    return report


def _difference(row, source, name):
    """Why a tensor differs from its source, or None."""
    entry = source.tensors[name]
    for what, got, need in (("dtype", row["dtype"], entry.dtype),
                            ("shape", row["shape"], list(entry.shape))):
        if got != need:
            return f"{what} {got}, source {need}"
    sha = hashlib.sha256()
    for piece in source.chunks(name):
        sha.update(piece)
    return None if sha.hexdigest() == row["sha256"] else "bytes differ"
