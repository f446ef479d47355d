"""The wide half of a gated MLP: gate and up projection with SwiGLU behind them, and back.

    gu  = x @ w.T                 h = silu(gate) * up          (linear_swiglu_forward)
    dh  = dy @ w                  dgu = gradient of h at gu    (swiglu_linear_backward)
    dw (+)= dy.T @ h

One op each, because the product has at hand what SwiGLU would read again. Here they are the plain
ops one after the other; see linear.py and swiglu.py.
"""
from . import composed, linear, swiglu


def linear_swiglu_forward(h, gu, x, w, stream):
    """Shapes:  h (R, F) out;  gu (R, 2F) out;  x (R, C);  w (2F, C)"""
    composed.linear_swiglu_forward(linear, swiglu, h, gu, x, w, stream)


def swiglu_linear_backward(dgu, dh, dw, dy, gu, h, w, accumulate, stream):
    """Shapes:  dgu (R, 2F) out;  dh (R, F) scratch;  dw (C, F) f32 in and out;  dy (R, C);
    gu (R, 2F);  h (R, F);  w (C, F)"""
    composed.swiglu_linear_backward(linear, swiglu, dgu, dh, dw, dy, gu, h, w, accumulate, stream)
