"""Output head and cross-entropy, a chunk of rows at a time, logits in bfloat16.

See kernels/linear_cross_entropy.py for the meaning. The head's product writes a chunk of logits,
one kernel turns it into losses and, in place, into the gradient, and two more products read that.
Bytes a chunk of n rows: 2 n V written, read, written and read twice; FLOPs 6 n V C.
"""
from ..launch import address
from ..shapes import expect
from . import matmul as products
from .cross_entropy import cross_entropy
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


def misfit_of(products, *arguments):
    """The same for the products of another room."""
    logits, x, w = arguments[1:4] if len(arguments) == 5 else arguments[3:6]
    if str(logits.dtype) != "bfloat16":
        return f"{logits.dtype} logits"
    if logits.strides[0] % 16 or address(logits) % 16:
        return f"rows of {logits.strides[0]} bytes in the logits: need multiples of 16"
    return products.misfit("nt", logits, x, w)


def expect_rows(op, losses, x, w, targets):
    """Refuse shapes that do not belong together."""
    R = x.shape[0]
    expect(op, losses=(losses, (R,)), w=(w, (w.shape[0], x.shape[1])), targets=(targets, (R,)))


def chunks(x, w, logits):
    """Slices of rows, each with its view of the scratch."""
    R, step, V = x.shape[0], logits.shape[0], w.shape[0]
    for start in range(0, R, step):
        stop = min(start + step, R)
        yield slice(start, stop), logits[:stop - start, :V]
