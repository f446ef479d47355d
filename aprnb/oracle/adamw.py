"""AdamW with decoupled weight decay over a flat arena of parameters.

    m = beta1 m + (1 - beta1) g          g = clip * gradient
    v = beta2 v + (1 - beta2) g^2
    w = w - lr * decay * w - lr * (m / correction1) / (sqrt(v / correction2) + eps)

Source: Loshchilov & Hutter 2019, algorithm 2, with the schedule multiplier inside lr;
correction_i = 1 - beta_i^t (Kingma & Ba 2015), t counted from 1. What changes from step to step
comes in one-element arrays, so that a captured step can be replayed.
"""
import numpy as np

from .parallel import block_cuts, run_cuts
from .wide import wide


def adamw(w, work, m, v, g, lr, correction1, correction2, clip, beta1, beta2, eps, decay, decayed):
    """One update of every parameter; the first `decayed` elements of the arena are decayed.

    Shapes:  w, m, v (n,) f32 in and out;  work (n,) out: w in the working type, or None when w
             itself is the working copy;  g (n,) f32;  lr, correction1, correction2, clip (1,) f32
    """
    def block(cut):
        _update(w[cut], m[cut], v[cut], wide(g[cut]) * clip[0], lr[0], correction1[0],
                correction2[0], beta1, beta2, eps, decay, max(0, decayed - cut.start))
        if work is not None:
            work[cut] = w[cut]
    run_cuts(block, block_cuts([w]))


def _update(w, m, v, g, lr, correction1, correction2, beta1, beta2, eps, decay, decayed):
    kind = w.dtype.type  # keeps float32 arithmetic in float32, float64 in float64
    m *= kind(beta1)
    m += g * kind(1 - beta1)
    v *= kind(beta2)
    g *= g
    v += g * kind(1 - beta2)
    w[:decayed] *= 1 - lr * kind(decay)
    step = np.sqrt(v / correction2)
    step += kind(eps)
    np.divide(m, step, out=step)
    step *= lr / correction1
    w -= step
