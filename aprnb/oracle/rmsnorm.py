"""RMSNorm, alone and fused with the residual add that precedes it.

    rstd[r]  = 1 / sqrt(mean_c x[r,c]^2 + eps)
    y[r,c]   = x[r,c] * rstd[r] * w[c]                 Zhang & Sennrich 2019, eq. 4, with eps
    dx[r,c]  = rstd[r] * (g - xhat * mean_c(g * xhat))           g = dy*w, xhat = x*rstd
    dw[c]    = sum_r dy[r,c] * xhat[r,c]

Units: eps is added to the mean square, not to the root.
"""
import numpy as np

from .parallel import by_rows
from .wide import add_to, wide


@by_rows("y", "rstd", "x")
def rmsnorm_forward(y, rstd, x, w, eps):
    """Shapes:  y (R, C) out;  rstd (R,) f32 out;  x (R, C);  w (C,)"""
    xw = wide(x)
    rstd[...] = 1 / np.sqrt(np.einsum("rc,rc->r", xw, xw) / x.shape[1] + eps)
    y[...] = xw * rstd[:, None] * wide(w)


@by_rows("dx", "dy", "x", "rstd", sums=("dw",))
def rmsnorm_backward(dx, dw, dy, x, w, rstd, accumulate):
    """Shapes:  dx (R, C) out;  dw (C,) f32 in and out;  dy, x (R, C);  w (C,);  rstd (R,)"""
    dx[...] = _input_gradient(dw, dy, x, w, rstd, accumulate)


@by_rows("s", "y", "rstd", "x", "r")
def add_rmsnorm_forward(s, y, rstd, x, r, w, eps):
    """s = x + r, then y = rmsnorm(s); the norm reads s as it was stored.

    Shapes:  s, y (R, C) out;  rstd (R,) f32 out;  x, r (R, C);  w (C,)
    """
    s[...] = wide(x) + wide(r)
    rmsnorm_forward(y, rstd, s, w, eps)


@by_rows("dx", "dy", "ds", "s", "rstd", sums=("dw",))
def add_rmsnorm_backward(dx, dw, dy, ds, s, w, rstd, accumulate):
    """dx = ds + the norm's gradient: both summands of s receive the same dx.

    dx may be ds itself.
    Shapes:  dx (R, C) out;  dw (C,) f32 in and out;  dy, ds, s (R, C);  w (C,);  rstd (R,)
    """
    dx[...] = wide(ds) + _input_gradient(dw, dy, s, w, rstd, accumulate)


def _input_gradient(dw, dy, x, w, rstd, accumulate):
    dyw = wide(dy)
    xhat = wide(x) * rstd[:, None]
    add_to(dw, np.einsum("rc,rc->c", dyw, xhat), accumulate)
    g = dyw * wide(w)
    xhat *= np.einsum("rc,rc->r", g, xhat)[:, None] / x.shape[1]
    g -= xhat
    g *= rstd[:, None]
    return g
