"""Key gradients in parts: when they pay, and their sum.

A key tile with all query heads of its group is one item of attention_key_gradient.py. Where there
are fewer items than multiprocessors (4 x 512 with 2 key heads has 32 for 132), the heads of a group
go to several items. Each writes its part in float32, and a second kernel adds the parts in their
order: the same bits in every run.

Floor at 4 x 512, 14 heads, 7 parts: 10 blocks of 128 keys x 64 queries for the busiest
multiprocessor where it was 56; 15 MB of parts, written to and read from L2.
"""
from functools import cache

import numpy as np

from ..cuda import cuda, kernel
from ..ptx.barrier import let_next_start, wait_for_previous
from ..ptx.scalar import quotient
from ..ptx.vector import load_f32x4, make_store_bf16x4
from ..shapes import ceil_div
from ..workspace import workspace
from .attention_schedule import ROWS, i32

THREADS, AT_ONCE = 256, 4  # of a block; loads of a thread in flight
BLOCK_US, ITEM_US, SUM_US = 1.0, 1.5, 1.5  # a query block, an item's ends, the second launch
PART_BYTES_US = 4e6  # bytes of parts moved a microsecond
store_bf16x4 = make_store_bf16x4()


@kernel("p n p i i i", registers=32, threads=THREADS, blocks=8, architectures=("sm_90a",),
        overlap=True, name="attention_sum_parts")
def sum_parts_kernel(dkv, pitch, parts, count, R, C):
    """dkv (R, C) bfloat16, `pitch` bytes between rows: the sum of parts (count, R, C) float32. A
    thread owns 4 columns of a row."""
    let_next_start()
    wait_for_previous()
    i = i32(cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    row = quotient(i, C // 4)
    if row < R:
        column = 4 * (i - row * (C // 4))
        at, step = parts + (np.int64(row) * C + column) * 4, np.int64(R) * C * 4
        total = load_f32x4(at)
        for p in range(1, count, AT_ONCE):
            # all loads before the first sum; behind the last part it is read again, and not added
            x0 = load_f32x4(at + p * step)
            x1 = load_f32x4(at + min(p + 1, count - 1) * step)
            x2 = load_f32x4(at + min(p + 2, count - 1) * step)
            x3 = load_f32x4(at + min(p + 3, count - 1) * step)
            total = (total[0] + x0[0], total[1] + x0[1], total[2] + x0[2], total[3] + x0[3])
            if p + 1 < count:
                total = (total[0] + x1[0], total[1] + x1[1], total[2] + x1[2], total[3] + x1[3])
            if p + 2 < count:
                total = (total[0] + x2[0], total[1] + x2[1], total[2] + x2[2], total[3] + x2[3])
            if p + 3 < count:
                total = (total[0] + x3[0], total[1] + x3[1], total[2] + x3[2], total[3] + x3[3])
        store_bf16x4(dkv + row * pitch + column * 2, total)


def parts_scratch(count, rows, columns, stream):
    """Address of scratch memory for parts (count, rows, columns) f32; none for a single part."""
    if count == 1:
        return None
    return workspace("attention parts", count * rows * columns * 4, stream)


def sum_parts(dkv, pitch, parts, count, rows, columns, stream):
    """Write dkv from its parts; nothing to do for a single one, which is in place."""
    if count > 1:
        sum_parts_kernel[ceil_div(rows * columns // 4, THREADS), THREADS, stream](
            dkv, np.int64(pitch), parts, *map(np.int32, (count, rows, columns)))


@cache
def choose_parts(B, T, H, KVH, D, blocks):
    """Into how many items the query heads of a key tile are cut: the fastest as reckoned, for a
    grid of that many blocks."""
    def reckoned(count):
        part_bytes = 2 * count * B * T * 2 * KVH * D * 4  # written and read
        extra = SUM_US + part_bytes / PART_BYTES_US if count > 1 else 0
        return longest_us(B, T, H, KVH, count, blocks) + extra
    return min(range(1, H // KVH + 1), key=reckoned)


def longest_us(B, T, H, KVH, count, blocks):
    """Time of the busiest block when the items are dealt as in attention_schedule.py."""
    heads = [len(x) for x in np.array_split(np.arange(H // KVH), count)]  # of a part, larger first
    steps = np.array([n * (ceil_div(T, 64) - 2 * tile) for tile in range(ceil_div(T, ROWS))
                      for n in heads for _ in range(B * KVH)])
    items = np.zeros(ceil_div(len(steps), blocks) * blocks)
    items[:len(steps)] = ITEM_US + BLOCK_US * steps
    rounds = items.reshape(-1, blocks)
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds.sum(axis=0).max()
