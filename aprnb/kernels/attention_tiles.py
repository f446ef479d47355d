"""The tiles of the attention kernels: shapes by head dimension, loads and small products.

A block has SIDE x SIDE threads. Rows of a tile lie in shared memory as float32, padded by four
floats: four neighbours come in one load, and neighbouring threads hit different banks.
"""
from dataclasses import dataclass

from .cast import widen
from .cuda import cuda, device, float32

SIDE = 8
THREADS = SIDE * SIDE
PAD = 4  # floats


@dataclass(frozen=True)
class Form:
    """Tile shape for head dimensions up to `width`."""

    width: int
    tile: int
    """Queries, and keys, of a tile: what fits into 48 KiB of shared memory."""
    registers: tuple[int, int, int]
    """Budgets of forward, query gradient and key gradient."""

    @property
    def per(self):
        """Rows of a tile that a thread owns."""
        return self.tile // SIDE

    @property
    def columns(self):
        """Columns of an output row that a thread owns."""
        return self.width // SIDE

    @property
    def rows_shape(self):
        return self.tile, self.width + PAD

    @property
    def square_shape(self):
        return self.tile, self.tile + PAD


FORMS = (Form(16, 32, (160, 176, 176)), Form(64, 32, (168, 232, 240)),
         Form(128, 16, (152, 152, 168)), Form(256, 8, (144, 144, 184)))


@device
def work_of(block, tiles, heads):
    """(tile, head, sequence) of a block; blocks are numbered in one dimension, tiles first: the
    second and third of a grid end at 65,535."""
    row = block // tiles
    return block - row * tiles, row % heads, row // heads


def tile_functions(form):
    """(load, dots, accumulate, column) for one form, all device functions."""
    tile, per, columns, width = form.tile, form.per, form.columns, form.width
    group = min(4, columns)  # neighbouring columns of one thread: one load
    fragment = (per, 4)

    @device
    def column(tx, c):
        # thread tx owns columns group*tx .. group*tx + group-1 of every SIDE*group columns
        return group * tx + SIDE * group * (c // group) + c % group

    @device
    def load(rows, x, b, t0, head):
        """rows[r] = x[b, t0 + r, head], zero beyond the last position and the last channel."""
        for e in range(cuda.threadIdx.y * SIDE + cuda.threadIdx.x, tile * width, THREADS):
            r, d = e // width, e % width
            value = float32(0.0)
            if t0 + r < x.shape[1] and d < x.shape[3]:
                value = widen(x[b, t0 + r, head, d])
            rows[r, d] = value

    @device
    def dots(s, left, right, D):
        """s[i, j] = left[per*ty + i] . right[tx + SIDE*j], four channels at a time."""
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        a = cuda.local.array(fragment, float32)
        b = cuda.local.array(fragment, float32)
        for i in range(per):
            for j in range(per):
                s[i, j] = float32(0.0)
        for chunk in range(width // 4):  # a constant trip count lets indices be simplified
            if 4 * chunk < D:
                for i in range(per):
                    for e in range(4):
                        a[i, e] = left[per * ty + i, 4 * chunk + e]
                for j in range(per):
                    for e in range(4):
                        b[j, e] = right[tx + SIDE * j, 4 * chunk + e]
                for i in range(per):
                    for j in range(per):
                        for e in range(4):
                            s[i, j] += a[i, e] * b[j, e]

    @device
    def accumulate(sums, weights, rows):
        """sums[i, c] += sum over r of weights[r, per*ty + i] * rows[r, column(tx, c)]."""
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        a = cuda.local.array(per, float32)
        b = cuda.local.array(columns, float32)
        for r in range(tile):
            for i in range(per):
                a[i] = weights[r, per * ty + i]
            for c in range(columns):
                b[c] = rows[r, column(tx, c)]
            for i in range(per):
                for c in range(columns):
                    sums[i, c] += a[i] * b[c]
    return load, dots, accumulate, column
