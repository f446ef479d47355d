"""The wide half of a gated MLP, as kernels/linear_swiglu.py says, on this room's plain ops."""
from functools import partial

from .. import composed
from . import linear, swiglu

linear_swiglu_forward = partial(composed.linear_swiglu_forward, linear, swiglu)
swiglu_linear_backward = partial(composed.swiglu_linear_backward, linear, swiglu)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    if len(arguments) == 4:
        h, gu, x, w = arguments
        return linear.misfit(gu, x, w, None) or swiglu.misfit(h, gu)
    dgu, dh, dw, dy, gu, h, w, accumulate = arguments
    return linear.misfit(dh, dw, None, dy, h, w, accumulate) or swiglu.misfit(dgu, dh, gu)
