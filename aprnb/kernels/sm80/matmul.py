"""Matrix products on warp-level tensor cores (sm_80 and newer): the launch of matmul_kernel.py.

Layouts and epilogues as in kernels/matmul.py. Operands are bfloat16 with rows of any stride that is
a multiple of 16 bytes; M, N and K are free. C may have rows of any length: where they are no
multiples of 16 bytes it is written element by element.
"""
from typing import NamedTuple

from ..launch import address, multiprocessors
from ..shapes import ceil_div
from ..workspace import workspace
from .matmul_kernel import make_matmul


class Variant(NamedTuple):
    rows: int
    columns: int
    depth: int
    """Of a stage, along K."""
    stages: int
    blocks: int
    """That a multiprocessor holds at the same time."""


SQUARE = Variant(128, 128, 32, 4, 2)
FORMS = (("nt", "plain", "bfloat16"), ("nt", "plain", "float32"), ("nt", "bias", "bfloat16"),
         ("nn", "plain", "bfloat16"), ("tn", "plain", "float32"), ("tn", "add", "float32"))
KERNELS = {(layout, epilogue, dtype): make_matmul(layout, epilogue, dtype == "float32", *SQUARE)
           for layout, epilogue, dtype in FORMS}
LEAST_STEPS = 16  # of a part of a tile: shorter ones cost more to add than they save
MOST_PARTS = 8  # of a tile: one block adds them


def matmul(layout, epilogue, c, a, b, bias, stream, kernel=None):
    """c = A B ("plain"), A B + bias of every column ("bias") or c + A B ("add").

    Shapes:  c (M, N) bf16|f32;  a, b bf16 as the layout says;  bias (N,) bf16 or None. `misfit`
    says what cannot be served. kernel: of another variant, for measurements.
    """
    M, N = c.shape
    K = a.shape[0] if layout == "tn" else a.shape[1]
    kernel = kernel or KERNELS[layout, epilogue, str(c.dtype)]
    g = kernel.g
    slots = g.blocks * multiprocessors()
    tiles_n = ceil_div(N, g.columns)
    tiles = ceil_div(M, g.rows) * tiles_n
    parts = parts_of(tiles % slots, ceil_div(K, g.depth), slots)
    whole = tiles - tiles % slots if parts > 1 else tiles
    scratch = counters = 0
    if parts > 1:
        scratch = workspace("sm80 matmul parts", slots * g.part_bytes, stream)
        counters = workspace("sm80 matmul counters", slots * 4, stream)
    kernel[whole + (tiles - whole) * parts, g.threads, stream](
        c, a, b, bias, M, N, K, c.strides[0], a.strides[0], b.strides[0], group(tiles_n, slots),
        whole, parts, scratch, counters)


def parts_of(loose, steps, slots):
    """Into how many parts along K the `loose` tiles of an incomplete last wave are cut."""
    return max(1, min(slots // loose, steps // LEAST_STEPS, MOST_PARTS)) if loose else 1


def group(tiles_n, slots):
    """Rows of tiles walked down before going right: what is in flight is about a square, or the
    whole width of a narrow result."""
    return max(1, slots // tiles_n if tiles_n <= 16 else 16)


def misfit(layout, c, a, b):
    """Why these operands cannot be served, or None."""
    for name, x in (("a", a), ("b", b)):
        if str(x.dtype) != "bfloat16":
            return f"{x.dtype} operands, these kernels have bfloat16"
        if x.strides[0] % 16 or address(x) % 16:
            return f"rows of {x.strides[0]} bytes in {name}, need multiples of 16"
    if not any(form[0] == layout and form[2] == str(c.dtype) for form in FORMS):
        return f"a {c.dtype} result of layout {layout}"
    return None
