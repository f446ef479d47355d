"""Rotary position embedding on split halves, in place.

    out[k]       = x[k] * cos[t,k] - x[k + D/2] * sin[t,k]                 k < D/2
    out[k + D/2] = x[k + D/2] * cos[t,k] + x[k] * sin[t,k]

Source: Su et al. 2021, eq. 34, with the pairing (k, k + D/2) of Hugging Face checkpoints, not the
adjacent pairs (2k, 2k+1) of the paper. The angles come as tables, so any base and scaling works.
The gradient is the rotation by the opposite angle.
"""
from .parallel import by_rows
from .reduce import column_sum
from .wide import wide


@by_rows("x")
def rope_forward(x, cos, sin, heads):
    """Rotates the first `heads` heads of x at position t by its angles; the others stay.

    Shapes:  x (B, T, N, D) bf16|f32 in and out;  cos, sin (T, D/2) f32
    """
    _rotate(x, cos, sin, heads)


@by_rows("dx")
def rope_backward(dx, cos, sin, heads):
    """Rotates the gradient back.  Shapes:  dx (B, T, N, D) in and out;  cos, sin (T, D/2)"""
    _rotate(dx, cos, -sin, heads)


def rope_backward_bias(dx, db, cos, sin, heads, accumulate):
    """rope_backward, then db (+)= the sums of all columns of dx as a (B * T, N * D) matrix.

    Shapes:  dx (B, T, N, D) in and out;  db (N * D,) f32 in and out;  cos, sin (T, D/2)
    """
    rope_backward(dx, cos, sin, heads)
    column_sum(db, dx.reshape(-1, db.shape[0]), accumulate)


def _rotate(x, cos, sin, heads):
    half = x.shape[3] // 2
    low, high = x[:, :, :heads, :half], x[:, :, :heads, half:]
    a, b = wide(low), wide(high)
    cos, sin = cos[:, None, :], sin[:, None, :]
    rotated = a * cos - b * sin
    high[...] = b * cos + a * sin
    low[...] = rotated
