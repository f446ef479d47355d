"""Rotary position embedding in place on packed q, k, v, 16 bytes at a time; bfloat16.

Equations and arguments: kernels/rope.py. A thread holds 8 elements k of a head and the 8 elements
k + D/2 that they are rotated with.

rope_backward_bias also sums the columns of all heads, values included, as they are stored: the
gradient of the projection's bias, which column_sum would have to read again.

Bytes moved at 16,384 positions, 14 + 2 rotated heads and 2 others of 64, and at 4.25 TB/s:  forward
and backward 67 MB, 16 us;  with the bias 71 MB, 17 us, and 1.2 MB of partial sums, twice.
"""
import numpy as np

from ..cuda import ALIGNMENT, cuda, device, float32, kernel
from ..ptx.barrier import overlap_previous
from ..ptx.scalar import shared_address
from ..ptx.share import STREAMED, each, make_load, make_store, make_zeros
from ..shapes import ceil_div, expect
from .columns import add_parts, block_sums, parts_of, put_8, store_block_sums, tile_of
from .fit import misfit_of_rows

THREADS, BIAS_THREADS = 256, 512  # at most
BIAS_BLOCKS = 2  # on a multiprocessor: 64 registers
BIAS_SLOTS = 128  # pairs of vectors of a row that one block covers at most
LANES = 64  # at most: the last dimension of a block
SUMS = 16 * BIAS_THREADS  # floats of shared memory

load, store, load_angles = make_load(1, STREAMED), make_store(1), make_load(2)
zeros = make_zeros(8)


@each(8, "p p w w s -> p p")
def rotated(low, high, cos, sin, sign):
    sin = sin * sign  # explicit fma: the same bits from both kernels
    return low.fma(cos, high * sin * -1.0), high.fma(cos, low * sin)


@each(8, "f p -> f")
def plus(total, x):
    return total + x


@device
def rotate(at, half, low, high, cos, sin, angle, sign):
    """Rotate the pair of vectors, in registers and at `at` and half a head on."""
    c, s = load_angles(cos + angle, 16, 0, 1), load_angles(sin + angle, 16, 0, 1)
    low, high = rotated(low, high, c, s, sign)
    store(at, 0, 0, 1, low)
    store(at + half, 0, 0, 1, high)
    return low, high


@kernel("p p p i i i i f", registers=40, threads=THREADS, blocks=6, overlap=True)
def rotate_kernel(x, cos, sin, T, N, D, heads, sign):
    """Block (i, b, j): positions i * blockDim.z and on of sequence b, heads j * blockDim.y and on.
    Thread (k, n, lane) owns elements 8k and on of both halves of head n at one position."""
    overlap_previous()
    t = cuda.blockIdx.x * cuda.blockDim.z + cuda.threadIdx.z
    n = cuda.blockIdx.z * cuda.blockDim.y + cuda.threadIdx.y
    if t < T and n < heads:
        row = cuda.blockIdx.y * T + t
        at = x + np.uint64(2 * ((row * N + n) * D) + 16 * cuda.threadIdx.x)
        rotate(at, np.uint64(D), load(at, 0, 0, 1), load(at + np.uint64(D), 0, 0, 1), cos, sin,
               np.uint64(2 * t * D + 32 * cuda.threadIdx.x), sign)


@kernel("p p p p i i i i i i", registers=64, threads=BIAS_THREADS, blocks=BIAS_BLOCKS, overlap=True)
def rotate_back_and_sum_kernel(x, parts, cos, sin, R, T, N, D, heads, part_rows):
    """Block (j, p): heads j * blockDim.y and on in rows part_rows * p and on, of R = B * T. Thread
    (k, n, lane) owns elements as in rotate_kernel, in rows lane, lane + blockDim.z, ..."""
    overlap_previous()
    sums = shared_address(cuda.shared.array(SUMS, float32, alignment=ALIGNMENT))
    lane, lanes, width = cuda.threadIdx.z, cuda.blockDim.z, cuda.blockDim.y * D
    n = cuda.blockIdx.x * cuda.blockDim.y + cuda.threadIdx.y
    row = cuda.blockIdx.y * part_rows + lane
    end = min(cuda.blockIdx.y * part_rows + part_rows, R)
    own, half, t = 16 * cuda.threadIdx.x, np.uint64(D), row % T

    low_sum, high_sum = zeros(), zeros()
    while row < end and n < N:
        at = x + np.uint64(2 * ((row * N + n) * D) + own)
        low, high = load(at, 0, 0, 1), load(at + half, 0, 0, 1)
        if n < heads:
            low, high = rotate(at, half, low, high, cos, sin, np.uint64(2 * t * D + 2 * own),
                               float32(-1.0))
        low_sum, high_sum = plus(low_sum, low), plus(high_sum, high)
        row += lanes
        t += lanes
        while t >= T:
            t -= T
    place = sums + np.uint32(4 * (lane * width + cuda.threadIdx.y * D) + 2 * own)
    put_8(place, 0, 0, 1, low_sum)
    put_8(place + np.uint32(2 * D), 0, 0, 1, high_sum)
    store_block_sums(parts, cuda.blockIdx.y, sums, lanes, width, cuda.blockIdx.x * width, N * D)


def rope_forward(x, cos, sin, heads, stream):
    """Rotates the first `heads` heads of x at position t by its angles; the others stay.

    Shapes:  x (B, T, N, D) bf16 in and out;  cos, sin (T, D/2) f32
    """
    _rotate("rope_forward", x, cos, sin, heads, 1, stream)


def rope_backward(dx, cos, sin, heads, stream):
    """Rotates the gradient back.  Shapes:  dx (B, T, N, D) in and out;  cos, sin (T, D/2)"""
    _rotate("rope_backward", dx, cos, sin, heads, -1, stream)


def rope_backward_bias(dx, db, cos, sin, heads, accumulate, stream):
    """rope_backward, then db (+)= the sums of all columns of dx as a (B * T, N * D) matrix.

    Shapes:  dx (B, T, N, D) in and out;  db (N * D,) f32 in and out;  cos, sin (T, D/2)
    """
    B, T, N, D = dx.shape
    _expect("rope_backward_bias", dx, cos, sin, heads)
    expect("rope_backward_bias", db=(db, (N * D,)))
    tiles, tile = tile_of(N, max(1, BIAS_SLOTS // (D // 16)))
    lanes = min(LANES, BIAS_THREADS // (D // 16 * tile))
    part_rows, count = parts_of(B * T, tiles, lanes, BIAS_BLOCKS)
    parts = block_sums(count, N * D, stream)
    rotate_back_and_sum_kernel[(tiles, count), (D // 16, tile, lanes), stream](
        dx, parts, cos, sin, *map(np.int32, (B * T, T, N, D, heads, part_rows)))
    add_parts(db, parts, count, N * D, accumulate, stream)


def misfit(x, *arguments):
    """Why an op cannot be served with these arguments, or None."""
    B, D = x.shape[0], x.shape[3]
    if D % 16 or D > 16 * THREADS:
        return f"heads of {D}, these kernels need a multiple of 16 up to {16 * THREADS}"
    if B > 65535:
        return f"{B} sequences, these kernels take 65535 at most"
    return misfit_of_rows(x)


def _rotate(op, x, cos, sin, heads, sign, stream):
    B, T, N, D = x.shape
    _expect(op, x, cos, sin, heads)
    tiles, tile = tile_of(heads, THREADS // (D // 16))
    lanes = min(LANES, THREADS // (D // 16 * tile))
    rotate_kernel[(ceil_div(T, lanes), B, tiles), (D // 16, tile, lanes), stream](
        x, cos, sin, *map(np.int32, (T, N, D, heads)), np.float32(sign))


def _expect(op, x, cos, sin, heads):
    B, T, N, D = x.shape
    expect(op, cos=(cos, (T, D // 2)), sin=(sin, (T, D // 2)), x=(x, (B, T, max(N, heads), D)))
