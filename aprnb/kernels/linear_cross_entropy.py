"""Output head and cross-entropy together, a chunk of rows at a time.

    logits[r]   = x[r] @ w.T
    loss[r]     = lse[r] - logits[r, target[r]]              lse = log sum_v exp logits[r, v]
    dlogits     = (exp(logits - lse) - onehot(target)) * scale
    dx          = dlogits @ w          dw (+)= dlogits.T @ x

Losses are in nats (natural logarithm). Only len(logits) rows of logits exist at a time, in their
own storage type, and the gradient takes their place. A row with a negative target has loss 0 and
no gradient. dx is overwritten; dw is overwritten or added to, chunk after chunk.
"""
import math

from . import composed
from . import matmul as products
from .block import BLOCK, block_max, block_sum, threads_for
from .cast import narrow, widen
from .cuda import cuda, float32, kernel


@kernel("f1 s2 i1 f1 b", registers=48, threads=BLOCK)
def cross_entropy_kernel(losses, logits, targets, scale, differentiate):
    """One block per row; a thread owns every blockDim-th logit. With `differentiate` the row of
    logits becomes the gradient of scale * loss."""
    row, V = cuda.blockIdx.x, logits.shape[1]
    target = targets[row]
    partial = cuda.shared.array(BLOCK, float32)

    top = float32(-math.inf)
    for v in range(cuda.threadIdx.x, V, cuda.blockDim.x):
        top = max(top, widen(logits[row, v]))
    top = block_max(partial, top)
    total = float32(0.0)
    for v in range(cuda.threadIdx.x, V, cuda.blockDim.x):
        total += float32(math.exp(widen(logits[row, v]) - top))
    total = block_sum(partial, total)

    if cuda.threadIdx.x == 0:
        losses[row] = float32(0.0)
        if target >= 0:
            losses[row] = top + float32(math.log(total)) - widen(logits[row, target])
    cuda.syncthreads()  # the target's logit was read before its place is taken by the gradient
    if differentiate:
        for v in range(cuda.threadIdx.x, V, cuda.blockDim.x):
            p = float32(math.exp(widen(logits[row, v]) - top)) / total
            if v == target:
                p -= float32(1.0)
            logits[row, v] = narrow(logits, p * scale[0] if target >= 0 else float32(0.0))


def linear_cross_entropy_forward(losses, logits, x, w, targets, stream):
    """Shapes:  losses (R,) f32 out;  logits (chunk, V or more) scratch;  x (R, C);  w (V, C);
                targets (R,) i32, each below V
    """
    composed.linear_cross_entropy_forward(products, _cross_entropy, _packed, losses, logits, x, w,
                                          targets, stream)


def linear_cross_entropy_backward(losses, dx, dw, logits, x, w, targets, scale, accumulate, stream):
    """Losses and, in the same pass over the logits, the gradients of scale * sum(losses).

    Shapes:  losses (R,) f32 out;  dx (R, C) out;  dw (V, C) f32 in and out;
             logits (chunk, V or more) scratch;  x (R, C);  w (V, C);  targets (R,) i32;
             scale (1,) f32: one over the target tokens of the whole batch
    """
    composed.linear_cross_entropy_backward(products, _cross_entropy, _packed, losses, dx, dw,
                                           logits, x, w, targets, scale, accumulate, stream)


def _cross_entropy(losses, logits, targets, scale, differentiate, stream):
    R, V = logits.shape
    cross_entropy_kernel[R, threads_for(V), stream](losses, logits, targets, scale, differentiate)


def _packed(logits, rows, V):
    """Row after row: these kernels know no padding."""
    return logits.reshape((logits.size,))[:rows * V].reshape((rows, V))
