"""Arithmetic type, accumulation rule and matrix product that every op of the oracle shares.

Storage bfloat16 and float32 are computed in float32, float64 in float64; outputs round once, on
store. Activation gradients are overwritten. Parameter gradients are added to, except on the first
micro-step of an optimiser step (`accumulate` false), where the first writer overwrites: no zeroing
pass is needed and what stood there before, NaN included, is gone.
"""
import numpy as np

from .parallel import run_cuts

PRODUCT_ROWS = 512  # rows of a product per pair of parts: fewer waste BLAS's packing of b


def wide(x):
    """x in its arithmetic type: float32, or float64 when x is float64; no copy when it is that."""
    return x.astype(np.promote_types(x.dtype, np.float32), copy=False)


def add_to(gradient, value, accumulate):
    """gradient += value, or gradient = value when this is the first contribution of a step."""
    if accumulate:
        gradient += value
    else:
        gradient[...] = value


def product(out, a, b, accumulate):
    """out (+)= a @ b in the arithmetic type, cut by rows over the cores.

    Shapes:  out (M, N) in and out;  a (M, K);  b (K, N); any strides
    """
    aw, bw = wide(a), wide(b)
    in_place = out.dtype == aw.dtype == bw.dtype and not accumulate
    parts = 2 * -(-len(out) // PRODUCT_ROWS)
    edges = [len(out) * i // parts for i in range(parts + 1)]

    def part(cut):
        if in_place:
            np.matmul(aw[cut], bw, out=out[cut])
        else:
            add_to(out[cut], aw[cut] @ bw, accumulate)
    run_cuts(part, [slice(i, j) for i, j in zip(edges, edges[1:]) if j > i])
