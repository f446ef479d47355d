"""RMSNorm, alone and fused with the residual add that precedes it.

    rstd[r]  = 1 / sqrt(mean_c x[r,c]^2 + eps)
    y[r,c]   = x[r,c] * rstd[r] * w[c]                 Zhang & Sennrich 2019, eq. 4, with eps
    dx[r,c]  = rstd[r] * (g - xhat * mean_c(g * xhat))           g = dy*w, xhat = x*rstd
    dw[c]    = sum_r dy[r,c] * xhat[r,c]

Activation gradients are overwritten, dw is overwritten or added to. Rows are reduced by one block
each, dw by one block for 16 columns that walks over the rows: no atomics, the order is fixed.
Storage bfloat16 or float32, arithmetic float32; the residual stream (x, s, dx, ds) may be float32
beside bfloat16.
"""
import math

import numpy as np

from .block import BLOCK, COLUMNS, LANES, block_sum, lanes_sum, threads_for
from .cast import narrow, widen
from .cuda import cuda, float32, kernel
from .shapes import ceil_div, expect

LANES_BY_COLUMNS = (LANES, COLUMNS)


@kernel("s2 f1 s2 s1 f", "h2 f1 f2 h1 f", registers=48, threads=BLOCK)
def rmsnorm_forward_kernel(y, rstd, x, w, eps):
    """One block per row; a thread owns every blockDim-th channel."""
    row = cuda.blockIdx.x
    C = x.shape[1]
    partial = cuda.shared.array(BLOCK, float32)

    sumsq = float32(0.0)
    for c in range(cuda.threadIdx.x, C, cuda.blockDim.x):
        v = widen(x[row, c])
        sumsq += v * v
    sumsq = block_sum(partial, sumsq)

    r = float32(1.0) / float32(math.sqrt(sumsq / float32(C) + eps))
    if cuda.threadIdx.x == 0:
        rstd[row] = r
    for c in range(cuda.threadIdx.x, C, cuda.blockDim.x):
        y[row, c] = narrow(y, widen(x[row, c]) * r * widen(w[c]))


@kernel("s2 s2 f1 s2 s2 s1 f", "f2 h2 f1 f2 h2 h1 f", registers=48, threads=BLOCK)
def add_rmsnorm_forward_kernel(s, y, rstd, x, r, w, eps):
    """One block per row; a thread owns every blockDim-th channel and reads back its own s."""
    row = cuda.blockIdx.x
    C = x.shape[1]
    partial = cuda.shared.array(BLOCK, float32)

    sumsq = float32(0.0)
    for c in range(cuda.threadIdx.x, C, cuda.blockDim.x):
        s[row, c] = narrow(s, widen(x[row, c]) + widen(r[row, c]))
        v = widen(s[row, c])  # as stored: backward will see this value
        sumsq += v * v
    sumsq = block_sum(partial, sumsq)

    inverse = float32(1.0) / float32(math.sqrt(sumsq / float32(C) + eps))
    if cuda.threadIdx.x == 0:
        rstd[row] = inverse
    for c in range(cuda.threadIdx.x, C, cuda.blockDim.x):
        y[row, c] = narrow(y, widen(s[row, c]) * inverse * widen(w[c]))


@kernel("s2 s2 s2 s2 s1 f1 b", "f2 h2 f2 f2 h1 f1 b", registers=48, threads=BLOCK)
def input_gradient_kernel(dx, dy, ds, x, w, rstd, add):
    """One block per row; a thread owns every blockDim-th channel. With `add`, dx = ds + gradient;
    dx may be ds: a thread reads an element of ds before it writes the same one of dx."""
    row = cuda.blockIdx.x
    C = x.shape[1]
    partial = cuda.shared.array(BLOCK, float32)

    r = rstd[row]
    projection = float32(0.0)
    for c in range(cuda.threadIdx.x, C, cuda.blockDim.x):
        projection += widen(dy[row, c]) * widen(w[c]) * (widen(x[row, c]) * r)
    projection = block_sum(partial, projection) / float32(C)

    for c in range(cuda.threadIdx.x, C, cuda.blockDim.x):
        g = widen(dy[row, c]) * widen(w[c])
        v = r * (g - widen(x[row, c]) * r * projection)
        if add:
            v += widen(ds[row, c])
        dx[row, c] = narrow(dx, v)


@kernel("f1 s2 s2 f1 b", "f1 h2 f2 f1 b", registers=48, threads=COLUMNS * LANES)
def weight_gradient_kernel(dw, dy, x, rstd, accumulate):
    """One block per 16 columns; thread (i, j) owns column i of them in rows j, j + 16, ..."""
    c = cuda.blockIdx.x * COLUMNS + cuda.threadIdx.x
    partial = cuda.shared.array(LANES_BY_COLUMNS, float32)

    total = float32(0.0)
    if c < x.shape[1]:
        for row in range(cuda.threadIdx.y, x.shape[0], LANES):
            total += widen(dy[row, c]) * (widen(x[row, c]) * rstd[row])
    total = lanes_sum(partial, total)
    if cuda.threadIdx.y == 0 and c < x.shape[1]:
        if accumulate:
            total += dw[c]
        dw[c] = total


def rmsnorm_forward(y, rstd, x, w, eps, stream):
    """Shapes:  y (R, C) out;  rstd (R,) f32 out;  x (R, C);  w (C,)"""
    R, C = x.shape
    expect("rmsnorm_forward", y=(y, (R, C)), rstd=(rstd, (R,)), w=(w, (C,)))
    rmsnorm_forward_kernel[R, threads_for(C), stream](y, rstd, x, w, np.float32(eps))


def rmsnorm_backward(dx, dw, dy, x, w, rstd, accumulate, stream):
    """Shapes:  dx (R, C) out;  dw (C,) f32 in and out;  dy, x (R, C);  w (C,);  rstd (R,)"""
    _backward("rmsnorm_backward", dx, dw, dy, x, x, w, rstd, False, accumulate, stream)


def add_rmsnorm_forward(s, y, rstd, x, r, w, eps, stream):
    """s = x + r, then y = rmsnorm(s); the norm reads s as it was stored.

    Shapes:  s, y (R, C) out;  rstd (R,) f32 out;  x, r (R, C);  w (C,)
    """
    R, C = x.shape
    expect("add_rmsnorm_forward", s=(s, (R, C)), y=(y, (R, C)), rstd=(rstd, (R,)), r=(r, (R, C)),
           w=(w, (C,)))
    add_rmsnorm_forward_kernel[R, threads_for(C), stream](s, y, rstd, x, r, w, np.float32(eps))


def add_rmsnorm_backward(dx, dw, dy, ds, s, w, rstd, accumulate, stream):
    """dx = ds + the norm's gradient: both summands of s receive the same dx.

    dx may be ds itself.
    Shapes:  dx (R, C) out;  dw (C,) f32 in and out;  dy, ds, s (R, C);  w (C,);  rstd (R,)
    """
    _backward("add_rmsnorm_backward", dx, dw, dy, ds, s, w, rstd, True, accumulate, stream)


def _backward(op, dx, dw, dy, ds, x, w, rstd, add, accumulate, stream):
    R, C = x.shape
    expect(op, dx=(dx, (R, C)), dw=(dw, (C,)), dy=(dy, (R, C)), ds=(ds, (R, C)), w=(w, (C,)),
           rstd=(rstd, (R,)))
    input_gradient_kernel[R, threads_for(C), stream](dx, dy, ds, x, w, rstd, add)
    weight_gradient_kernel[ceil_div(C, COLUMNS), (COLUMNS, LANES), stream](
        dw, dy, x, rstd, bool(accumulate))
