"""Loss and gradient of a chunk of logits, in place; the part of linear_cross_entropy between its
products, whose equations stand in kernels/linear_cross_entropy.py. bfloat16.

In units of log 2, with x the logits times log2(e), one pass keeps a running maximum m and the sum
s of 2^(x - m); threads and warps then merge theirs in a fixed order. With L = m + log2(s) the
gradient is scale * (2^(x - L) - onehot). The target's element is left to the thread that owns it.

    resident    one block a multiprocessor goes from row to row and holds its row on the chip, 224
                KB in shared memory and the rest in registers; what it has written makes room for
                the next row, which is on its way at once. Every byte is read and written once
    streaming   one block a row reads it twice, the second time mostly out of L2; any length

4,096 rows of 151,936: resident 2.49 GB, 0.59 ms at 4.25 TB/s; streaming 3.73 GB through L2. Either
takes 320,000 exponentials a row, 11 us of the 19 us that a multiprocessor has for a row.
"""
import math

import numpy as np

from ..cuda import cuda, device, float32, kernel
from ..launch import multiprocessors, this_architecture
from ..ptx.barrier import overlap_previous
from ..ptx.mma import commit_copies, make_copy, wait_copies
from ..ptx.scalar import (ex2, fma, lg2, load_bf16, load_f32, load_i32, maximum, shared_address,
                          shuffle_xor, store_bf16, store_f32)
from ..ptx.share import STREAMED, each, make_get, make_largest, make_load, make_store
from ..shapes import expect

THREADS = 1024  # of a block: 32 warps, so that a warp can hold something of each
WARPS = THREADS // 32
TILE = 16 * THREADS  # bytes of a row: a vector for every thread
GROUP, GROUPS = 2, 7  # vectors of a thread that are copied together; groups in shared memory
HELD = 5  # and vectors of a thread in registers
LAG = 2  # groups of copies in flight while an older one is read
AHEAD = 4  # vectors that a thread of the streaming kernel has in flight
LOG2E, LN2 = float32(1 / math.log(2)), float32(math.log(2))
LOWEST = float32(-3e38)  # of running maxima: finite, so that -inf - maximum is never NaN
MINUS_INFINITY = 0xFF80FF80  # two of bfloat16
RESIDENT = range(8 * THREADS * GROUP * GROUPS, 8 * THREADS * (GROUP * GROUPS + HELD) + 8)

copy, get = make_copy(GROUP, THREADS, TILE), make_get(GROUP, TILE)
wait_for_oldest = wait_copies(LAG)


def make_part(vectors):
    """(load, fold, store) of `vectors` vectors of a thread, TILE bytes apart.

    load(address, left)                            logits; behind the end minus infinity
    fold(m, s, x)                                  running maximum and sum with these logits
    store(address, left, x, shift, factor, live)   their gradient in their place
    """
    load_words = make_load(vectors, STREAMED, MINUS_INFINITY)
    store_words = make_store(vectors, ".cs")
    largest = make_largest(vectors)

    @each(8 * vectors, "p s -> s")
    def exponentials(x, shift):
        return (x * LOG2E - shift).exp2()

    @each(8 * vectors, "q s s -> p")
    def gradient(x, shift, factor):
        return (x * LOG2E - shift).exp2() * factor

    @each(8 * vectors, "p s -> p")
    def filled(x, value):
        return value

    @device
    def load(address, left):
        return load_words(address, TILE, THREADS, left)

    @device
    def fold(m, s, x):
        top = maximum(m, largest(x) * LOG2E)
        return top, s * ex2(m - top) + exponentials(x, top)

    @device
    def store(address, left, x, shift, factor, live):
        words = gradient(x, shift, factor) if live else filled(x, float32(0.0))
        store_words(address, TILE, THREADS, left, words)
    return load, fold, store


load_some, fold_some, store_some = make_part(AHEAD)
load_held, fold_held, store_held = make_part(HELD)
_, fold_group, store_group = make_part(GROUP)


@device
def merge(m, s):
    """Maximum and sum of the lanes of a warp; every lane receives them."""
    top = m
    for step in (16, 8, 4, 2, 1):
        top = maximum(top, shuffle_xor(top, step))
    s *= ex2(m - top)
    for step in (16, 8, 4, 2, 1):
        s += shuffle_xor(s, step)
    return top, s


@device
def merge_block(tops, sums, m, s):
    """Maximum and sum of all threads, through a set of 32 and 32 floats; the next set but one may
    be the same."""
    m, s = merge(m, s)
    if cuda.threadIdx.x & 31 == 0:
        tops[cuda.threadIdx.x >> 5], sums[cuda.threadIdx.x >> 5] = m, s
    cuda.syncthreads()  # every warp's maximum and sum stand; the row's target has been read
    return merge(tops[cuda.threadIdx.x & 31], sums[cuda.threadIdx.x & 31])


@device
def begin(row, V):
    """A thread's maximum and sum, over its element of the V % 8 behind the row's vectors."""
    x = float32(-math.inf)
    if cuda.threadIdx.x < V & 7:
        x = load_bf16(row + np.uint64(2 * ((V & ~7) + cuda.threadIdx.x)))
    m = maximum(LOWEST, x * LOG2E)
    return m, ex2(fma(x, LOG2E, -m))


@device
def loss_of(target, logit, m, s):
    if target < 0:
        return float32(0.0)
    return fma(-logit, LOG2E, m) * LN2 + float32(math.log(s))


@device
def finish(row, V, target, loss, shift, factor):
    """The gradient outside whole vectors: of the last V % 8 logits, and the onehot."""
    live, t, place = target >= 0, np.int32(cuda.threadIdx.x), max(target, 0)
    if t < V & 7:
        at = row + np.uint64(2 * ((V & ~7) + t))
        p = ex2(fma(load_bf16(at), LOG2E, -shift))
        store_bf16(at, p * factor if live else float32(0.0))
    # the thread that has stored this element already, without its onehot
    if live and t == (place & 7 if place >= V & ~7 else (place >> 3) & (THREADS - 1)):
        store_bf16(row + np.uint64(2 * target), (ex2(-loss * LOG2E) - float32(1.0)) * factor)


@kernel("p p p p n i b", registers=64, threads=THREADS, overlap=True)
def cross_entropy_streaming_kernel(losses, logits, targets, scale, pitch, V, differentiate):
    """One block per row; a thread owns every THREADS-th vector of 8 logits."""
    overlap_previous()
    tops, sums = cuda.shared.array(WARPS, float32), cuda.shared.array(WARPS, float32)
    t, index = np.int32(cuda.threadIdx.x), cuda.blockIdx.x
    row = logits + np.uint64(np.int64(index) * pitch)
    target = load_i32(targets + np.uint64(4 * index))
    logit = load_bf16(row + np.uint64(2 * max(target, 0)))
    m, s = begin(row, V)
    at, left = row + np.uint64(16 * t), np.int32((V >> 3) - t)
    while left > 0:
        m, s = fold_some(m, s, load_some(at, left))
        at += np.uint64(AHEAD * TILE)
        left = np.int32(left - AHEAD * THREADS)
    m, s = merge_block(tops, sums, m, s)
    loss = loss_of(target, logit, m, s)
    if t == 0:
        store_f32(losses + np.uint64(4 * index), loss)
    if differentiate:
        shift, factor, live = m + lg2(s), load_f32(scale), target >= 0
        at, left = row + np.uint64(16 * t), np.int32((V >> 3) - t)
        while left > 0:
            store_some(at, left, load_some(at, left), shift, factor, live)
            at += np.uint64(AHEAD * TILE)
            left = np.int32(left - AHEAD * THREADS)
        finish(row, V, target, loss, shift, factor)


@device
def fold_from(group, m, s, slots):
    """Maximum and sum with the groups from this one on, each as soon as it has arrived."""
    while group < GROUPS:
        commit_copies()  # nothing, in place of the group that is awaited
        wait_for_oldest()
        m, s = fold_group(m, s, get(slots + np.uint32(group * GROUP * TILE)))
        group = np.int32(group + 1)
    return m, s


@kernel("p p p p n i i b", registers=64, threads=THREADS, shared=TILE * GROUP * GROUPS + 128,
        architectures=("sm_90a",), overlap=True)
def cross_entropy_resident_kernel(losses, logits, targets, scale, pitch, R, V, differentiate):
    """A block takes every gridDim-th row; a thread owns every THREADS-th vector of 8 logits, the
    first GROUP * GROUPS of them in shared memory, where no other thread reads or writes them.

    While the gradient of a row leaves, group by group, the next row comes into the same places, and
    what has come LAG groups ago is added to its sum.
    """
    overlap_previous()
    tops, sums = cuda.shared.array((2, WARPS), float32), cuda.shared.array((2, WARPS), float32)
    t, index, turn = np.int32(cuda.threadIdx.x), np.int32(cuda.blockIdx.x), np.int32(0)
    base = (shared_address(cuda.shared.array(0, np.uint8)) + 127) & 0xFFFFFF80
    slots = np.uint32(base + 16 * t)
    factor = load_f32(scale) if differentiate else float32(0.0)
    step = np.uint64(np.int64(cuda.gridDim.x) * pitch)
    left = np.int32((V >> 3) - THREADS * GROUP * GROUPS - t)  # of the vectors in registers
    row = logits + np.uint64(np.int64(index) * pitch)
    for group in range(GROUPS):
        copy(slots + np.uint32(group * GROUP * TILE),
             row + np.uint64(group * GROUP * TILE + 16 * t), TILE, GROUP * THREADS, 16)
        commit_copies()
    held = load_held(row + np.uint64(GROUPS * GROUP * TILE + 16 * t), left)
    m, s = begin(row, V)
    m, s = fold_from(np.int32(0), m, s, slots)
    while index < R:
        target = load_i32(targets + np.uint64(4 * index))
        logit = load_bf16(row + np.uint64(2 * max(target, 0)))
        m, s = fold_held(m, s, held)
        m, s = merge_block(tops[turn], sums[turn], m, s)
        loss, shift, live = loss_of(target, logit, m, s), m + lg2(s), target >= 0
        if t == 0:
            store_f32(losses + np.uint64(4 * index), loss)

        at, following = row + np.uint64(16 * t), row + step
        index, turn = np.int32(index + cuda.gridDim.x), turn ^ 1
        more = index < R
        if differentiate:
            store_held(at + np.uint64(GROUPS * GROUP * TILE), left, held, shift, factor, live)
        if more:
            held = load_held(at + step + np.uint64(GROUPS * GROUP * TILE), left)
            m, s = begin(following, V)
        for group in range(GROUPS):
            slot = slots + np.uint32(group * GROUP * TILE)
            if differentiate:
                store_group(at, GROUP * THREADS, get(slot), shift, factor, live)
            if more:
                copy(slot, at + step, TILE, GROUP * THREADS, 16)
            commit_copies()
            if group >= LAG and more:
                wait_for_oldest()
                m, s = fold_group(m, s, get(slot - np.uint32(LAG * GROUP * TILE)))
            at += np.uint64(GROUP * TILE)
        if differentiate:
            finish(row, V, target, loss, shift, factor)
        if more:
            m, s = fold_from(np.int32(GROUPS - LAG), m, s, slots)
        row = following


def cross_entropy(losses, logits, targets, scale, differentiate, stream, resident=None):
    """Losses in nats and, with `differentiate`, the gradients of scale * sum(losses) in the place
    of the logits. A row with a negative target has loss 0 and no gradient.

    resident: True or False for one of the two kernels; None takes the better one that fits.
    Shapes:  losses (R,) f32 out;  logits (R, V) bf16 in and out, with any row stride of whole
             vectors of 8; what lies between V and the stride is neither read for the result nor
             written;  targets (R,) i32, each below V;  scale (1,) f32, read with `differentiate`
    """
    R, V = logits.shape
    expect("cross_entropy", losses=(losses, (R,)), targets=(targets, (R,)))
    pitch = np.int64(logits.strides[0])
    if resident is None:
        resident = V in RESIDENT and this_architecture() == "sm_90a"
    if resident:
        cross_entropy_resident_kernel[min(R, multiprocessors()), THREADS, stream](
            losses, logits, targets, scale, pitch, np.int32(R), np.int32(V), bool(differentiate))
    else:
        cross_entropy_streaming_kernel[R, THREADS, stream](
            losses, logits, targets, scale, pitch, np.int32(V), bool(differentiate))


def misfit(losses, logits, targets, scale, differentiate):
    """Why a chunk cannot be served, or None."""
    if str(logits.dtype) != "bfloat16":
        return f"{logits.dtype} logits, these kernels have bfloat16"
    if logits.strides[0] % 16:
        return f"rows of {logits.strides[0]} bytes, these kernels take multiples of 16"
    return None
