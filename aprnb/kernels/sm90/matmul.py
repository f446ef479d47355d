"""Matrix products on Hopper's tensor cores: which variant serves a shape, and its launch.

Layouts and epilogues as in kernels/matmul.py: "nt" y = x @ w.T (+ bias), "nn" dx = dy @ w, both
bfloat16; "tn" dw (+)= dy.T @ x in float32; "nt_f32" is "nt" into float32, for logits that are read.
Any M, N, K; rows of every operand must be multiples of 16 bytes, which the copy engine asks for.
A variant is a tile width, a cluster size and a number of parts into which the tiles of the last
wave are cut; `choose` reckons which is fastest, so that the same shape takes the same variant, and
gives the same bits, in every run.
"""
from dataclasses import dataclass
from functools import cache

import numpy as np

from ..launch import address, multiprocessors
from ..shapes import ceil_div
from ..tensor_maps import tensor_map
from ..workspace import workspace
from .matmul_kernel import DEPTH, ROWS, THREADS, geometry, make_matmul

WIDE = 2  # bytes of bfloat16


@dataclass(frozen=True)
class Variant:
    columns: int
    cluster: int = 1
    parts: int = 1


VARIANTS = {  # layout -> tile widths, clusters and cuts that have won a shape
    "nt": [*(Variant(n) for n in (112, 128, 144, 160, 192, 224, 256)), Variant(224, parts=2)],
    "nn": [*(Variant(n) for n in (128, 192, 224, 256)), Variant(224, cluster=2),
           Variant(224, parts=2)],
    "tn": [*(Variant(n) for n in (64, 128, 192, 224, 256)), Variant(128, parts=2),
           Variant(224, parts=3), Variant(224, parts=4), Variant(224, parts=6)],
}
VARIANTS["nt_f32"] = [Variant(128)]
EPILOGUES = {"nt": ("plain", "bias"), "nt_f32": ("plain",), "nn": ("plain",),
             "tn": ("plain", "add")}
KERNELS = {(layout, epilogue, v): make_matmul(layout, v.columns, epilogue, v.cluster, v.parts)
           for layout, variants in VARIANTS.items() for v in variants
           for epilogue in EPILOGUES[layout] if epilogue != "bias" or v.parts == v.cluster == 1}


def matmul(layout, epilogue, c, a, b, bias, stream, variant=None):
    """c = A B ("plain"), A B + bias of every column ("bias") or c + A B ("add").

    Shapes:  c (M, N) bf16, in layout "tn" f32;  a, b bf16 as the layout says, of any row stride;
             bias (N,) bf16 or None. `misfit` says what cannot be served.
    """
    M, N = c.shape
    K = a.shape[0] if layout == "tn" else a.shape[1]
    f32 = str(c.dtype) == "float32"
    layout = "nt_f32" if layout == "nt" and f32 else layout
    v = variant or choose(layout, epilogue, M, N, K, multiprocessors())
    kernel = KERNELS[layout, epilogue, v]
    tiles_n = ceil_div(N, v.columns)
    grid = _grid(ceil_div(M, ROWS * v.cluster) * tiles_n, v)
    scratch = counters = 0
    if v.parts > 1:
        scratch = workspace("matmul parts", grid * 2 * kernel.g.part_bytes + 8192, stream)
        counters = workspace(f"matmul counters {v}", grid * 8, stream)
    c_map = 0 if f32 else tensor_map(
        c, (N, M), (c.strides[0],), (kernel.g.chunk_columns, 64), kernel.g.chunk_columns * WIDE)
    kernel[grid, THREADS, stream](
        _map(a, 64 if layout == "tn" else DEPTH, 64 if layout == "tn" else ROWS),
        _map(b, 64, v.columns // v.cluster if layout[:2] == "nt" else 64), None, None, c_map, None,
        c, bias, np.int32(M), np.int32(N), np.int32(K), np.int64(c.strides[0]),
        np.int32(_group(tiles_n, v)), scratch, counters)


def misfit(layout, c, a, b):
    """Why these operands cannot be served, or None."""
    for name, x in (("a", a), ("b", b), ("the result", c)):
        if x.strides[0] % 16 or address(x) % 16:
            return f"rows of {x.strides[0]} bytes in {name}: need multiples of 16"
        if name != "the result" and str(x.dtype) != "bfloat16":
            return f"{x.dtype} operands"
    need = {"nt": ("bfloat16", "float32"), "nn": ("bfloat16",), "tn": ("float32",)}[layout]
    return None if str(c.dtype) in need else f"a {c.dtype} result"


@cache
def choose(layout, epilogue, M, N, K, processors):
    """The variant with the least reckoned time."""
    fitting = [v for v in VARIANTS[layout] if (layout, epilogue, v) in KERNELS]
    return min(fitting, key=lambda v: reckon(layout, M, N, K, v, processors))


def reckon(layout, M, N, K, v, processors):
    """Reckoned clock cycles of a product.

    A tile of 128 x n costs 4 n cycles a step of 64 along K at the tensor cores' peak. The rest was
    fitted to 250 timings on an H200 (16,384 and 2,048 rows of the Qwen2.5-0.5B shapes): the
    variant that it chooses takes 0.4 % longer than the best one on average.
    """
    cost = COSTS[layout]
    blocks = processors // v.cluster
    tiles = ceil_div(M, ROWS * v.cluster) * ceil_div(N, v.columns)
    steps = ceil_div(K, DEPTH)
    # 256 columns are staged in fewer buffers than they need, and draw more power
    step = (4 * v.columns + cost.step) * (1.045 if v.columns == 256 else 1)
    written = v.columns if layout == "tn" else geometry(layout, v.columns, False).chunks
    tile = steps * step + cost.tile + cost.written * written
    whole, rest = divmod(tiles, blocks)
    if not rest:
        return whole * tile
    if v.parts == 1 or rest * v.parts > blocks or steps < v.parts:
        return (whole + 1) * tile
    return (whole * tile + ceil_div(steps, v.parts) * step + cost.tile
            + cost.part_column * v.columns)


@dataclass(frozen=True)
class Cost:
    """Clock cycles beside the products themselves."""

    step: int
    tile: int
    written: int
    """Of every chunk of columns that is staged, in "tn" of every column."""
    part_column: int
    """Of a tile that is cut: its parts meet in memory."""


COSTS = {"nt": Cost(3, 566, 177, 56), "nn": Cost(8, 1028, 476, 72), "tn": Cost(177, 2, 14, 78)}
COSTS["nt_f32"] = COSTS["nt"]


def _grid(tiles, v):
    """Blocks: the whole machine where tiles are cut, unless that would leave them uncut."""
    processors = multiprocessors() // v.cluster * v.cluster
    return processors if v.parts > 1 else min(processors, tiles * v.cluster)


def _group(tiles_n, v):
    """Rows of tiles walked down before going right: a narrow result makes one wave a rectangle."""
    rows = multiprocessors() // tiles_n if tiles_n <= 8 else 16
    return max(1, rows // v.cluster)


def _map(x, columns, rows):
    return tensor_map(x, (x.shape[1], x.shape[0]), (x.strides[0],), (columns, rows))
