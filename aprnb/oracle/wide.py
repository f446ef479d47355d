"""Arithmetic type and accumulation rule that every op of the oracle follows.

Storage bfloat16 and float32 are computed in float32, float64 in float64; outputs round once, on
store. Activation gradients are overwritten. Parameter gradients are added to, except on the first
micro-step of an optimiser step (`accumulate` false), where the first writer overwrites: no zeroing
pass is needed and what stood there before, NaN included, is gone.
"""
import numpy as np


def wide(x):
    """x in its arithmetic type: float32, or float64 when x is float64; no copy when it is that."""
    return x.astype(np.promote_types(x.dtype, np.float32), copy=False)


def add_to(gradient, value, accumulate):
    """gradient += value, or gradient = value when this is the first contribution of a step."""
    if accumulate:
        gradient += value
    else:
        gradient[...] = value
