"""The wide half of a gated MLP on Hopper's tensor cores, SwiGLU in the epilogues of the products.

See kernels/linear_swiglu.py for the meaning. Forward, a tile is 128 columns of the gate and the
same 128 of up; backward, the tile of dh never leaves the registers. Against products and SwiGLU one
after the other, 16,384 rows of the Qwen2.5-0.5B shape move 0.32 GB less each way.
"""
import numpy as np

from ..launch import multiprocessors
from ..shapes import ceil_div, expect
from ..tensor_maps import tensor_map
from . import matmul as products
from .matmul import matmul
from .matmul_kernel import DEPTH, ROWS, THREADS, make_matmul

WIDTH = 128  # columns of the gate, and of up, in a tile
FORWARD = make_matmul("nt", 2 * WIDTH, "swiglu")
BACKWARD = make_matmul("nn", WIDTH, "swiglu_gradient")
GROUP = 16  # rows of tiles walked down before going right


def linear_swiglu_forward(h, gu, x, w, stream):
    """Shapes:  h (R, F) out;  gu (R, 2F) out;  x (R, C);  w (2F, C); all bf16"""
    (R, F), C = h.shape, x.shape[1]
    expect("linear_swiglu_forward", gu=(gu, (R, 2 * F)), x=(x, (R, C)), w=(w, (2 * F, C)))
    gate, up = _map(w[:F], (DEPTH, WIDTH)), _map(w[F:], (DEPTH, WIDTH))
    left, right = _map(gu[:, :F], (64, 64)), _map(gu[:, F:], (64, 64))
    FORWARD[_grid(R, F), THREADS, stream](
        _map(x, (DEPTH, ROWS)), gate, up, left, right, _map(h, (64, 64)), None, None, np.int32(R),
        np.int32(F), np.int32(C), np.int64(0), np.int32(GROUP), None, None)


def swiglu_linear_backward(dgu, dh, dw, dy, gu, h, w, accumulate, stream):
    """Shapes:  dgu (R, 2F) out;  dh (R, F), not used here;  dw (C, F) f32 in and out;  dy (R, C);
    gu (R, 2F);  h (R, F);  w (C, F); bf16 where not said otherwise"""
    (R, F), C = h.shape, dy.shape[1]
    expect("swiglu_linear_backward", dgu=(dgu, (R, 2 * F)), dw=(dw, (C, F)), dy=(dy, (R, C)),
           gu=(gu, (R, 2 * F)), w=(w, (C, F)))
    left, right = _map(dgu[:, :F], (64, 64)), _map(dgu[:, F:], (64, 64))
    BACKWARD[_grid(R, F), THREADS, stream](
        _map(dy, (DEPTH, ROWS)), _map(w, (64, 64)), None, left, right, None, None, gu, np.int32(R),
        np.int32(F), np.int32(C), np.int64(gu.strides[0]), np.int32(GROUP), None, None)
    matmul("tn", "add" if accumulate else "plain", dw, dy, h, None, stream)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    if len(arguments) == 4:
        h, gu, x, w = arguments
        return products.misfit("nt", gu, x, w) or products.misfit("nt", h, x, w)
    dgu, _, dw, dy, gu, h, w, _ = arguments
    return (products.misfit("nn", h, dy, w) or products.misfit("nn", dgu, dy, gu)
            or products.misfit("tn", dw, dy, h))


def _grid(R, F):
    return min(multiprocessors(), ceil_div(R, ROWS) * ceil_div(F, WIDTH))


def _map(x, box):
    return tensor_map(x, (x.shape[1], x.shape[0]), (x.strides[0],), box)
