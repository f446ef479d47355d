"""Checks of a launcher's arguments before anything runs on the device."""
from math import prod

from ..errors import ShapeError

MOST = (1 << 30) - 1  # rows, or columns, of a matrix: products count their bytes in 32 bits
MOST_BLOCKS = (1 << 31) - 1  # of a grid of one dimension; a second or third ends at 65,535


def expect(op, **arrays):
    """Every keyword is name=(array, shape it must have).

    Errors: ShapeError naming the first array that differs.
    """
    for name, (array, need) in arrays.items():
        if array.shape != need:
            raise ShapeError(f"{op}: {name} has shape {tuple(array.shape)}, need {need} to fit "
                             "the other arguments")


def misfit_of_size(*arguments):
    """Why kernels cannot number the rows or columns of one of these matrices, or None. Of four
    dimensions the first two count as rows, the last two as columns."""
    for x in arguments:
        ndim = getattr(x, "ndim", 0)
        if ndim in (2, 4):
            rows, columns = prod(x.shape[:ndim // 2]), prod(x.shape[ndim // 2:])
            if max(rows, columns) > MOST:
                return f"a matrix of {rows:,} x {columns:,}, the kernels number {MOST:,} of each"
    return None


def ceil_div(n, step):
    """Number of steps that cover n."""
    return -(-n // step)


def key_heads(op, o, qkv):
    """KVH of heads packed as queries, keys, values: qkv (B, T, H + 2 KVH, D) for o (B, T, H, D).

    Errors: ShapeError if the heads do not group.
    """
    H, pairs = o.shape[2], qkv.shape[2] - o.shape[2]
    if pairs < 2 or pairs % 2 or H % (pairs // 2):
        raise ShapeError(f"{op}: {qkv.shape[2]} packed heads do not hold {H} query heads and twice "
                         f"a number of key heads that divides {H}")
    return pairs // 2
