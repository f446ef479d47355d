"""Output head and cross-entropy together, a chunk of rows at a time.

    logits[r]   = x[r] @ w.T
    loss[r]     = lse[r] - logits[r, target[r]]              lse = log sum_v exp logits[r, v]
    dlogits     = (exp(logits - lse) - onehot(target)) * scale
    dx          = dlogits @ w          dw (+)= dlogits.T @ x

Losses are in nats (natural logarithm). Only len(logits) rows of logits exist at a time and the
gradient takes their place. A row with a negative target has loss 0 and no gradient.
"""
import numpy as np

from .linear import linear_forward
from .parallel import by_rows
from .wide import product, wide


def linear_cross_entropy_forward(losses, logits, x, w, targets):
    """Shapes:  losses (R,) f32 out;  logits (chunk, V or more) scratch;  x (R, C);  w (V, C);
                targets (R,) i32, each below V
    """
    for rows, z in _chunks(x, w, logits):
        linear_forward(z, x[rows], w, None)
        _loss_and_softmax(losses[rows], z, targets[rows])


def linear_cross_entropy_backward(losses, dx, dw, logits, x, w, targets, scale, accumulate):
    """Losses and, in the same pass over the logits, the gradients of scale * sum(losses).

    Shapes:  losses (R,) f32 out;  dx (R, C) out;  dw (V, C) f32 in and out;
             logits (chunk, V or more) scratch;  x (R, C);  w (V, C);  targets (R,) i32;
             scale (1,) f32: one over the target tokens of the whole batch
    """
    for rows, z in _chunks(x, w, logits):
        linear_forward(z, x[rows], w, None)
        _loss_and_softmax(losses[rows], z, targets[rows])
        _softmax_to_gradient(z, targets[rows], scale)
        product(dx[rows], z, w, False)
        product(dw, z.T, x[rows], accumulate or rows.start > 0)


def _chunks(x, w, logits):
    """Slices of rows, each with its view of the scratch."""
    for start in range(0, len(x), len(logits)):
        stop = min(start + len(logits), len(x))
        yield slice(start, stop), logits[:stop - start, :len(w)]


@by_rows("losses", "z", "targets")
def _loss_and_softmax(losses, z, targets):
    """Loss of every row; z becomes its softmax, in place."""
    zw = wide(z)
    rows = np.arange(len(z))
    hit = zw[rows, np.maximum(targets, 0)]
    top = zw.max(axis=1)
    p = np.exp(zw - top[:, None])
    total = p.sum(axis=1)
    np.multiply(p, 1 / total[:, None], out=z)
    losses[...] = np.where(targets < 0, 0, top + np.log(total) - hit)


@by_rows("z", "targets")
def _softmax_to_gradient(z, targets, scale):
    rows = np.flatnonzero(targets >= 0)
    z[rows, targets[rows]] -= z.dtype.type(1)
    z *= scale[0]
    z[targets < 0] = 0
