"""Output head and cross-entropy, a chunk of rows at a time, logits in bfloat16.

See kernels/linear_cross_entropy.py for the meaning. The head's product writes a chunk of logits,
one kernel turns it into losses and, in place, into the gradient, and two more products read that.
Bytes a chunk of n rows: 2 n V written, read, written and read twice; FLOPs 6 n V C.
"""
from functools import partial

from .. import composed
from ..launch import address
from . import matmul as products
from .cross_entropy import cross_entropy


def padded(logits, rows, V):
    """Rows as the plan lays them, multiples of 16 bytes apart."""
    return logits[:rows, :V]


def misfit_of(products, *arguments):
    """Why one of the two cannot be served with these arguments and products, or None."""
    logits, x, w = arguments[1:4] if len(arguments) == 5 else arguments[3:6]
    if str(logits.dtype) != "bfloat16":
        return f"{logits.dtype} logits"
    if logits.strides[0] % 16 or address(logits) % 16:
        return f"rows of {logits.strides[0]} bytes in the logits: need multiples of 16"
    return products.misfit("nt", logits, x, w)


linear_cross_entropy_forward = partial(
    composed.linear_cross_entropy_forward, products, cross_entropy, padded)
linear_cross_entropy_backward = partial(
    composed.linear_cross_entropy_backward, products, cross_entropy, padded)
misfit = partial(misfit_of, products)
