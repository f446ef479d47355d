"""diff: metadata and tensors of two models, side by side."""
import math

import numpy as np

from ..config import to_apr
from .apr_reader import AprFile
from .model_file import config_of_folder, float_pieces, open_tensors


def diff_models(a, b):
    """Report (schema aprnb-diff-v1) on what differs between two models.

    Tensors of equal shape are compared by value in float32, with float64 sums; cosine is None
    where one of them is zero or not finite.
    """
    with open_tensors(a) as left, open_tensors(b) as right:
        metadata = _diff_metadata(_metadata(left), _metadata(right))
        rows = [_diff_tensor(left, right, name)
                for name in sorted(left.tensors.keys() & right.tensors.keys())]
        tensors = {"only_in_a": sorted(left.tensors.keys() - right.tensors.keys()),
                   "only_in_b": sorted(right.tensors.keys() - left.tensors.keys()),
                   "equal": sum(not r["differs"] for r in rows),
                   "different": [r for r in rows if r["differs"]]}
    equal = not (any(metadata.values()) or tensors["only_in_a"] or tensors["only_in_b"]
                 or tensors["different"])
    return {"schema": "aprnb-diff-v1", "a": str(a), "b": str(b), "equal": equal,
            "metadata": metadata, "tensors": tensors}


def _metadata(model):
    """Metadata of an .apr file; of a folder the same keys from its config.json."""
    if isinstance(model, AprFile):
        return model.metadata
    return to_apr(config_of_folder(model)[0]) if (model.folder / "config.json").is_file() else {}


def _diff_metadata(a, b):
    """Keys on one side only, and keys with different values."""
    return {"only_in_a": sorted(a.keys() - b.keys()), "only_in_b": sorted(b.keys() - a.keys()),
            "different": [{"key": key, "a": a[key], "b": b[key]}
                          for key in a if key in b and a[key] != b[key]]}


def _diff_tensor(left, right, name):
    """One row: what differs of dtype, shape and values; cosine and largest error of the values."""
    a, b = left.tensors[name], right.tensors[name]
    row = {"name": name, "dtype": [a.dtype, b.dtype], "shape": [list(a.shape), list(b.shape)],
           "cosine": None, "max_error": None}
    row["differs"] = [what for what in ("dtype", "shape") if row[what][0] != row[what][1]]
    comparable = not row["differs"] or row["differs"] == ["dtype"]
    if comparable and not a.is_placeholder and not b.is_placeholder:
        equal, row["cosine"], row["max_error"] = _compare_values(left, right, name)
        if not equal:
            row["differs"].append("values")
    elif a.is_placeholder != b.is_placeholder:
        row["differs"].append("values")
    return row


def _compare_values(left, right, name):
    """(equal, cosine, largest absolute difference) over streamed pieces.

    Equal means equal bits where the dtypes are the same, else equal values.
    """
    same_dtype = left.tensors[name].dtype == right.tensors[name].dtype
    dot = aa = bb = worst = 0.0
    equal = True
    for x, y in zip(float_pieces(left, name), float_pieces(right, name)):
        equal &= (x.tobytes() == y.tobytes() if same_dtype
                  else np.array_equal(x, y, equal_nan=True))
        x, y = x.astype("f8"), y.astype("f8")
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite ends as None
            dot, aa, bb = dot + float(x @ y), aa + float(x @ x), bb + float(y @ y)
            worst = float(np.maximum(worst, abs(x - y).max()))  # max() drops a NaN
    scale = math.sqrt(aa) * math.sqrt(bb)
    cosine = dot / scale if scale and math.isfinite(scale) and math.isfinite(dot) else None
    return equal, cosine, worst if math.isfinite(worst) else None
