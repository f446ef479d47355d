"""Rotary position embedding on split halves, in place.

    out[k]       = x[k] * cos[t,k] - x[k + D/2] * sin[t,k]                 k < D/2
    out[k + D/2] = x[k + D/2] * cos[t,k] + x[k] * sin[t,k]

Source: Su et al. 2021, eq. 34, with the pairing (k, k + D/2) of Hugging Face checkpoints. The
gradient is the rotation by the opposite angle. Storage bfloat16 or float32, arithmetic float32.
"""
import numpy as np

from .block import BLOCK, threads_for
from .cast import narrow, widen
from .cuda import cuda, kernel
from .reduce import column_sum
from .shapes import expect


@kernel("s4 f2 f2 i f", registers=56, threads=BLOCK)
def rotate_kernel(x, cos, sin, heads, sign):
    """One block per position of a sequence; a thread owns every blockDim-th pair of its heads."""
    b, t = cuda.blockIdx.x // x.shape[1], cuda.blockIdx.x % x.shape[1]
    half = cos.shape[1]
    for pair in range(cuda.threadIdx.x, heads * half, cuda.blockDim.x):
        n, k = pair // half, pair % half
        low, high = widen(x[b, t, n, k]), widen(x[b, t, n, k + half])
        c, s = cos[t, k], sin[t, k] * sign
        x[b, t, n, k] = narrow(x, low * c - high * s)
        x[b, t, n, k + half] = narrow(x, high * c + low * s)


def rope_forward(x, cos, sin, heads, stream):
    """Rotates the first `heads` heads of x at position t by its angles; the others stay.

    Shapes:  x (B, T, N, D) bf16|f32 in and out;  cos, sin (T, D/2) f32
    """
    _rotate("rope_forward", x, cos, sin, heads, 1, stream)


def rope_backward(dx, cos, sin, heads, stream):
    """Rotates the gradient back.  Shapes:  dx (B, T, N, D) in and out;  cos, sin (T, D/2)"""
    _rotate("rope_backward", dx, cos, sin, heads, -1, stream)


def rope_backward_bias(dx, db, cos, sin, heads, accumulate, stream):
    """rope_backward, then db (+)= the sums of all columns of dx as a (B * T, N * D) matrix.

    Shapes:  dx (B, T, N, D) in and out;  db (N * D,) f32 in and out;  cos, sin (T, D/2)
    """
    B, T, N, D = dx.shape
    rope_backward(dx, cos, sin, heads, stream)
    column_sum(db, dx.reshape((B * T, N * D)), accumulate, stream)


def _rotate(op, x, cos, sin, heads, sign, stream):
    B, T, N, D = x.shape
    expect(op, cos=(cos, (T, D // 2)), sin=(sin, (T, D // 2)),
           x=(x, (B, T, max(N, heads), 2 * (D // 2))))
    rotate_kernel[T * B, threads_for(heads * D // 2), stream](
        x, cos, sin, np.int32(heads), np.float32(sign))
