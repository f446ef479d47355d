"""Token embedding: y[r] = table[ids[r]], and its transpose, at the speed of memory; a bfloat16
table, and y and dy, the residual stream, of its type or float32.

Backward brings the rows of every id together and adds them in ascending order, in two launches:

    places   block b of 128 takes the rows with id % 128 == b, sorts them by (id, row) in shared
             memory, and writes for each its place among all: row, id, rank (rows of that id before
             it), left (rows of that id from it on)
    sums     a block adds up a chunk: up to 32 rows of one id, from a place whose rank is a multiple
             of 32. An id's only chunk goes to the table; several leave partial sums, and the block
             that finishes last adds those in order

So a frequent id keeps no block busy for long, and the order of every sum depends on nothing but the
ids. More rows than a sort holds are taken slice after slice.

Bytes at 16,384 x 896: forward 59 MB, 14 us at 4.25 TB/s; backward 29 MB of dy and twice the rows of
the table that occur, 58 MB in all with 4,096 different ids, 147 MB when all differ: 14 to 35 us,
and about 4 us to sort.
"""
import numpy as np

from ..cuda import cuda, device, kernel
from ..launch import shared_memory
from ..ptx.barrier import overlap_previous
from ..ptx.gather import RECORD, load_record, make_gather, make_load_integers, store_record
from ..ptx.scalar import fence_gpu, increment, load_i32, store_release
from ..ptx.share import make_fold, make_load, make_zeros
from ..ptx.vector import load_bf16x4, load_f32x4, make_store, store_f32x4
from ..shapes import ceil_div, expect
from ..workspace import workspace
from .fit import misfit_of_rows

THREADS = 256
ROWS = 2  # that a thread of the forward kernel has in flight
BUCKETS, SORTERS = 128, 1024  # blocks of the sort, threads of each
ROW_BITS = 15  # of a key; the id's upper bits stand above
SLICE = 1 << ROW_BITS  # rows that one sort takes: 128 KB of keys if all fall into one bucket
AT_ONCE = 8  # ids that a thread of the sort has in flight
COUNTED = 512  # keys, at most, that are sorted by counting: n * n / SORTERS comparisons a thread
CHUNK_BITS = 5
CHUNK = 1 << CHUNK_BITS  # rows that are added one after the other
EVERYONE = 0xFFFFFFFF  # lanes of a warp
PLACES = 4  # that a block of the sums looks at
ROWS_AT_ONCE, PARTS = 4, 4  # rows and partial sums that a thread has in flight
ZERO_BLOCKS = 4096  # at most; each thread then strides over the rest
TABLE_ROWS = BUCKETS << (32 - ROW_BITS)  # what a key can tell apart

load_ids = make_load_integers(AT_ONCE, SORTERS)
load_parts, fold_parts, zeros = make_load(PARTS), make_fold(PARTS, "w"), make_zeros(4)
_, store_streamed = make_store(".cs")


def make_forward(name, load, size):
    """The copy to vectors of 16 bytes, from vectors of `size` bytes that `load` reads."""
    @kernel("p p p i i", registers=32, threads=THREADS, blocks=8, name=name, overlap=True)
    def embedding_forward_kernel(y, table, ids, R, vectors):
        """Thread (x, j) copies vectors x, x + blockDim.x, ... of rows 2 j and 2 j + 1 of its block.
        """
        overlap_previous()
        row = np.int32(ROWS * (cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y))
        if row < R:
            other = np.int32(min(row + 1, R - 1))  # without a second row the first is copied twice
            token, next_token = (load_i32(ids + np.uint64(4 * row)),
                                 load_i32(ids + np.uint64(4 * other)))
            c = np.int32(cuda.threadIdx.x)
            while c < vectors:
                first = load(table + np.uint64(size * (np.int64(token) * vectors + c)))
                second = load(table + np.uint64(size * (np.int64(next_token) * vectors + c)))
                store_f32x4(y + np.uint64(16 * (np.int64(row) * vectors + c)), first)
                store_f32x4(y + np.uint64(16 * (np.int64(other) * vectors + c)), second)
                c = np.int32(c + cuda.blockDim.x)
    return embedding_forward_kernel


@kernel("p n", registers=32, threads=THREADS, blocks=8, overlap=True)
def zero_kernel(x, vectors):
    """A thread owns every vector, of 4 floats, that is a whole grid further."""
    overlap_previous()
    i = np.int64(cuda.grid(1))
    while i < vectors:
        store_streamed(x + np.uint64(16 * i), zeros())
        i += cuda.gridsize(1)


# ---------------------------------------------------------------- places

@device
def home_of(token):
    """Its bucket; of what lies behind the last row none."""
    return token & (BUCKETS - 1) if token >= 0 else BUCKETS


@device
def collect(keys, counts, ids, R, bucket):
    """Keys of this bucket's rows, in any order; counts: how many, and how many in buckets before.

    Of 16,384 rows a bucket has 128 when ids are spread: an atomic for each costs less than ballots
    of every lane for every id.
    """
    before, first = np.int32(0), np.int32(0)
    while first < R:
        row = np.int32(first + cuda.threadIdx.x)
        first = np.int32(first + AT_ONCE * SORTERS)
        for token in load_ids(ids + np.uint64(4 * row), R - row):
            home = home_of(token)
            if home < bucket:
                before = np.int32(before + 1)
            if home == bucket:
                keys[cuda.atomic.add(counts, 0, 1)] = token // BUCKETS << ROW_BITS | row
            row = np.int32(row + SORTERS)
    for distance in (16, 8, 4, 2, 1):
        before = np.int32(before + cuda.shfl_xor_sync(EVERYONE, before, distance))
    if cuda.laneid == 0:
        cuda.atomic.add(counts, 1, before)


@device
def sort_by_counting(keys, n):
    """Ascending, n <= COUNTED: a key's place is how many are smaller. All threads share the
    comparisons; the counts stand behind the keys."""
    t, size, shift = np.int32(cuda.threadIdx.x), np.int32(32), np.int32(5)
    while size < n:
        size = np.int32(size << 1)
        shift = np.int32(shift + 1)
    if t < COUNTED:
        keys[COUNTED + t] = np.uint32(0)
    cuda.syncthreads()  # the counts start at zero
    i, other = np.int32(t & (size - 1)), np.int32(t >> shift)
    key, smaller = np.uint32(0), np.uint32(0)
    if i < n:
        key = keys[i]
        while other < n:
            if keys[other] < key:
                smaller = np.uint32(smaller + np.uint32(1))
            other = np.int32(other + (SORTERS >> shift))
        cuda.atomic.add(keys, COUNTED + i, smaller)
    cuda.syncthreads()  # the counts stand, and every key is read
    if t < n:  # then i == t
        keys[keys[COUNTED + t]] = key
    cuda.syncthreads()  # the keys stand


@device
def sort_by_exchange(keys, n):
    """Ascending, any n: bitonic, padded to a power of two. No two keys are equal, so one order
    exists."""
    size, i = np.int32(2), np.int32(n + cuda.threadIdx.x)
    while size < n:
        size = np.int32(size << 1)
    while i < size:
        keys[i] = np.uint32(0xFFFFFFFF)
        i = np.int32(i + SORTERS)
    cuda.syncthreads()  # the padding stands before it is sorted
    span = np.int32(2)
    while span <= size:
        step = np.int32(span >> 1)
        while step > 0:
            i = np.int32(cuda.threadIdx.x)
            while i < size >> 1:
                a = np.int32(2 * i - (i & (step - 1)))
                b = np.int32(a + step)
                x, y = keys[a], keys[b]
                if (x > y) == (a & span == 0):
                    keys[a], keys[b] = y, x
                i = np.int32(i + SORTERS)
            cuda.syncthreads()  # this round's exchanges stand before the next compares
            step = np.int32(step >> 1)
        span = np.int32(span << 1)


@device
def position(keys, n, key):
    """How many of n ascending keys are smaller."""
    low, high = np.int32(0), np.int32(n)
    while low < high:
        middle = np.int32((low + high) >> 1)
        if keys[middle] < key:
            low = np.int32(middle + 1)
        else:
            high = middle
    return low


@kernel("p p i", registers=64, threads=SORTERS, shared=4 * SLICE, overlap=True)
def embedding_places_kernel(places, ids, R):
    """One block per bucket; a thread reads every SORTERS-th id."""
    overlap_previous()
    keys = cuda.shared.array(0, np.uint32)
    counts = cuda.shared.array(2, np.int32)
    bucket, t = np.int32(cuda.blockIdx.x), np.int32(cuda.threadIdx.x)
    if t < 2:
        counts[t] = 0
    cuda.syncthreads()  # the counts stand before any thread adds to them
    collect(keys, counts, ids, R, bucket)
    cuda.syncthreads()  # all keys and both counts stand
    n, i = counts[0], t
    if n <= COUNTED:
        sort_by_counting(keys, n)
    else:
        sort_by_exchange(keys, n)
    while i < n:
        row, upper = np.int32(keys[i] & (SLICE - 1)), np.int32(keys[i] >> ROW_BITS)
        start = position(keys, n, np.int64(upper) << ROW_BITS)
        stop = position(keys, n, np.int64(upper + 1) << ROW_BITS)
        store_record(places + np.uint64(RECORD * (counts[1] + i)), row, upper * BUCKETS + bucket,
                     i - start, stop - i)
        i = np.int32(i + SORTERS)


# ---------------------------------------------------------------- sums

def make_add_rows(item):
    """add_rows of a matrix whose elements have `item` bytes: 2, bfloat16, or 4, float32."""
    gather = make_gather(ROWS_AT_ONCE, item)

    @device
    def add_rows(total, column, pitch, entries, rows):
        """Four columns: total + the rows that the first `rows` entries name, one after the other.
        """
        while rows > 0:
            total = gather(total, column, pitch, entries, rows)
            entries += np.uint64(ROWS_AT_ONCE * RECORD)
            rows = np.int32(rows - ROWS_AT_ONCE)
        return total
    return add_rows


@device
def add_parts(total, part, step, count):
    """Four columns: total + `count` partial sums, `step` bytes apart, one after the other."""
    while count > 0:
        total = fold_parts(total, load_parts(part, step, 1, count))
        part += np.uint64(PARTS * step)
        count = np.int32(count - PARTS)
    return total


@device
def last_to_arrive(arrived, counter, chunks):
    """Whether all other chunks of the id stand: true for one block. Leaves the counter at zero."""
    cuda.syncthreads()  # the block's partial sums stand, and nobody reads the flag any more
    if cuda.threadIdx.x == 0:
        fence_gpu()
        arrived[0] = np.int32(increment(counter)) + 1
        if arrived[0] == chunks:
            store_release(counter, 0)
    cuda.syncthreads()  # the flag stands
    return arrived[0] == chunks


def make_sums(name, item):
    """The sums of a dy whose elements have `item` bytes."""
    add_rows = make_add_rows(item)

    @kernel("p p p p p i i", registers=48, threads=THREADS, blocks=5, name=name, overlap=True)
    def embedding_sums_kernel(dtable, dy, places, parts, counters, R, C):
        """A block looks at PLACES places; a thread owns every blockDim-th 4 columns.

        The id whose first place is p uses counter p // CHUNK; of parts its first chunk row
        2 (p // CHUNK) + 1 and its chunk j row 2 (p // CHUNK + j). An id with several chunks has
        more than CHUNK places, so no two ids share any of these.
        """
        overlap_previous()
        arrived = cuda.shared.array(1, np.int32)
        p = np.int32(PLACES * cuda.blockIdx.x)
        behind = np.int32(min(p + PLACES, R))
        while p < behind:
            entries = places + np.uint64(RECORD * p)
            _, token, rank, left = load_record(entries)
            if rank & (CHUNK - 1) == 0:
                chunks = np.int32((rank + left + (CHUNK - 1)) >> CHUNK_BITS)
                home = np.int32((p - rank) >> CHUNK_BITS)
                own = np.int32(2 * (p >> CHUNK_BITS) + (1 if rank == 0 else 0))
                target = dtable + np.uint64(4 * np.int64(token) * C)
                part = parts + np.uint64(4 * np.int64(own) * C)
                rows, c = np.int32(min(left, CHUNK)), np.int32(cuda.threadIdx.x)
                while 4 * c < C:
                    total = zeros()
                    if chunks == 1:
                        part, total = target, load_f32x4(target + np.uint64(16 * c))
                    total = add_rows(total, dy + np.uint64(4 * item * c), item * C, entries, rows)
                    store_f32x4(part + np.uint64(16 * c), total)
                    c = np.int32(c + cuda.blockDim.x)
                if chunks > 1 and last_to_arrive(arrived, counters + np.uint64(4 * home), chunks):
                    part, c = parts + np.uint64(8 * np.int64(home) * C), np.int32(cuda.threadIdx.x)
                    while 4 * c < C:
                        at, first = target + np.uint64(16 * c), part + np.uint64(16 * c)
                        total = add_parts(load_f32x4(at), first + np.uint64(4 * C), 0, 1)
                        store_f32x4(at, add_parts(total, first + np.uint64(8 * C), 8 * C,
                                                  np.int32(chunks - 1)))
                        c = np.int32(c + cuda.blockDim.x)
            p = np.int32(p + 1)
    return embedding_sums_kernel


FORWARD = {"bfloat16": make_forward("embedding_forward_kernel", load_f32x4, 16),
           "float32": make_forward("embedding_forward_f32", load_bf16x4, 8)}  # by the type of y
SUMS = {"bfloat16": make_sums("embedding_sums_kernel", 2),
        "float32": make_sums("embedding_sums_f32", 4)}  # by the type of dy


# ---------------------------------------------------------------- ops

def embedding_forward(y, table, ids, stream):
    """Shapes:  y (R, C) bf16|f32 out;  table (V, C) bf16;  ids (R,) i32, each in 0..V-1"""
    R, C = y.shape
    expect("embedding_forward", ids=(ids, (R,)), table=(table, (table.shape[0], C)))
    vectors = C * y.dtype.itemsize // 16
    threads = min(vectors, THREADS)
    rows = THREADS // threads
    FORWARD[str(y.dtype)][ceil_div(R, ROWS * rows), (threads, rows), stream](
        y, table, ids, np.int32(R), np.int32(vectors))


def embedding_backward(dtable, dy, ids, accumulate, stream):
    """dtable[ids[r]] += dy[r]; rows of one id are added in ascending r.

    Without accumulate every row of the table is written, those of absent ids with zero.
    Shapes:  dtable (V, C) f32 in and out;  dy (R, C) bf16|f32;  ids (R,) i32
    """
    (R, C), V = dy.shape, dtable.shape[0]
    expect("embedding_backward", ids=(ids, (R,)), dtable=(dtable, (V, C)))
    if not accumulate:
        vectors = V * C // 4
        zero_kernel[min(ZERO_BLOCKS, ceil_div(vectors, THREADS)), THREADS, stream](
            dtable, np.int64(vectors))
    most = min(R, SLICE)
    chunks = ceil_div(most, CHUNK)
    places = workspace("embedding places", RECORD * most, stream)
    parts = workspace("embedding parts", 2 * chunks * 4 * C, stream)
    counters = workspace("embedding counters", 4 * chunks, stream)
    threads = min(THREADS, ceil_div(C // 4, 32) * 32)
    for start in range(0, R, SLICE):
        rows = np.int32(min(SLICE, R - start))
        embedding_places_kernel[BUCKETS, SORTERS, stream](places, ids[start:], rows)
        SUMS[str(dy.dtype)][ceil_div(int(rows), PLACES), threads, stream](
            dtable, dy[start:], places, parts, counters, rows, np.int32(C))


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    if len(arguments) == 3:
        return misfit_of_rows(arguments[1])
    dtable, dy = arguments[:2]
    if dtable.shape[0] > TABLE_ROWS:
        return f"a table of {dtable.shape[0]} rows, these kernels tell {TABLE_ROWS} apart"
    return misfit_of_rows(dy, kinds=tuple(SUMS)) or _misfit_of_sort()


def _misfit_of_sort():
    have, need = shared_memory(), embedding_places_kernel.entry.shared
    return None if have >= need else f"{have} bytes of shared memory a block, the sort needs {need}"
