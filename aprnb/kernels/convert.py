"""Conversion between storage types: round to nearest even, NaN stays NaN."""
from .block import BLOCK
from .cast import narrow, widen
from .cuda import cuda, kernel
from .shapes import ceil_div, expect

BLOCKS = 4096  # at most; each thread then strides over the rest


@kernel("f1 h1", "h1 f1", "f1 f1", "h1 h1", registers=32, threads=BLOCK)
def convert_kernel(y, x):
    """A thread owns elements i, i + threads of the grid, ..."""
    for i in range(cuda.grid(1), x.shape[0], cuda.gridsize(1)):
        y[i] = narrow(y, widen(x[i]))


def convert(y, x, stream):
    """y = x in y's storage type.

    Shapes:  y (n,) bf16|f32 out;  x (n,) bf16|f32
    Errors:  ShapeError if the lengths differ.
    """
    expect("convert", y=(y, (x.shape[0],)))
    convert_kernel[min(BLOCKS, ceil_div(x.shape[0], BLOCK)), BLOCK, stream](y, x)
