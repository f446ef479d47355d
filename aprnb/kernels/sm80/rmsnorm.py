"""RMSNorm, alone and fused with the residual add, at the speed of memory; bfloat16, and beside it
a residual stream (x, s, dx, ds) in float32.

Equations and arguments: kernels/rmsnorm.py. Each array is read once and written once: a row is
held in registers, 4 vectors a thread, between its sum and its output. A vector is 16 bytes of the
residual stream, 8 elements or 4, and as many elements of the other arrays. A row has a warp up to
1,024 columns (512 of float32), else 2, 4 or 8 warps, which meet in shared memory; a block of 256
threads holds the rows that fit.

Backward has one block on a multiprocessor, with 255 registers a thread: the weights and the weight
gradient's sums of its columns stay there over all the rows that it goes over, as float32, and of a
row x and the product rstd * dy * w between the row's sum and its output. The blocks' sums are then
added in a fixed order (columns.py).

Bytes moved at 16,384 x 896, and at 4.25 TB/s:  forward 59 MB, 14 us;  with add 117 MB, 28 us;
backward with add 117 MB, 28 us, and 1 MB of partial sums, twice.  With a float32 stream 88 MB,
21 us;  176 MB, 41 us;  205 MB, 48 us.
"""
import math
from types import SimpleNamespace

import numpy as np

from ..cuda import ALIGNMENT, cuda, device, float32, kernel
from ..launch import multiprocessors
from ..ptx.barrier import named_sync, overlap_previous
from ..ptx.mma import commit_copies, make_copy, wait_copies
from ..ptx.scalar import (load_f32, load_shared_f32, shared_address, shuffle_from, shuffle_xor,
                          store_f32, store_shared_f32)
from ..ptx.share import STREAMED, each, make_get, make_load, make_put, make_store, make_zeros
from ..shapes import ceil_div, expect
from .columns import add_parts, block_sums, store_block_sums
from .fit import misfit_of_rows

THREADS = 256
VECTORS = 4  # of 16 bytes of the residual stream, a thread
ARRAY = 16 * VECTORS * THREADS  # bytes of what a block holds of one array
STAGE, STAGES = 3 * ARRAY, 2  # dy, x and ds of one row a thread; rows on their way
WARPS = THREADS // 32
TWO_SETS, SET = 2 * WARPS, 4 * WARPS  # floats, bytes of one: sums that warps exchange

wait_for_row, wait_for_all = wait_copies(STAGES - 1), wait_copies(0)


def make_form(item, tag):
    """How a thread holds its share of a row of a residual stream with `item` bytes an element, 2 or
    4: sizes, loads, stores and formulas, as a namespace. tag: in the kernels' names.

    width    elements of a vector, 1 << shift
    size     bytes of a vector of the arrays beside the stream: y, dy, r, w, bfloat16
    """
    width, kind = 16 // item, {2: "p", 4: "w"}[item]
    size, count = 2 * width, width * VECTORS

    @each(count, f"{kind} p -> {kind}")
    def plus(x, r):
        return x + r

    @each(count, f"{kind} -> s")
    def square_sum(v):
        return v * v

    @each(count, f"{kind} s p -> p")
    def normalised(v, rstd, w):
        return v * rstd * w

    @each(count, f"f p p {kind} s -> f f s")
    def projected(dw, dy, w, v, rstd):
        scaled = dy * rstd
        inner = scaled * w
        return dw + scaled * v, inner, inner * v

    @each(count, f"{kind} f {kind} s -> {kind}")
    def input_gradient(ds, inner, v, shift):
        return ds + inner - v * shift

    return SimpleNamespace(
        tag=tag, item=item, width=width, shift=width.bit_length() - 1, size=size,
        widest=THREADS * VECTORS * width, load=make_load(VECTORS, STREAMED),
        load_beside=make_load(VECTORS, STREAMED, words=size // 4),
        load_weights=make_load(VECTORS, words=size // 4), store=make_store(VECTORS),
        store_beside=make_store(VECTORS, words=size // 4), get=make_get(VECTORS, 16 * THREADS),
        get_beside=make_get(VECTORS, 16 * THREADS, size // 4), zeros=make_zeros(count),
        put=make_put(VECTORS, width), plus=plus, square_sum=square_sum, normalised=normalised,
        projected=projected, input_gradient=input_gradient)


def make_row_sum(threads, whole_block):
    """row_sum(place, value): the sum over the `threads` threads of a row, for all of them.

    `place` is the shared address of a float for each warp of the block; it may be used again once
    the row's threads have met at another barrier. whole_block: every thread of the block is here.
    (The row's warps alone could always wait for one another; compute-sanitizer loses track of who
    has met whom while other warps of the block wait at another barrier.)
    """
    warps = threads // 32

    @device
    def row_sum(place, value):
        for distance in (16, 8, 4, 2, 1):
            value += shuffle_xor(value, distance)
        if warps == 1:
            return value
        first = place + np.uint32(4 * warps * cuda.threadIdx.y)
        store_shared_f32(first + np.uint32(4 * (cuda.threadIdx.x >> 5)), value)
        # the row's sums stand before any is added
        if whole_block:
            cuda.syncthreads()
        else:
            named_sync(1 + cuda.threadIdx.y, threads)
        value = load_shared_f32(first)
        for warp in range(1, warps):
            value += load_shared_f32(first + np.uint32(4 * warp))
        return value
    return row_sum


def make_forward(threads, form):
    """The forward kernel with `threads` threads a row."""
    row_sum, item, size, shift = make_row_sum(threads, False), form.item, form.size, form.shift
    load, load_beside, load_weights = form.load, form.load_beside, form.load_weights
    store, store_beside, plus = form.store, form.store_beside, form.plus
    square_sum, normalised = form.square_sum, form.normalised

    @kernel("p p p p p p i i f", registers=64, threads=THREADS, blocks=4,
            name=f"rmsnorm_forward{form.tag}_{threads}", overlap=True)
    def rmsnorm_forward_kernel(s, y, rstd, x, r, w, R, C, eps):
        """One row for each threadIdx.y; thread x owns vectors x, x + threads, ... of it. Without r
        there is nothing to add, and s is not written."""
        overlap_previous()
        partial = cuda.shared.array(WARPS, float32)
        row = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
        if row < R:
            left = (C >> shift) - cuda.threadIdx.x
            left_to_add = left if r else 0
            own = size * cuda.threadIdx.x
            at, beside = (np.uint64(item * row * C + 16 * cuda.threadIdx.x),
                          np.uint64(2 * row * C + own))
            v = plus(load(x + at, 16 * threads, threads, left),
                     load_beside(r + beside, size * threads, threads, left_to_add))  # as stored
            store(s + at, 16 * threads, threads, left_to_add, v)
            mean = row_sum(shared_address(partial), square_sum(v)) / float32(C)
            inverse = float32(1.0) / float32(math.sqrt(mean + eps))
            weights = load_weights(w + np.uint64(own), size * threads, threads, left)
            store_beside(y + beside, size * threads, threads, left,
                         normalised(v, inverse, weights))
            if cuda.threadIdx.x == 0:
                store_f32(rstd + np.uint64(4 * row), inverse)
    return rmsnorm_forward_kernel


def make_fetch(threads, form):
    """fetch(place, dy, x, ds, row, R, C): start copying the thread's share of a row to its place in
    shared memory. Without ds that part is filled with zeros."""
    item, size, shift = form.item, form.size, form.shift
    copy = make_copy(VECTORS, threads, 16 * THREADS)
    copy_beside = make_copy(VECTORS, threads, 16 * THREADS, size)

    @device
    def fetch(place, dy, x, ds, row, R, C):
        left = (C >> shift) - cuda.threadIdx.x if row < R else 0
        at = np.uint64(item * row * C + 16 * cuda.threadIdx.x)
        copy_beside(place, dy + np.uint64(2 * row * C + size * cuda.threadIdx.x), size * threads,
                    left, size)
        copy(place + ARRAY, x + at, 16 * threads, left, 16)
        copy(place + 2 * ARRAY, ds + at, 16 * threads, left if ds else 0, 16)
        commit_copies()
    return fetch


@device
def next_rstd(rstd, row, step, R):
    """rstd of the next 32 rows that this thread's warp goes over: one in each lane."""
    return load_f32(rstd + np.uint64(4 * min(row + (cuda.threadIdx.x & 31) * step, R - 1)))


def make_backward(threads, form):
    """The backward kernel with `threads` threads a row."""
    row_sum, fetch = make_row_sum(threads, True), make_fetch(threads, form)
    rows = THREADS // threads
    item, width, size, shift = form.item, form.width, form.size, form.shift
    load_weights, get, get_beside, store = form.load_weights, form.get, form.get_beside, form.store
    zeros, put = form.zeros, form.put
    projected, input_gradient = form.projected, form.input_gradient

    @kernel("p p p p p p p i i f", registers=255, threads=THREADS, shared=STAGES * STAGE,
            name=f"rmsnorm_backward{form.tag}_{threads}", overlap=True)
    def rmsnorm_backward_kernel(dx, parts, dy, ds, x, w, rstd, R, C, share):
        """Rows blockIdx.x + gridDim.x * threadIdx.y and on, every gridDim.x * rows-th; what lies
        behind the last one counts as zeros, so that all of a block meet. The sums of dw over them
        go to row blockIdx.x of parts. Without ds there is nothing to add; dx may be ds.
        share: 1 / C."""
        overlap_previous()
        ring = shared_address(cuda.shared.array(0, float32, alignment=ALIGNMENT))
        partial = cuda.shared.array(TWO_SETS, float32)
        step = np.int32(cuda.gridDim.x * rows)
        own, left = 16 * cuda.threadIdx.x, (C >> shift) - cuda.threadIdx.x
        meeting, weights_at = shared_address(partial), w + np.uint64(size * cuda.threadIdx.x)
        place = ring + np.uint32(16 * threads * cuda.threadIdx.y + own)
        row = np.int32(cuda.blockIdx.x + cuda.gridDim.x * cuda.threadIdx.y)
        for stage in range(STAGES):
            fetch(place + stage * STAGE, dy, x, ds, row + stage * step, R, C)

        weights = load_weights(weights_at, size * threads, threads, left)
        dw, count, inverses = zeros(), np.int32(0), next_rstd(rstd, row, step, R)
        first = np.int32(cuda.blockIdx.x)
        while first < R:
            turn = count & 1
            here = place + np.uint32(turn * STAGE)
            if count == 32:
                count, inverses = np.int32(0), next_rstd(rstd, row, step, R)
            r = shuffle_from(inverses, count)
            wait_for_row()
            v, left_of_row = get(here + ARRAY), left if row < R else 0
            dw, inner, projection = projected(dw, get_beside(here), weights, v, r)
            # two sets in turn: whoever writes one again has met all readers at the other's barrier
            towards = share * row_sum(meeting + np.uint32(turn * SET), projection) * r * r
            store(dx + np.uint64(item * row * C + own), 16 * threads, threads, left_of_row,
                  input_gradient(get(here + 2 * ARRAY), inner, v, towards))
            fetch(here, dy, x, ds, row + STAGES * step, R, C)
            first, row, count = np.int32(first + step), np.int32(row + step), np.int32(count + 1)
        wait_for_all()
        cuda.syncthreads()  # all rows are read, no copy is on its way: their place is free
        put(ring + np.uint32(4 * width * VECTORS * threads * cuda.threadIdx.y + width // 4 * own),
            4 * width * threads, threads, left, dw)
        store_block_sums(parts, cuda.blockIdx.x, ring, rows, width * VECTORS * threads, 0, C)
    return rmsnorm_backward_kernel


FORMS = {"bfloat16": make_form(2, ""), "float32": make_form(4, "_f32")}  # by the stream's type
FORWARD, BACKWARD = ({(kind, threads): make(threads, form) for kind, form in FORMS.items()
                      for threads in (32, 64, 128, 256)} for make in (make_forward, make_backward))
BESIDE = {(5, 2): (0,), (7, 3): (1,), (7, 4): (1, 3), (8, 4): (1,)}
"""(arguments of an op, matrices among them) -> which matrices stand beside the stream: y, dy, r."""


def rmsnorm_forward(y, rstd, x, w, eps, stream):
    """Shapes:  y (R, C) out;  rstd (R,) f32 out;  x (R, C);  w (C,)"""
    _forward("rmsnorm_forward", None, y, rstd, x, None, w, eps, stream)


def add_rmsnorm_forward(s, y, rstd, x, r, w, eps, stream):
    """s = x + r, then y = rmsnorm(s); the norm reads s as it was stored.

    Shapes:  s, y (R, C) out;  rstd (R,) f32 out;  x, r (R, C);  w (C,)
    """
    expect("add_rmsnorm_forward", s=(s, x.shape), r=(r, x.shape))
    _forward("add_rmsnorm_forward", s, y, rstd, x, r, w, eps, stream)


def rmsnorm_backward(dx, dw, dy, x, w, rstd, accumulate, stream):
    """Shapes:  dx (R, C) out;  dw (C,) f32 in and out;  dy, x (R, C);  w (C,);  rstd (R,)"""
    _backward("rmsnorm_backward", dx, dw, dy, None, x, w, rstd, accumulate, stream)


def add_rmsnorm_backward(dx, dw, dy, ds, s, w, rstd, accumulate, stream):
    """dx = ds + the norm's gradient: both summands of s receive the same dx.

    dx may be ds itself.
    Shapes:  dx (R, C) out;  dw (C,) f32 in and out;  dy, ds, s (R, C);  w (C,);  rstd (R,)
    """
    expect("add_rmsnorm_backward", ds=(ds, s.shape))
    _backward("add_rmsnorm_backward", dx, dw, dy, ds, s, w, rstd, accumulate, stream)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    matrices = [a for a in arguments if getattr(a, "ndim", 0) == 2]
    beside = [matrices[i] for i in BESIDE[len(arguments), len(matrices)]]
    kinds = {str(a.dtype) for a in matrices if not any(a is b for b in beside)}
    if len(kinds) > 1:
        return f"a residual stream of {' and '.join(sorted(kinds))}"
    return misfit_of_rows(*beside, widest=FORMS[kinds.pop()].widest)


def _forward(op, s, y, rstd, x, r, w, eps, stream):
    R, C = x.shape
    expect(op, y=(y, (R, C)), rstd=(rstd, (R,)), w=(w, (C,)))
    kind = str(x.dtype)
    threads, rows = _rows_of_a_block(C, FORMS[kind])
    FORWARD[kind, threads][ceil_div(R, rows), (threads, rows), stream](
        s, y, rstd, x, r, w, np.int32(R), np.int32(C), np.float32(eps))


def _backward(op, dx, dw, dy, ds, x, w, rstd, accumulate, stream):
    R, C = x.shape
    expect(op, dx=(dx, (R, C)), dw=(dw, (C,)), dy=(dy, (R, C)), w=(w, (C,)), rstd=(rstd, (R,)))
    kind = str(x.dtype)
    threads, rows = _rows_of_a_block(C, FORMS[kind])
    blocks = min(multiprocessors(), ceil_div(R, rows))
    parts = block_sums(blocks, C, stream)
    BACKWARD[kind, threads][blocks, (threads, rows), stream](
        dx, parts, dy, ds, x, w, rstd, np.int32(R), np.int32(C), np.float32(1 / C))
    add_parts(dw, parts, blocks, C, accumulate, stream)


def _rows_of_a_block(C, form):
    """(threads of a row, rows of a block)."""
    threads = 32
    while threads * VECTORS * form.width < C:
        threads *= 2
    return threads, THREADS // threads
