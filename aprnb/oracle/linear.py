"""Linear layer with an optional broadcast bias: y = x @ w.T + b, weights (out, in)."""
from .reduce import column_sum
from .wide import product, wide


def linear_forward(y, x, w, b):
    """Shapes:  y (R, N) out;  x (R, K);  w (N, K);  b (N,) or None"""
    if b is None:
        product(y, x, w.T, False)
    elif y.dtype == wide(x).dtype:
        product(y, x, w.T, False)
        y += wide(b)
    else:
        y[...] = wide(x) @ wide(w).T + wide(b)  # rounded once, after the bias


def linear_backward(dx, dw, db, dy, x, w, accumulate):
    """dx = dy @ w;  dw (+)= dy.T @ x;  db (+)= column sums of dy.

    Shapes:  dx (R, K) out;  dw (N, K) f32 in and out;  db (N,) f32 in and out, or None;
             dy (R, N);  x (R, K);  w (N, K)
    """
    product(dx, dy, w, False)
    product(dw, dy.T, x, accumulate)
    if db is not None:
        column_sum(db, dy, accumulate)
