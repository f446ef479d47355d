"""The wide half of a gated MLP: gate and up projection with SwiGLU behind them, and back.

    gu  = x @ w.T                 h = silu(gate) * up          (linear_swiglu_forward)
    dh  = dy @ w                  dgu = gradient of h at gu    (swiglu_linear_backward)
    dw (+)= dy.T @ h

The plain ops of this room, one after the other: its products write what SwiGLU reads.
"""
from . import linear, swiglu
from .linear import linear_backward, linear_forward
from .swiglu import swiglu_backward, swiglu_forward


def linear_swiglu_forward(h, gu, x, w, stream):
    """Shapes:  h (R, F) out;  gu (R, 2F) out;  x (R, C);  w (2F, C)"""
    linear_forward(gu, x, w, None, stream)
    swiglu_forward(h, gu, stream)


def swiglu_linear_backward(dgu, dh, dw, dy, gu, h, w, accumulate, stream):
    """Shapes:  dgu (R, 2F) out;  dh (R, F) scratch;  dw (C, F) f32 in and out;  dy (R, C);
    gu (R, 2F);  h (R, F);  w (C, F)"""
    linear_backward(dh, dw, None, dy, h, w, accumulate, stream)
    swiglu_backward(dgu, dh, gu, stream)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    if len(arguments) == 4:
        h, gu, x, w = arguments
        return linear.misfit(gu, x, w, None) or swiglu.misfit(h, gu)
    dgu, dh, dw, dy, gu, h, w, accumulate = arguments
    return linear.misfit(dh, dw, None, dy, h, w, accumulate) or swiglu.misfit(dgu, dh, gu)
