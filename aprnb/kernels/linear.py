"""Linear layer with an optional broadcast bias: y = x @ w.T + b, weights (out, in).

dx is overwritten; dw and db are overwritten or added to. The bias is added in float32 before the
one rounding of y.
"""
from . import composed
from . import matmul as products
from .reduce import column_sum


def linear_forward(y, x, w, b, stream):
    """Shapes:  y (R, N) out;  x (R, K);  w (N, K);  b (N,) or None"""
    composed.linear_forward(products, y, x, w, b, stream)


def linear_backward(dx, dw, db, dy, x, w, accumulate, stream):
    """dx = dy @ w;  dw (+)= dy.T @ x;  db (+)= column sums of dy.

    Shapes:  dx (R, K) out;  dw (N, K) f32 in and out;  db (N,) f32 in and out, or None;
             dy (R, N);  x (R, K);  w (N, K)
    """
    composed.linear_backward(products, column_sum, dx, dw, db, dy, x, w, accumulate, stream)
