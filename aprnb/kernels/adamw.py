"""AdamW with decoupled weight decay over a flat arena of parameters.

    m = beta1 m + (1 - beta1) g          g = clip * gradient
    v = beta2 v + (1 - beta2) g^2
    w = w - lr * decay * w - lr * (m / correction1) / (sqrt(v / correction2) + eps)

Source: Loshchilov & Hutter 2019, algorithm 2, with the schedule multiplier inside lr;
correction_i = 1 - beta_i^t (Kingma & Ba 2015), t counted from 1. What changes from step to step
comes in one-element arrays, so that a captured step can be replayed. All arithmetic is float32.
"""
import math

import numpy as np

from .block import BLOCK
from .cast import narrow
from .cuda import cuda, float32, kernel
from .shapes import ceil_div, expect

BLOCKS = 4096  # at most; each thread then strides over the rest


@kernel("f1 s1 f1 f1 f1 f1 f1 f1 f1 f f f f f f n b", registers=64, threads=BLOCK)
def adamw_kernel(w, work, m, v, g, lr, correction1, correction2, clip, beta1, rest1, beta2, rest2,
                 eps, decay, decayed, has_work):
    """A thread owns elements i, i + threads of the grid, ...; rest_i = 1 - beta_i."""
    shrink = float32(1.0) - lr[0] * decay
    rate = lr[0] / correction1[0]
    for i in range(cuda.grid(1), w.shape[0], cuda.gridsize(1)):
        gradient = g[i] * clip[0]
        mean = m[i] * beta1 + gradient * rest1
        square = v[i] * beta2 + gradient * gradient * rest2
        m[i] = mean
        v[i] = square
        weight = w[i]
        if i < decayed:
            weight *= shrink
        weight -= rate * (mean / (float32(math.sqrt(square / correction2[0])) + eps))
        w[i] = weight
        if has_work:
            work[i] = narrow(work, weight)


def adamw(w, work, m, v, g, lr, correction1, correction2, clip, beta1, beta2, eps, decay, decayed,
          stream):
    """One update of every parameter; the first `decayed` elements of the arena are decayed.

    Shapes:  w, m, v (n,) f32 in and out;  work (n,) out: w in the working type, or None when w
             itself is the working copy;  g (n,) f32;  lr, correction1, correction2, clip (1,) f32
    """
    n = w.shape[0]
    one = {name: (array, (1,)) for name, array in (
        ("lr", lr), ("correction1", correction1), ("correction2", correction2), ("clip", clip))}
    expect("adamw", m=(m, (n,)), v=(v, (n,)), g=(g, (n,)), work=(w if work is None else work, (n,)),
           **one)
    constants = [np.float32(c) for c in (beta1, 1 - beta1, beta2, 1 - beta2, eps, decay)]
    adamw_kernel[min(BLOCKS, ceil_div(n, BLOCK)), BLOCK, stream](
        w, w if work is None else work, m, v, g, lr, correction1, correction2, clip, *constants,
        np.int64(decayed), work is not None)
