"""AdamW: closed form of one step, 100 steps against a scalar loop, kernel against the oracle."""
import math

import numpy as np
import pytest

from aprnb.oracle.adamw import adamw
from judge import DTYPES, judge, lanes, normal, blank
from tolerance import F32

BETA1, BETA2, EPS, DECAY = 0.9, 0.95, 1e-8, 0.1


def one(value, dtype=F32):
    return np.array([value], dtype)


def test_first_step_in_closed_form():
    """With corrected moments the first step is lr * sign(g) (eps aside) plus the decay."""
    g = np.array([3.0, -0.01, 5.0, 0.2])
    w, m, v = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4), np.zeros(4)
    adamw(w, None, m, v, g, one(0.1, float), one(1 - BETA1, float), one(1 - BETA2, float),
          one(1.0, float), BETA1, BETA2, 0.0, DECAY, 2)
    np.testing.assert_allclose(w, [0.99 - 0.1, 1.98 + 0.1, 3 - 0.1, 4 - 0.1], rtol=1e-12)
    np.testing.assert_allclose(m, (1 - BETA1) * g)
    np.testing.assert_allclose(v, (1 - BETA2) * g * g)


def scalar_trace(w, gradients, rates, clips, decayed):
    """AdamW by the paper, one parameter at a time in Python floats."""
    m = v = 0.0
    for t, (g, lr, clip) in enumerate(zip(gradients, rates, clips), 1):
        g *= clip
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        mhat, vhat = m / (1 - BETA1 ** t), v / (1 - BETA2 ** t)
        w = w - lr * DECAY * decayed * w - lr * mhat / (math.sqrt(vhat) + EPS)
    return w, m, v


def test_hundred_steps_against_a_scalar_loop():
    n, steps, decayed = 5, 100, 3
    gradients = normal(0, (steps, n), np.float64)
    rates, clips = np.linspace(1e-3, 1e-4, steps), np.linspace(0.2, 1, steps)
    start = normal(1, n, np.float64)
    w, m, v = start.copy(), np.zeros(n), np.zeros(n)
    for t in range(steps):
        adamw(w, None, m, v, gradients[t], rates[t:t + 1], one(1 - BETA1 ** (t + 1), float),
              one(1 - BETA2 ** (t + 1), float), clips[t:t + 1], BETA1, BETA2, EPS, DECAY, decayed)
    for i in range(n):
        want = scalar_trace(start[i], gradients[:, i], rates, clips, i < decayed)
        np.testing.assert_allclose((w[i], m[i], v[i]), want, rtol=1e-12)


@lanes([(1,), (37,)], [(1_000_003,)])
@DTYPES
@pytest.mark.parametrize("decayed", [0, 0.5, 1])
def test_kernel(shape, dtype, decayed):
    """dtype is the working copy's; in float32 the master is its own working copy."""
    n, t = shape[0], 7
    judge("adamw", "adamw", {
        "w": normal(0, n, F32), "work": None if dtype == F32 else blank(n, dtype),
        "m": normal(1, n, F32, 0.1), "v": np.abs(normal(2, n, F32, 0.1)),
        "g": normal(3, n, F32), "lr": one(1e-2), "correction1": one(1 - BETA1 ** t),
        "correction2": one(1 - BETA2 ** t), "clip": one(0.7), "beta1": BETA1, "beta2": BETA2,
        "eps": EPS, "decay": DECAY, "decayed": int(decayed * n)},
        ("w", "m", "v") if dtype == F32 else ("w", "work", "m", "v"))
