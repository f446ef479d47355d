"""Linear layer on warp-level tensor cores; see kernels/linear.py for the meaning of arguments."""
from ..shapes import expect
from . import matmul as products
from .matmul import matmul
from .reduce import column_sum


def linear_forward(y, x, w, b, stream):
    """y = x @ w.T + b.  Shapes:  y (R, N) out;  x (R, K);  w (N, K);  b (N,) or None; all bf16,
    y without a bias also f32"""
    (R, K), N = x.shape, w.shape[0]
    expect("linear_forward", y=(y, (R, N)), w=(w, (N, K)))
    if b is not None:
        expect("linear_forward", b=(b, (N,)))
    matmul("nt", "plain" if b is None else "bias", y, x, w, b, stream)


def linear_backward(dx, dw, db, dy, x, w, accumulate, stream):
    """dx = dy @ w;  dw (+)= dy.T @ x;  db (+)= column sums of dy.

    Shapes:  dx (R, K) out;  dw (N, K) f32 in and out;  db (N,) f32 in and out, or None;
             dy (R, N);  x (R, K);  w (N, K); bf16 where not said otherwise
    """
    (R, K), N = x.shape, w.shape[0]
    expect("linear_backward", dx=(dx, (R, K)), dw=(dw, (N, K)), dy=(dy, (R, N)), w=(w, (N, K)))
    matmul("nn", "plain", dx, dy, w, None, stream)
    matmul("tn", "add" if accumulate else "plain", dw, dy, x, None, stream)
    if db is not None:
        column_sum(db, dy, accumulate, stream)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    if len(arguments) == 4:
        y, x, w, b = arguments
        if b is not None and str(y.dtype) == "float32":
            return "a float32 result with a bias"
        return products.misfit("nt", y, x, w)
    dx, dw, _, dy, x, w, _ = arguments
    return products.misfit("nn", dx, dy, w) or products.misfit("tn", dw, dy, x)
