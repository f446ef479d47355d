"""Linear layer with an optional broadcast bias: y = x @ w.T + b, weights (out, in)."""
import numpy as np

from .reduce import column_sum
from .wide import add_to, wide


def linear_forward(y, x, w, b):
    """Shapes:  y (R, N) out;  x (R, K);  w (N, K);  b (N,) or None"""
    if y.dtype == np.promote_types(x.dtype, w.dtype):
        np.matmul(x, w.T, out=y)
        if b is not None:
            y += b
        return
    product = wide(x) @ wide(w).T
    y[...] = product if b is None else product + wide(b)


def linear_backward(dx, dw, db, dy, x, w, accumulate):
    """dx = dy @ w;  dw (+)= dy.T @ x;  db (+)= column sums of dy.

    Shapes:  dx (R, K) out;  dw (N, K) f32 in and out;  db (N,) f32 in and out, or None;
             dy (R, N);  x (R, K);  w (N, K)
    """
    dyw = wide(dy)
    dx[...] = dyw @ wide(w)
    add_to(dw, dyw.T @ wide(x), accumulate)
    if db is not None:
        column_sum(db, dy, accumulate)
