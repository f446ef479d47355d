"""Ops that are products with something around them, written once for the products of any room.

`products` is a room's matmul module: matmul(layout, epilogue, out, a, b, bias, stream) and, but for
the portable one, misfit(layout, out, a, b). Shapes and meaning: linear.py, linear_swiglu.py and
linear_cross_entropy.py beside this file.
"""
from .shapes import expect


def linear_forward(products, y, x, w, b, stream):
    (R, K), N = x.shape, w.shape[0]
    expect("linear_forward", y=(y, (R, N)), w=(w, (N, K)))
    if b is not None:
        expect("linear_forward", b=(b, (N,)))
    products.matmul("nt", "plain" if b is None else "bias", y, x, w, b, stream)


def linear_backward(products, column_sum, dx, dw, db, dy, x, w, accumulate, stream):
    (R, K), N = x.shape, w.shape[0]
    expect("linear_backward", dx=(dx, (R, K)), dw=(dw, (N, K)), dy=(dy, (R, N)), w=(w, (N, K)))
    products.matmul("nn", "plain", dx, dy, w, None, stream)
    products.matmul("tn", "add" if accumulate else "plain", dw, dy, x, None, stream)
    if db is not None:
        column_sum(db, dy, accumulate, stream)


def linear_misfit(products, *arguments):
    """Why one of the two cannot be served with these arguments, or None."""
    if len(arguments) == 4:
        y, x, w, b = arguments
        if b is not None and str(y.dtype) == "float32":
            return "a float32 result with a bias"
        return products.misfit("nt", y, x, w)
    dx, dw, _, dy, x, w, _ = arguments
    return products.misfit("nn", dx, dy, w) or products.misfit("tn", dw, dy, x)


def linear_swiglu_forward(linear, swiglu, h, gu, x, w, stream):
    linear.linear_forward(gu, x, w, None, stream)
    swiglu.swiglu_forward(h, gu, stream)


def swiglu_linear_backward(linear, swiglu, dgu, dh, dw, dy, gu, h, w, accumulate, stream):
    linear.linear_backward(dh, dw, None, dy, h, w, accumulate, stream)
    swiglu.swiglu_backward(dgu, dh, gu, stream)


def linear_cross_entropy_forward(products, cross_entropy, view, losses, logits, x, w, targets,
                                 stream):
    """view(logits, rows, V): the room's (rows, V) view of the scratch."""
    _expect("linear_cross_entropy_forward", losses, logits, x, w, targets)
    for rows, z in _chunks(view, x, w, logits):
        products.matmul("nt", "plain", z, x[rows], w, None, stream)
        # without a gradient no scale is read: losses stand in its place
        cross_entropy(losses[rows], z, targets[rows], losses, False, stream)


def linear_cross_entropy_backward(products, cross_entropy, view, losses, dx, dw, logits, x, w,
                                  targets, scale, accumulate, stream):
    op = "linear_cross_entropy_backward"
    _expect(op, losses, logits, x, w, targets)
    expect(op, dx=(dx, x.shape), dw=(dw, w.shape), scale=(scale, (1,)))
    for rows, z in _chunks(view, x, w, logits):
        products.matmul("nt", "plain", z, x[rows], w, None, stream)
        cross_entropy(losses[rows], z, targets[rows], scale, True, stream)
        products.matmul("nn", "plain", dx[rows], z, w, None, stream)
        products.matmul("tn", "add" if accumulate or rows.start else "plain", dw, z, x[rows], None,
                        stream)


def _expect(op, losses, logits, x, w, targets):
    (R, C), V = x.shape, w.shape[0]
    expect(op, losses=(losses, (R,)), w=(w, (V, C)), targets=(targets, (R,)),
           logits=(logits, (logits.shape[0], max(V, logits.shape[1]))))


def _chunks(view, x, w, logits):
    """Slices of rows, each with its view of the scratch."""
    R, step, V = x.shape[0], logits.shape[0], w.shape[0]
    for start in range(0, R, step):
        stop = min(start + step, R)
        yield slice(start, stop), view(logits, stop - start, V)
