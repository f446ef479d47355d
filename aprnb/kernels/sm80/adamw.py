"""AdamW in one pass over the flat arenas, 16 bytes at a time; equations in kernels/adamw.py.

Bytes: w, m and v read and written, g read, the bfloat16 working copy written: 30 a parameter. For
494 million parameters 14.8 GB, 3.49 ms at 4.25 TB/s. Every line is used once, so all of them are
marked for early eviction. Root and quotient are the hardware's approximations: an update is right
to a few units in its own last place, and far smaller than the parameter that it changes.
"""
import numpy as np

from ..cuda import cuda, device, float32, kernel
from ..ptx.barrier import overlap_previous
from ..ptx.scalar import load_f32, rcp, sqrt
from ..ptx.vector import make_load, make_store, make_store_bf16x4
from ..shapes import ceil_div, expect

THREADS = 256
BLOCKS = 5  # on a multiprocessor: 80 KB in flight
VECTORS = 8  # of 4 elements a thread, one after the other: a block covers 32 KB of every array

_, load = make_load(".cs")
_, store = make_store(".cs")
store_bf16x4 = make_store_bf16x4(".cs")


@device
def update(w, m, v, g, constants):
    """The new (w, m, v) of one parameter; w is decayed already."""
    rate, uncorrected, clip, beta1, rest1, beta2, rest2, eps = constants
    gradient = g * clip
    mean = m * beta1 + gradient * rest1
    square = v * beta2 + gradient * gradient * rest2
    w -= rate * (mean * rcp(sqrt(square * uncorrected) + eps))
    return w, mean, square


@kernel("p p p p p p p p p f f f f f f n n", registers=48, threads=THREADS, blocks=BLOCKS,
        overlap=True)
def adamw_kernel(w, work, m, v, g, lr, correction1, correction2, clip, beta1, rest1, beta2, rest2,
                 eps, decay, decayed, n):
    """Block b owns THREADS * VECTORS vectors from there; a thread every THREADS-th of them."""
    overlap_previous()
    rate = load_f32(lr)
    shrink = float32(1.0) - rate * decay
    constants = (rate / load_f32(correction1), float32(1.0) / load_f32(correction2),
                 load_f32(clip), beta1, rest1, beta2, rest2, eps)
    first = np.int64(cuda.blockIdx.x) * (4 * THREADS * VECTORS)
    for i in range(first + 4 * cuda.threadIdx.x, min(first + 4 * THREADS * VECTORS, n),
                   4 * THREADS):
        at = np.uint64(4 * i)
        a, b, c, d = load(w + at), load(m + at), load(v + at), load(g + at)
        factor = shrink if i < decayed else float32(1.0)
        w0, m0, v0 = update(a[0] * factor, b[0], c[0], d[0], constants)
        w1, m1, v1 = update(a[1] * factor, b[1], c[1], d[1], constants)
        w2, m2, v2 = update(a[2] * factor, b[2], c[2], d[2], constants)
        w3, m3, v3 = update(a[3] * factor, b[3], c[3], d[3], constants)
        store(w + at, (w0, w1, w2, w3))
        store(m + at, (m0, m1, m2, m3))
        store(v + at, (v0, v1, v2, v3))
        if work:
            store_bf16x4(work + np.uint64(2 * i), (w0, w1, w2, w3))


def adamw(w, work, m, v, g, lr, correction1, correction2, clip, beta1, beta2, eps, decay, decayed,
          stream):
    """One update of every parameter; the first `decayed` elements of the arena are decayed.

    Shapes:  w, m, v (n,) f32 in and out;  work (n,) bf16 out, or None when w itself is the working
             copy;  g (n,) f32;  lr, correction1, correction2, clip (1,) f32
    """
    n = w.shape[0]
    one = {name: (array, (1,)) for name, array in (
        ("lr", lr), ("correction1", correction1), ("correction2", correction2), ("clip", clip))}
    expect("adamw", m=(m, (n,)), v=(v, (n,)), g=(g, (n,)), work=(w if work is None else work, (n,)),
           **one)
    constants = [np.float32(c) for c in (beta1, 1 - beta1, beta2, 1 - beta2, eps, decay)]
    adamw_kernel[ceil_div(n, 4 * THREADS * VECTORS), THREADS, stream](
        w, work, m, v, g, lr, correction1, correction2, clip, *constants, np.int64(decayed),
        np.int64(n))


def misfit(w, work, *others):
    """Why an update cannot be served with these arguments, or None. Parameter tables pad arenas,
    and what is decayed of them, to whole vectors."""
    decayed = others[-1]
    if w.shape[0] % 4 or decayed % 4:
        return f"{w.shape[0]} elements, {decayed} decayed: these kernels take multiples of 4"
    if work is not None and str(work.dtype) != "bfloat16":
        return f"a working copy in {work.dtype}, these kernels have bfloat16"
    return None
