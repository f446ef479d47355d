"""How far a kernel may be from the truth: measured, not chosen.

    truth   the oracle fed float64
    peer    the oracle fed the kernel's own storage types
    got     the kernel

    limit   2 * max|peer - truth| + eps(dtype) * scale, on every element
    gain    <got, truth> / <truth, truth> - 1, on the whole array: sees small consistent errors
            that rounding noise hides from the limit. Noise averages out over the elements that
            carry the power, n = (sum truth^2)^2 / sum truth^4: all of them when they are alike,
            few when some are far larger (gradients of the first keys, which every query sees)
"""
import ml_dtypes
import numpy as np

EPS = {np.dtype(np.float32): 1.2e-7, np.dtype(ml_dtypes.bfloat16): 7.8e-3}
BF16 = np.dtype(ml_dtypes.bfloat16)
F32 = np.dtype(np.float32)


def assert_agrees(name, got, truth, peer, scale=None, allowance=0.0):
    """Both checks; scale is max|truth| unless larger terms cancel in the result; allowance: what
    the hardware's own arithmetic may add, as a fraction of the scale."""
    eps = EPS[got.dtype] + allowance
    got64, peer64 = got.astype(np.float64), peer.astype(np.float64)
    scale = np.abs(truth).max() if scale is None else scale
    own = np.abs(peer64 - truth).max()
    error, limit = np.abs(got64 - truth), 2 * own + eps * scale
    over = ~(error <= limit)  # NaN is over
    if over.any():
        at = np.unravel_index(np.argmax(np.where(np.isnan(error), np.inf, error)), error.shape)
        raise AssertionError(
            f"{name}[{','.join(map(str, at))}]: got {got64[at]:.7g}, want {truth[at]:.7g}; error "
            f"{error[at]:.1e} > limit {limit:.1e} (oracle's own error {own:.1e}, {over.sum()} of "
            f"{over.size} over)")
    power = float((truth * truth).sum())
    if power > 0:
        gain = float((got64 * truth).sum()) / power - 1
        cancelled = max(1.0, scale / np.abs(truth).max())
        carrying = power ** 2 / float((truth ** 4).sum())
        bound = (4 * EPS[F32] + allowance + 2 * eps / np.sqrt(carrying)) * cancelled
        assert abs(gain) <= bound, f"{name}: gain {gain:.2e}, bound {bound:.2e}"


def in_order(a, b):
    """a @ b.T in float32, summed over ascending k: the kernels' order (K may exceed 4096)."""
    a, b = a.astype(F32), b.astype(F32)
    total = np.zeros((len(a), len(b)), F32)
    for k in range(a.shape[1]):
        total += np.outer(a[:, k], b[:, k])
    return total
