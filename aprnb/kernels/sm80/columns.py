"""Sums over the rows of a matrix, in two stages and a fixed order.

First every block adds up its rows: each thread keeps the sums of its columns in registers, the
block's lanes meet in shared memory, and one row of sums goes to a workspace. Then add_parts sums
those rows. RMSNorm's weight gradient and RoPE's bias gradient do their first stage while they have
the rows in hand; column_sum reads them for their own sake.

Floor of column_sum at 16,384 x 1,152: 38 MB read, 8.9 us at 4.25 TB/s, plus 0.6 MB of partial sums
written and read, about 1.5 us.
"""
import numpy as np

from ..cuda import ALIGNMENT, cuda, device, float32, kernel
from ..launch import multiprocessors
from ..ptx.barrier import overlap_previous
from ..ptx.scalar import load_f32, load_shared_f32, shared_address, store_f32
from ..ptx.share import STREAMED, make_fold, make_load, make_put, make_zeros
from ..shapes import ceil_div, expect
from ..workspace import workspace
from .fit import misfit_of_rows

THREADS = 256
LOADS, PARTS_LOADS = 8, 12  # vectors in flight a thread, of column_sum and of add_parts
BLOCKS = 4  # of column_sum on a multiprocessor: with LOADS, 110 KB in flight
TILE = 128  # vectors of a row that one block covers at most
PARTS_COLUMNS, PARTS_LANES = 32, 32  # of a block of add_parts
SUMS, PARTS_SUMS = 8 * THREADS, PARTS_LANES * PARTS_COLUMNS  # floats of shared memory

load_rows, fold_rows = make_load(LOADS, STREAMED), make_fold(LOADS, "p")
load_parts, fold_parts = make_load(PARTS_LOADS), make_fold(PARTS_LOADS, "w")
zeros_8, zeros_4, put_8, put_4 = make_zeros(8), make_zeros(4), make_put(1, 8), make_put(1, 4)


@device
def lane_sum(place, lanes, width):
    """The sum of `lanes` floats in shared memory, `width` floats apart, from first to last."""
    total = float32(0.0)
    for lane in range(lanes):
        total += load_shared_f32(place + np.uint32(4 * width * lane))
    return total


@device
def store_block_sums(parts, part, sums, lanes, width, first, C):
    """The block's row of sums, columns first .. first + width of C, to row `part` of `parts`.

    sums: shared address of [lanes][width] floats.
    """
    cuda.syncthreads()  # every lane's sums stand
    X, Y = cuda.blockDim.x, cuda.blockDim.y
    c, threads = cuda.threadIdx.x + X * (cuda.threadIdx.y + Y * cuda.threadIdx.z), (
        X * Y * cuda.blockDim.z)
    while c < min(width, C - first):
        store_f32(parts + np.uint64(4 * (part * C + first + c)),
                  lane_sum(sums + np.uint32(4 * c), lanes, width))
        c += threads


@kernel("p p i i i", registers=64, threads=THREADS, blocks=BLOCKS, overlap=True)
def column_sum_kernel(parts, x, R, C, part_rows):
    """Block (i, p): columns 8 * blockDim.x * i and on, rows part_rows * p and on. Thread (j, lane)
    owns vector j of them, in rows lane, lane + blockDim.y, ..."""
    overlap_previous()
    sums = shared_address(cuda.shared.array(SUMS, float32, alignment=ALIGNMENT))
    tile, lanes, lane = cuda.blockDim.x, cuda.blockDim.y, cuda.threadIdx.y
    vector = cuda.blockIdx.x * tile + cuda.threadIdx.x
    start = cuda.blockIdx.y * part_rows
    end = min(start + part_rows, R)

    total, row = zeros_8(), start + lane
    while row < end and 8 * vector < C:
        total = fold_rows(total, load_rows(x + np.uint64(2 * (row * C + 8 * vector)),
                                           2 * lanes * C, lanes, end - row))
        row += LOADS * lanes
    put_8(sums + np.uint32(32 * (lane * tile + cuda.threadIdx.x)), 0, 0, 1, total)
    store_block_sums(parts, cuda.blockIdx.y, sums, lanes, 8 * tile, 8 * tile * cuda.blockIdx.x, C)


@kernel("p p i i b", registers=80, threads=THREADS, overlap=True)
def add_parts_kernel(out, parts, count, C, accumulate):
    """One block per 32 columns; thread (j, lane) owns 4 of them, in parts lane, lane + 32, ..."""
    overlap_previous()
    sums = shared_address(cuda.shared.array(PARTS_SUMS, float32, alignment=ALIGNMENT))
    lane, first = cuda.threadIdx.y, PARTS_COLUMNS * cuda.blockIdx.x
    own = first + 4 * cuda.threadIdx.x

    total, part = zeros_4(), lane
    while part < count and own < C:
        total = fold_parts(total, load_parts(parts + np.uint64(4 * (part * C + own)),
                                             4 * PARTS_LANES * C, PARTS_LANES, count - part))
        part += PARTS_LOADS * PARTS_LANES
    put_4(sums + np.uint32(4 * PARTS_COLUMNS * lane + 16 * cuda.threadIdx.x), 0, 0, 1, total)
    cuda.syncthreads()  # every lane's sums stand
    c = lane * cuda.blockDim.x + cuda.threadIdx.x
    if c < PARTS_COLUMNS and first + c < C:
        at = out + np.uint64(4 * (first + c))
        value = lane_sum(sums + np.uint32(4 * c), PARTS_LANES, PARTS_COLUMNS)
        store_f32(at, value + load_f32(at) if accumulate else value)


def block_sums(count, C, stream):
    """Room for `count` rows of C sums: what the first stage writes and add_parts reads."""
    return workspace("column sums", 4 * count * C, stream)


def add_parts(out, parts, count, C, accumulate, stream):
    """out (C,) f32 (+)= the sum of `count` rows of sums, C a multiple of 4."""
    add_parts_kernel[ceil_div(C, PARTS_COLUMNS), (PARTS_COLUMNS // 4, PARTS_LANES), stream](
        out, parts, np.int32(count), np.int32(C), bool(accumulate))


def tile_of(n, most):
    """(tiles, items of each): n items in tiles of at most `most`, as equal as can be."""
    tiles = ceil_div(n, most)
    return tiles, ceil_div(n, tiles)


def parts_of(R, tiles, least, blocks):
    """(rows of a part, parts): R rows cut so that all multiprocessors have `blocks` blocks, if that
    leaves `least` rows for each."""
    wanted = max(1, blocks * multiprocessors() // tiles)
    rows = ceil_div(R, min(wanted, ceil_div(R, least)))
    return rows, ceil_div(R, rows)


def column_sum(db, dy, accumulate, stream):
    """db (+)= sums of the columns of dy: the gradient of a broadcast bias.

    Shapes:  db (N,) f32 in and out;  dy (R, N) bf16, N a multiple of 8
    """
    R, N = dy.shape
    expect("column_sum", db=(db, (N,)))
    tiles, tile = tile_of(N // 8, TILE)
    lanes = THREADS // tile
    part_rows, count = parts_of(R, tiles, LOADS * lanes, BLOCKS)
    parts = block_sums(count, N, stream)
    column_sum_kernel[(tiles, count), (tile, lanes), stream](
        parts, dy, np.int32(R), np.int32(N), np.int32(part_rows))
    add_parts(db, parts, count, N, accumulate, stream)


def misfit(db, dy, accumulate):
    """Why column_sum cannot be served with these arguments, or None."""
    return misfit_of_rows(dy)
