"""The storage types of dense tensors, by the names that model files use.

    F32   IEEE single         F16   IEEE half         BF16  upper half of an F32
"""
import ml_dtypes
import numpy as np

BF16 = np.dtype(ml_dtypes.bfloat16)
F16 = np.dtype(np.float16)
F32 = np.dtype(np.float32)

FLOATS = {"F32": F32, "F16": F16, "BF16": BF16}  # the dense weight types that verbs compute with
PRECISIONS = {"fp32": F32, "bf16": BF16}  # what --precision names: working weights and activations


def name_of(dtype):
    """File name ("F32", "F16", "BF16") of a NumPy dtype; KeyError for any other."""
    return {v: k for k, v in FLOATS.items()}[np.dtype(dtype)]
