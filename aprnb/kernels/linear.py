"""Linear layer with an optional broadcast bias: y = x @ w.T + b, weights (out, in).

dx is overwritten; dw and db are overwritten or added to. The bias is added in float32 before the
one rounding of y.
"""
from .matmul import matmul
from .reduce import column_sum
from .shapes import expect


def linear_forward(y, x, w, b, stream):
    """Shapes:  y (R, N) out;  x (R, K);  w (N, K);  b (N,) or None"""
    (R, K), N = x.shape, w.shape[0]
    expect("linear_forward", y=(y, (R, N)), w=(w, (N, K)))
    if b is not None:
        expect("linear_forward", b=(b, (N,)))
    matmul("nt", "plain" if b is None else "bias", y, x, w, b, stream)


def linear_backward(dx, dw, db, dy, x, w, accumulate, stream):
    """dx = dy @ w;  dw (+)= dy.T @ x;  db (+)= column sums of dy.

    Shapes:  dx (R, K) out;  dw (N, K) f32 in and out;  db (N,) f32 in and out, or None;
             dy (R, N);  x (R, K);  w (N, K)
    """
    (R, K), N = x.shape, w.shape[0]
    expect("linear_backward", dx=(dx, (R, K)), dw=(dw, (N, K)), dy=(dy, (R, N)), w=(w, (N, K)))
    matmul("nn", "plain", dx, dy, w, None, stream)
    matmul("tn", "add" if accumulate else "plain", dw, dy, x, None, stream)
    if db is not None:
        column_sum(db, dy, accumulate, stream)
