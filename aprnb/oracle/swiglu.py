"""SwiGLU on a packed gate-up projection: y = silu(gate) * up, gate left, up right.

    silu(g)  = g * sigmoid(g)                                        Shazeer 2020, eq. 6
    dgate    = dy * up * sigmoid(g) * (1 + g * (1 - sigmoid(g)))
    dup      = dy * silu(g)
"""
import numpy as np

from .parallel import by_rows
from .wide import wide


@by_rows("y", "gu")
def swiglu_forward(y, gu):
    """Shapes:  y (R, F) out;  gu (R, 2F)"""
    F = y.shape[1]
    gate, up = wide(gu[:, :F]), wide(gu[:, F:])
    y[...] = gate * _sigmoid(gate) * up


@by_rows("dgu", "dy", "gu")
def swiglu_backward(dgu, dy, gu):
    """Shapes:  dgu (R, 2F) out;  dy (R, F);  gu (R, 2F)"""
    F = dy.shape[1]
    gate, up, dyw = wide(gu[:, :F]), wide(gu[:, F:]), wide(dy)
    s = _sigmoid(gate)
    silu = gate * s
    dgu[:, F:] = dyw * silu
    slope = s + silu * (1 - s)
    dgu[:, :F] = dyw * up * slope


def _sigmoid(x):
    half = x.dtype.type(0.5)  # by tanh: no overflow, and half the cost of exp and a division
    s = np.tanh(x * half)
    s *= half
    s += half
    return s
