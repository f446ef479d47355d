"""How far a kernel may be from the truth: measured, not chosen.

    truth   the oracle fed float64
    peer    the oracle fed the kernel's own storage types
    got     the kernel

    limit   2 * max|peer - truth| + eps(dtype) * scale, on every element
    gain    <got, truth> / <truth, truth> - 1, on the whole array: sees small consistent errors
            that rounding noise hides from the limit. Noise averages out over the elements that
            carry the power, n = (sum truth^2)^2 / sum truth^4: all of them when they are alike,
            few when some are far larger (gradients of the first keys, which every query sees)

Where nothing computes the same in another type, the limit is the number of roundings: `gamma`.
No limit is a number that somebody chose: BLAS and NumPy sum in another order on another CPU.
"""
import ml_dtypes
import numpy as np

EPS = {np.dtype(np.float32): 1.2e-7, np.dtype(ml_dtypes.bfloat16): 7.8e-3}
BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)
UNIT = {F64: 2.0 ** -53, F32: 2.0 ** -24, BF16: 2.0 ** -8}  # largest relative error of a rounding
FUNCTION = 8  # roundings for which exp, log, sin, ... count: NumPy's and C's err by 4 units at most


def gamma(roundings, dtype=F64):
    """How far that many roundings, in whatever order, may move a sum of terms, relative to the sum
    of the terms' sizes.  Source: Higham 2002, Accuracy and Stability, lemma 3.1 and eq. 3.5"""
    share = roundings * UNIT[np.dtype(dtype)]
    return share / (1 - share)


def truncations(depth):
    """What tensor cores may lose of a sum of `depth` products, relative to the sum of the terms'
    sizes: an instruction adds 16 of them to a float32, aligned to the largest and cut instead of
    rounded, which is two roundings.  Source: Fasi, Higham, Mikaitis, Pranesh 2021, Numerical
    behavior of NVIDIA tensor cores, section 4"""
    return gamma(2 * -(-depth // 16), F32)


def allowed(own, scale, dtype=F32):
    """The limit on an error: twice the oracle's own error and a step of the type at the scale."""
    return 2 * float(own) + EPS[np.dtype(dtype)] * float(scale)


def assert_agrees(name, got, truth, peer, scale=None, allowance=0.0):
    """Both checks; scale is max|truth| unless larger terms cancel in the result; allowance: what
    the hardware's own arithmetic may add, as a fraction of the scale."""
    eps = EPS[got.dtype] + allowance
    got64, peer64 = got.astype(np.float64), peer.astype(np.float64)
    scale = np.abs(truth).max() if scale is None else scale
    own = np.abs(peer64 - truth).max()
    assert_within(name, got64, truth, 2 * own + eps * scale, f"oracle's own error {own:.1e}, ")
    power = float((truth * truth).sum())
    if power > 0:
        gain = float((got64 * truth).sum()) / power - 1
        cancelled = max(1.0, scale / np.abs(truth).max())
        carrying = power ** 2 / float((truth ** 4).sum())
        bound = (4 * EPS[F32] + allowance + 2 * eps / np.sqrt(carrying)) * cancelled
        assert abs(gain) <= bound, f"{name}: gain {gain:.2e}, bound {bound:.2e}"


def assert_within(name, got, want, limit, about=""):
    """|got - want| <= limit, element by element; a limit for all, or one for each."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    error, limit = np.abs(got - want), np.broadcast_to(limit, got.shape)
    over = ~(error <= limit)  # NaN is over
    if over.any():
        excess = np.where(np.isnan(error), np.inf, error - limit)
        at = np.unravel_index(np.argmax(excess), error.shape)
        raise AssertionError(
            f"{name}[{','.join(map(str, at))}]: got {got[at]:.7g}, want {want[at]:.7g}; error "
            f"{error[at]:.1e} > limit {limit[at]:.1e} ({about}{over.sum()} of {over.size} over)")


def in_order(a, b):
    """a @ b.T in float32, summed over ascending k: the kernels' order (K may exceed 4096)."""
    a, b = a.astype(F32), b.astype(F32)
    total = np.zeros((len(a), len(b)), F32)
    for k in range(a.shape[1]):
        total += np.outer(a[:, k], b[:, k])
    return total
