"""AdamW with decoupled weight decay over a flat arena of parameters.

    m = beta1 m + (1 - beta1) g          g = clip * gradient
    v = beta2 v + (1 - beta2) g^2
    w = w - lr * decay * w - lr * (m / correction1) / (sqrt(v / correction2) + eps)

Source: Loshchilov & Hutter 2019, algorithm 2, with the schedule multiplier inside lr;
correction_i = 1 - beta_i^t (Kingma & Ba 2015), t counted from 1. What changes from step to step
comes in one-element arrays, so that a captured step can be replayed.
"""
import numpy as np

from .wide import wide


def adamw(w, work, m, v, g, lr, correction1, correction2, clip, beta1, beta2, eps, decay, decayed):
    """One update of every parameter; the first `decayed` elements of the arena are decayed.

    Shapes:  w, m, v (n,) f32 in and out;  work (n,) out: w in the working type, or None when w
             itself is the working copy;  g (n,) f32;  lr, correction1, correction2, clip (1,) f32
    """
    gw = wide(g) * clip[0]
    m *= m.dtype.type(beta1)
    m += gw * m.dtype.type(1 - beta1)
    v *= v.dtype.type(beta2)
    gw *= gw
    v += gw * v.dtype.type(1 - beta2)
    w[:decayed] *= 1 - lr[0] * w.dtype.type(decay)
    step = np.sqrt(v / correction2[0])
    step += step.dtype.type(eps)
    np.divide(m, step, out=step)
    step *= lr[0] / correction1[0]
    w -= step
    if work is not None:
        work[...] = w
