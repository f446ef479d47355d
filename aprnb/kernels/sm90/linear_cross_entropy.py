"""Output head and cross-entropy as in sm80/linear_cross_entropy.py, with this room's products."""
from ..shapes import expect
from ..sm80.cross_entropy import cross_entropy
from ..sm80.linear_cross_entropy import chunks, expect_rows, misfit_of
from . import matmul as products
from .matmul import matmul


def linear_cross_entropy_forward(losses, logits, x, w, targets, stream):
    """Shapes:  losses (R,) f32 out;  logits (chunk, V or more) bf16 scratch;  x (R, C) bf16;
                w (V, C) bf16;  targets (R,) i32, each below V
    """
    expect_rows("linear_cross_entropy_forward", losses, x, w, targets)
    for rows, z in chunks(x, w, logits):
        matmul("nt", "plain", z, x[rows], w, None, stream)
        cross_entropy(losses[rows], z, targets[rows], losses, False, stream)


def linear_cross_entropy_backward(losses, dx, dw, logits, x, w, targets, scale, accumulate, stream):
    """Losses and, in the same pass over the logits, the gradients of scale * sum(losses).

    Shapes:  losses (R,) f32 out;  dx (R, C) bf16 out;  dw (V, C) f32 in and out;
             logits (chunk, V or more) bf16 scratch;  x (R, C) bf16;  w (V, C) bf16;
             targets (R,) i32;  scale (1,) f32: one over the target tokens of the whole batch
    """
    op = "linear_cross_entropy_backward"
    expect_rows(op, losses, x, w, targets)
    expect(op, dx=(dx, x.shape), dw=(dw, w.shape), scale=(scale, (1,)))
    for rows, z in chunks(x, w, logits):
        matmul("nt", "plain", z, x[rows], w, None, stream)
        cross_entropy(losses[rows], z, targets[rows], scale, True, stream)
        matmul("nn", "plain", dx[rows], z, w, None, stream)
        matmul("tn", "add" if accumulate or rows.start else "plain", dw, z, x[rows], None, stream)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    return misfit_of(products, *arguments)
