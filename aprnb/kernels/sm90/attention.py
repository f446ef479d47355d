"""Causal grouped-query attention on Hopper's tensor cores; equations in kernels/attention.py.

bfloat16, head dimension 64 or 128, any length, batch and number of heads. q, k and v are read from
the packed projection, and their gradients written to it, through tensor maps of three dimensions:
(heads * D of one kind, T, B), so that a tile never reaches into the next sequence. p and ds are
rounded to bfloat16 before they are multiplied; maxima, sums and exponentials are float32.
"""
import numpy as np

from ..launch import address, multiprocessors
from ..shapes import ceil_div, expect, key_heads
from ..tensor_maps import tensor_map
from ..workspace import workspace
from .attention_backward_128 import backward_128
from .attention_delta import POSITIONS, delta_kernel
from .attention_forward import FORWARD
from .attention_key_gradient import key_gradient_kernel
from .attention_parts import choose_parts, parts_scratch, sum_parts
from .attention_query_gradient import query_gradient_kernel
from .attention_schedule import LOG2_E, ROWS, THREADS

WIDE = 2  # bytes of bfloat16


def attention_forward(o, lse, qkv, stream):
    """Shapes:  o (B, T, H, D) out;  lse (B, H, T) f32 out;  qkv (B, T, H + 2 KVH, D)

    Errors:  ShapeError if the heads do not group.
    """
    B, T, H, D = o.shape
    KVH = key_heads("attention_forward", o, qkv)
    expect("attention_forward", lse=(lse, (B, H, T)), qkv=(qkv, (B, T, H + 2 * KVH, D)))
    grid = min(multiprocessors(), ceil_div(T, ROWS) * H * B)
    FORWARD[D][grid, THREADS, stream](
        _heads(qkv, 0, H, ROWS), _heads(qkv, H, KVH, ROWS), _heads(qkv, H + KVH, KVH, ROWS),
        _heads(o, 0, H, 64), lse, *map(np.int32, (B, T, H, H // KVH)),
        np.float32(D ** -0.5 * LOG2_E))


def attention_backward(dqkv, delta, do, qkv, o, lse, stream):
    """Shapes:  dqkv (B, T, H + 2 KVH, D) out;  delta (B, H, T) f32 scratch;
                do, o (B, T, H, D);  qkv as forward;  lse (B, H, T) f32

    Errors:  ShapeError if the heads do not group.
    """
    B, T, H, D = o.shape
    KVH = key_heads("attention_backward", o, qkv)
    packed, rows = (B, T, H + 2 * KVH, D), (B, H, T)
    expect("attention_backward", dqkv=(dqkv, packed), delta=(delta, rows), do=(do, o.shape),
           qkv=(qkv, packed), lse=(lse, rows))
    lse2, padded_delta = _padded_rows(B, T, H, stream)
    if D == 128:
        Tp = ceil_div(T, ROWS) * ROWS
        delta_kernel[Tp // POSITIONS * B, 256, stream](
            delta, padded_delta, lse2, o, do, lse, *map(np.int32, (T, Tp, H)))
        backward_128(dqkv, padded_delta, lse2, do, qkv, stream)
    else:
        _backward_64(dqkv, delta, padded_delta, lse2, do, qkv, o, lse, stream)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    for x in arguments:
        if len(x.shape) == 4 and str(x.dtype) != "bfloat16":
            return f"{x.dtype} storage, these kernels have bfloat16"
    D = arguments[0].shape[3]
    return None if D in FORWARD else f"head dimension {D}, these kernels have 64 and 128"


def _padded_rows(B, T, H, stream):
    """(lse in base 2, delta): addresses of (B, H, Tp) f32 each, T padded to whole tiles."""
    nbytes = B * H * ceil_div(T, ROWS) * ROWS * 4
    lse2 = workspace("attention rows", 2 * nbytes, stream)
    return lse2, lse2 + nbytes


def _backward_64(dqkv, delta, padded_delta, lse2, do, qkv, o, lse, stream):
    B, T, H, D = do.shape
    KVH = (qkv.shape[2] - H) // 2
    tiles, G = ceil_div(T, ROWS), H // KVH
    c, scale = np.float32(D ** -0.5 * LOG2_E), np.float32(D ** -0.5)
    query_gradient_kernel[min(multiprocessors(), tiles * H * B), THREADS, stream](
        _heads(qkv, 0, H, ROWS), _heads(do, 0, H, ROWS), _heads(o, 0, H, ROWS),
        _heads(qkv, H, KVH, ROWS), _heads(qkv, H + KVH, KVH, ROWS), _heads(dqkv, 0, H, 64), lse,
        delta, lse2, padded_delta, *map(np.int32, (B, T, tiles * ROWS, H, G)), c, scale)
    parts = choose_parts(B, T, H, KVH, D, multiprocessors())
    columns, pitch = 2 * KVH * D, qkv.shape[2] * D * WIDE
    sums = parts_scratch(parts, B * T, columns, stream)
    key_gradient_kernel[min(multiprocessors(), tiles * KVH * B * parts), THREADS, stream](
        _heads(qkv, 0, H, 64), _heads(do, 0, H, 64), _heads(dqkv, H, KVH, 64),
        _heads(dqkv, H + KVH, KVH, 64), _first(qkv, H), _first(qkv, H + KVH), np.int64(pitch),
        lse2, padded_delta, sums, *map(np.int32, (B, T, tiles * ROWS, KVH, G, parts)), c, scale)
    sum_parts(_first(dqkv, H), pitch, sums, parts, B * T, columns, stream)


def _first(packed, head):
    """Address of a head at the first position of (B, T, all heads, D)."""
    return address(packed) + head * packed.shape[3] * WIDE


def _heads(packed, first, heads, rows):
    """Tensor map of some neighbouring heads of (B, T, all heads, D), boxes of 64 x rows."""
    B, T, every, D = packed.shape
    pitch = every * D * WIDE
    return tensor_map(_first(packed, first), (heads * D, T, B), (pitch, T * pitch),
                      (64, rows, 1))
