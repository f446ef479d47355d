"""The wide half of a gated MLP on Hopper's tensor cores, SwiGLU in the epilogues of the products.

See kernels/linear_swiglu.py for the meaning. Forward, a tile is 96 columns of the gate and the
same 96 of up; backward, the tile of dh never leaves the registers. Against products and SwiGLU one
after the other, 16,384 rows of the Qwen2.5-0.5B shape move 0.32 GB less each way.
"""
import numpy as np

from ..launch import address, multiprocessors
from ..shapes import ceil_div, expect
from ..tensor_maps import tensor_map
from . import matmul as products
from .matmul import WIDE, matmul
from .matmul_kernel import DEPTH, ROWS, THREADS, make_matmul

WIDTH, BACK_WIDTH = 96, 128  # columns of the gate, and of up, in a tile
FORWARD = make_matmul("nt", 2 * WIDTH, "swiglu")
BACKWARD = make_matmul("nn", BACK_WIDTH, "swiglu_gradient")
GROUP = 16  # rows of tiles walked down before going right


def linear_swiglu_forward(h, gu, x, w, stream):
    """Shapes:  h (R, F) out;  gu (R, 2F) out;  x (R, C);  w (2F, C); all bf16"""
    (R, F), C = h.shape, x.shape[1]
    expect("linear_swiglu_forward", gu=(gu, (R, 2 * F)), x=(x, (R, C)), w=(w, (2 * F, C)))
    FORWARD[_grid(R, F, WIDTH), THREADS, stream](
        _map(x, 0, (R, C), (DEPTH, ROWS)), _map(w, 0, (F, C), (DEPTH, WIDTH)),
        _map(w, F * w.strides[0], (F, C), (DEPTH, WIDTH)), _chunks(FORWARD, h, 0, h.shape),
        _chunks(FORWARD, gu, 0, h.shape), _chunks(FORWARD, gu, F * WIDE, h.shape), None, None,
        np.int32(R), np.int32(F), np.int32(C), np.int64(0), np.int32(GROUP), None, None)


def swiglu_linear_backward(dgu, dh, dw, dy, gu, h, w, accumulate, stream):
    """Shapes:  dgu (R, 2F) out;  dh (R, F), not used here;  dw (C, F) f32 in and out;  dy (R, C);
    gu (R, 2F);  h (R, F);  w (C, F); bf16 where not said otherwise"""
    (R, F), C = h.shape, dy.shape[1]
    expect("swiglu_linear_backward", dgu=(dgu, (R, 2 * F)), dw=(dw, (C, F)), dy=(dy, (R, C)),
           gu=(gu, (R, 2 * F)), w=(w, (C, F)))
    BACKWARD[_grid(R, F, BACK_WIDTH), THREADS, stream](
        _map(dy, 0, (R, C), (DEPTH, ROWS)), _map(w, 0, (C, F), (64, 64)),
        _chunks(BACKWARD, gu, 0, h.shape), _chunks(BACKWARD, gu, F * WIDE, h.shape),
        _chunks(BACKWARD, dgu, 0, h.shape), _chunks(BACKWARD, dgu, F * WIDE, h.shape), None, None,
        np.int32(R), np.int32(F), np.int32(C), np.int64(0), np.int32(GROUP), None, None)
    matmul("tn", "add" if accumulate else "plain", dw, dy, h, None, stream)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    if len(arguments) == 4:
        h, gu, x, w = arguments
        return products.misfit("nt", gu, x, w) or products.misfit("nt", h, x, w)
    dgu, _, dw, dy, gu, h, w, _ = arguments
    return (products.misfit("nn", h, dy, w) or products.misfit("nn", dgu, dy, gu)
            or products.misfit("tn", dw, dy, h))


def _grid(R, F, width):
    return min(multiprocessors(), ceil_div(R, ROWS) * ceil_div(F, width))


def _map(x, offset, shape, box):
    """Map of a part of x that starts `offset` bytes in."""
    return tensor_map(address(x) + offset, shape[::-1], (x.strides[0],), box)


def _chunks(kernel, x, offset, shape):
    """The same for what the kernel stages: 64 rows of one chunk."""
    columns = kernel.g.chunk_columns
    return tensor_map(address(x) + offset, shape[::-1], (x.strides[0],), (columns, 64),
                      columns * WIDE)
