"""Reductions in a fixed order: the same input gives the same bytes on every run."""
import math

import numpy as np

from .block import BLOCK, COLUMNS, LANES, block_sum, lanes_sum
from .cast import widen
from .cuda import cuda, float32, kernel
from .shapes import ceil_div, expect

LANES_BY_COLUMNS = (LANES, COLUMNS)


@kernel("f1 s2 b", registers=32, threads=COLUMNS * LANES)
def column_sum_kernel(out, x, accumulate):
    """One block per 16 columns; thread (i, j) owns column i of them in rows j, j + 16, ..."""
    c = cuda.blockIdx.x * COLUMNS + cuda.threadIdx.x
    partial = cuda.shared.array(LANES_BY_COLUMNS, float32)

    total = float32(0.0)
    if c < x.shape[1]:
        for row in range(cuda.threadIdx.y, x.shape[0], LANES):
            total += widen(x[row, c])
    total = lanes_sum(partial, total)
    if cuda.threadIdx.y == 0 and c < x.shape[1]:
        if accumulate:
            total += out[c]
        out[c] = total


@kernel("f1 s1", registers=32, threads=BLOCK)
def sum_of_squares_kernel(partials, x):
    """One block per part; a thread owns every blockDim-th element of the part."""
    n = x.shape[0]
    part = (n + partials.shape[0] - 1) // partials.shape[0]
    start = cuda.blockIdx.x * part
    partial = cuda.shared.array(BLOCK, float32)

    total = float32(0.0)
    for i in range(start + cuda.threadIdx.x, min(start + part, n), cuda.blockDim.x):
        v = widen(x[i])
        total += v * v
    total = block_sum(partial, total)
    if cuda.threadIdx.x == 0:
        partials[cuda.blockIdx.x] = total


@kernel("f1 f1 f1 f", registers=32, threads=BLOCK)
def clip_factor_kernel(norm, clip, partials, max_norm):
    """One block; a thread owns every blockDim-th partial."""
    partial = cuda.shared.array(BLOCK, float32)

    total = float32(0.0)
    for i in range(cuda.threadIdx.x, partials.shape[0], cuda.blockDim.x):
        total += partials[i]
    length = float32(math.sqrt(block_sum(partial, total)))
    if cuda.threadIdx.x == 0:
        norm[0] = length
        clip[0] = float32(1.0)
        if max_norm > float32(0.0) and not max_norm / (length + float32(1e-6)) > float32(1.0):
            clip[0] = max_norm / (length + float32(1e-6))  # NaN too when the norm is NaN


def column_sum(out, x, accumulate, stream):
    """out[c] (+)= sum over rows of x[r, c]: the gradient of a broadcast bias.

    Shapes:  out (C,) f32 in and out;  x (R, C) bf16|f32
    """
    C = x.shape[1]
    expect("column_sum", out=(out, (C,)))
    column_sum_kernel[ceil_div(C, COLUMNS), (COLUMNS, LANES), stream](out, x, bool(accumulate))


def sum_of_squares(partials, x, stream):
    """partials[p] = sum of x^2 over the p-th of len(partials) equal, contiguous parts of x.

    The last parts are shorter, or empty, when the length does not divide.
    Shapes:  partials (P,) f32 out;  x (n,) f32
    """
    sum_of_squares_kernel[partials.shape[0], BLOCK, stream](partials, x)


def clip_factor(norm, clip, partials, max_norm, stream):
    """Global L2 norm of the gradient and the factor that brings it down to max_norm.

        norm = sqrt(sum partials)      clip = min(1, max_norm / (norm + 1e-6))

    max_norm = 0 switches clipping off (clip = 1). The 1e-6 is PyTorch's (clip_grad_norm_).
    Shapes:  norm (1,) f32 out;  clip (1,) f32 out;  partials (P,) f32
    """
    expect("clip_factor", norm=(norm, (1,)), clip=(clip, (1,)))
    clip_factor_kernel[1, BLOCK, stream](norm, clip, partials, np.float32(max_norm))
