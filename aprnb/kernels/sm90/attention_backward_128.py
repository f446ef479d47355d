"""Backward pass of causal grouped-query attention, head_dim 128, on Hopper's tensor cores.

Equations in kernels/attention.py; delta and the base-2 log-sum-exp come from attention_delta.py.
Two launches, no atomics: attention_keys_128 owns keys and makes dK and dV, attention_queries_128
owns query rows and makes dQ. What the second needs of the first's work is dS. It is

    kept        in memory, as bfloat16, to which it is rounded for its products anyway: 5 products,
                and 4 bytes of traffic an element of the causal half square. The writes fill a
                memory system that is idle beside the products; the reads bound dQ.
    recomputed  7 products, no memory: where dS of a single key head exceeds KEPT_BYTES.

Where dS is recomputed, the warpgroups of both kernels issue their products in turns, where it is
kept, they do not: as measured on an H200, microseconds of the pass at the three sizes below,

                    no turns            in turns
    kept            282 / 513 /  971    288 / 531 / 1006
    recomputed      341 / 616 / 1178    339 / 591 / 1089

Groups (a sequence and a key head) are worked on in rounds, so that their dS fits into KEPT_BYTES.

Floor at 16 x 1024 / 8 x 2048 / 4 x 4096, 12 query heads on 2 key heads; products at 620 TFLOP/s
with diagonal blocks of 64 whole and 97 % of an even share, memory at 4.25 TB/s, microseconds:

    dK, dV          110 / 213 / 419 GFLOP        182 / 354 / 697
    dQ of kept dS   214 / 415 / 818 MB            50 /  98 / 193
    recomputed dQ    82 / 159 / 314 GFLOP        137 / 264 / 522
"""
from functools import cache
from typing import NamedTuple

import numpy as np

from ..launch import address, multiprocessors
from ..ptx.transposed import TILE
from ..shapes import ceil_div
from ..tensor_maps import tensor_map
from ..workspace import workspace
from .attention_keys_128 import BLOCK, D, KEY_GRADIENTS
from .attention_parts import choose_parts, parts_scratch, sum_parts
from .attention_queries_128 import HEADS, query_gradients, query_gradients_recomputed
from .attention_schedule import LOG2_E, ROWS, THREADS

KEPT_BYTES = 1 << 30  # of dS at most, in scratch memory
WIDE = 2  # bytes of bfloat16
C, SCALE = np.float32(D ** -0.5 * LOG2_E), np.float32(D ** -0.5)


class Plan(NamedTuple):
    """How one shape is worked on."""

    groups: int
    """Sequences and key heads in a round."""
    kept_bytes: int
    """Of dS in a round; 0: recomputed."""
    parts: int
    """Items that the query heads of a group are cut into for dK and dV."""


def backward_128(dqkv, delta, lse2, do, qkv, stream, keep=True):
    """Write the gradients of q, k and v; unless keep, dS is always recomputed.

    Shapes:  dqkv (B, T, H + 2 KVH, 128) out;  delta, lse2 (B, H, Tp) f32, addresses, Tp = T up to
             whole tiles of 128, where delta is 0 and lse2 +inf;  do (B, T, H, 128);  qkv as dqkv
    Units:   lse2 is the log-sum-exp in base 2
    """
    B, T, H, _ = do.shape
    KVH = (qkv.shape[2] - H) // 2
    blocks = multiprocessors()
    plan = choose_plan(B, T, H, KVH, blocks, keep)
    tiles, groups = ceil_div(T, ROWS), B * KVH
    kept = workspace("attention slopes", plan.kept_bytes, stream) if plan.kept_bytes else None
    sums = parts_scratch(plan.parts, B * T, 2 * KVH * D, stream)
    maps = _map(qkv), _map(do), _map(dqkv)
    for first in range(0, groups, plan.groups):
        together = min(plan.groups, groups - first)
        items = tiles * together * plan.parts
        KEY_GRADIENTS[kept is not None][min(blocks, items), THREADS, stream](
            *maps, lse2, delta, kept, sums, *map(np.int32, (
                B, T, tiles * ROWS, H, KVH, first, together, plan.parts)), C, SCALE)
        if kept is not None:
            items = tiles * together * ceil_div(H // KVH, HEADS)
            query_gradients[min(blocks, items), THREADS, stream](
                maps[0], maps[2], kept, *map(np.int32, (T, H, KVH, first, together)), SCALE)
    if kept is None:
        query_gradients_recomputed[min(blocks, tiles * B * H), THREADS, stream](
            *maps, lse2, delta, *map(np.int32, (B, T, tiles * ROWS, H, KVH)), C, SCALE)
    sum_parts(address(dqkv) + H * D * WIDE, qkv.shape[2] * D * WIDE, sums, plan.parts, B * T,
              2 * KVH * D, stream)


@cache
def choose_plan(B, T, H, KVH, blocks, keep=True):
    """Rounds of about equal size; parts where the key tiles of a round are few or unequal for a
    grid of that many blocks."""
    rows, groups, G = ceil_div(T, BLOCK), B * KVH, H // KVH
    group_bytes = G * (rows * (rows + 1) // 2) * TILE
    most = KEPT_BYTES // group_bytes if keep else 0
    together = ceil_div(groups, ceil_div(groups, most)) if most else groups
    return Plan(together, together * group_bytes if most else 0,
                choose_parts(1, T, G * together, together, D, blocks))


def _map(packed):
    """Tensor map of (B, T, heads, 128) in boxes of 64 rows x 64 columns."""
    B, T, heads, _ = packed.shape
    pitch = heads * D * WIDE
    return tensor_map(packed, (heads * D, T, B), (pitch, T * pitch), (64, BLOCK, 1))
