"""Reductions in a fixed order, 16 bytes at a time; equations in kernels/reduce.py.

sum_of_squares reads the gradient once: 4 bytes a parameter, 1.98 GB and 0.46 ms at 4.25 TB/s for
494 million. A part may start anywhere: what lies before and behind its whole vectors is added
element by element. Few parts are cut into pieces, so that every multiprocessor has work; a second
launch adds those.
"""
import numpy as np

from ..block import block_sum
from ..cuda import cuda, float32, kernel
from ..launch import multiprocessors
from ..ptx.barrier import overlap_previous
from ..ptx.scalar import load_f32, store_f32
from ..ptx.share import STREAMED, each, make_load
from ..reduce import clip_factor  # noqa: F401  an op of this module: one block reads 4 KB
from ..shapes import ceil_div
from ..workspace import workspace
from .columns import column_sum  # noqa: F401  an op of this module
from .fit import misfit_of_rows

THREADS = 256
BLOCKS = 8  # on a multiprocessor: 1,024 parts are in flight together on 128 and more
VECTORS = 2  # of 4 elements, that a thread has in flight: 64 KB a multiprocessor

load = make_load(VECTORS, STREAMED)


@each(4 * VECTORS, "w -> s")
def squares(x):
    return x * x


@kernel("p p n n n", registers=32, threads=THREADS, blocks=BLOCKS, overlap=True)
def sum_of_squares_kernel(sums, x, n, part, piece):
    """Block (p, i) owns the i-th `piece` vectors of part p, the first block also what is left
    before and behind them; a thread every THREADS-th vector. The sum goes to sums[p, i]."""
    overlap_previous()
    partial = cuda.shared.array(THREADS, float32)
    start = min(np.int64(cuda.blockIdx.x) * part, n)
    stop = min(start + part, n)
    first = min((start + 3) >> 2 << 2, stop)  # elements first .. last are whole vectors
    last = max(stop >> 2 << 2, first)
    at = (first >> 2) + cuda.blockIdx.y * piece
    behind = min(at + piece, last >> 2)

    total = float32(0.0)
    for i in range(at + cuda.threadIdx.x, behind, THREADS * VECTORS):
        total += squares(load(x + np.uint64(16 * i), 16 * THREADS, THREADS, behind - i))
    if cuda.blockIdx.y == 0 and cuda.threadIdx.x < 8:
        # threads 0 to 3 the elements before the vectors, threads 4 to 7 those behind
        before = cuda.threadIdx.x < 4
        i = cuda.threadIdx.x + (start if before else last - 4)
        if i < (first if before else stop):
            v = load_f32(x + np.uint64(4 * i))
            total += v * v
    total = block_sum(partial, total)
    if cuda.threadIdx.x == 0:
        store_f32(sums + np.uint64(4 * (cuda.blockIdx.x * cuda.gridDim.y + cuda.blockIdx.y)), total)


@kernel("p p i", registers=32, threads=THREADS, overlap=True)
def add_pieces_kernel(partials, sums, pieces):
    """One block per part; a thread owns every THREADS-th piece."""
    overlap_previous()
    partial = cuda.shared.array(THREADS, float32)
    total = float32(0.0)
    for i in range(cuda.threadIdx.x, pieces, THREADS):
        total += load_f32(sums + np.uint64(4 * (cuda.blockIdx.x * pieces + i)))
    total = block_sum(partial, total)
    if cuda.threadIdx.x == 0:
        store_f32(partials + np.uint64(4 * cuda.blockIdx.x), total)


def sum_of_squares(partials, x, stream):
    """partials[p] = sum of x^2 over the p-th of len(partials) equal, contiguous parts of x.

    The last parts are shorter, or empty, when the length does not divide.
    Shapes:  partials (P,) f32 out;  x (n,) f32
    """
    P, n = partials.shape[0], x.shape[0]
    part = ceil_div(n, P)
    # no more pieces than have a round of loads each, nor than fill the machine
    pieces = max(1, min(ceil_div(part, 4 * THREADS * VECTORS), multiprocessors() * BLOCKS // P))
    sums = partials if pieces == 1 else workspace("pieces of squares", 4 * P * pieces, stream)
    sum_of_squares_kernel[(P, pieces), THREADS, stream](
        sums, x, np.int64(n), np.int64(part), np.int64(ceil_div(ceil_div(part, 4), pieces)))
    if pieces > 1:
        add_pieces_kernel[P, THREADS, stream](partials, sums, np.int32(pieces))


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    if len(arguments) == 3:  # column_sum(out, x, accumulate)
        return misfit_of_rows(arguments[1])
    if len(arguments) == 2 and str(arguments[1].dtype) != "float32":
        return f"squares of {arguments[1].dtype}, these kernels have float32"
    return None
