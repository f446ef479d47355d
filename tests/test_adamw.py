"""AdamW: closed form of one step, 100 steps against a scalar loop, kernel against the oracle."""
import math

import numpy as np
import pytest

from aprnb.oracle.adamw import adamw
from judge import DTYPES, judge, lanes, normal, blank
from tolerance import BF16, F32, assert_within, gamma

pytestmark = pytest.mark.numeric

BETA1, BETA2, EPS, DECAY = 0.9, 0.95, 1e-8, 0.1
ROUNDINGS = 16  # of one update, and a few of what it is compared with


def one(value, dtype=F32):
    return np.array([value], dtype)


def test_first_step_in_closed_form():
    """With corrected moments the first step is lr * sign(g) (eps aside) plus the decay."""
    g = np.array([3.0, -0.01, 5.0, 0.2])
    w, m, v = np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4), np.zeros(4)
    adamw(w, None, m, v, g, one(0.1, float), one(1 - BETA1, float), one(1 - BETA2, float),
          one(1.0, float), BETA1, BETA2, 0.0, DECAY, 2)
    np.testing.assert_allclose(w, [0.99 - 0.1, 1.98 + 0.1, 3 - 0.1, 4 - 0.1],
                               rtol=gamma(ROUNDINGS))
    np.testing.assert_allclose(m, (1 - BETA1) * g, rtol=gamma(ROUNDINGS))
    np.testing.assert_allclose(v, (1 - BETA2) * g * g, rtol=gamma(ROUNDINGS))


def test_eps_is_added_to_the_root():
    """At gradients of 1e-8, eps counts as much as they do: half a step."""
    w, m, v = np.zeros(1), np.zeros(1), np.zeros(1)
    adamw(w, None, m, v, one(1e-8, float), one(0.1, float), one(1 - BETA1, float),
          one(1 - BETA2, float), one(1.0, float), BETA1, BETA2, EPS, DECAY, 0)
    assert w[0] == pytest.approx(-0.1 / 2, rel=gamma(ROUNDINGS))


PYTORCH = {  # torch.optim.AdamW 2.13, float64: step -> weights with decay 0.1, and with none
    1: ([0.497900472495602, -1.0017995748670099, 1.9995181358049727, 0.002999349952948865],
        [0.49800044999728943, -1.0019995298703848, 1.9999180458117225, 0.0029995499079522397]),
    10: ([0.49048322665833455, -1.0023423493216124, 1.9962560474611903, 0.009906056291345252],
         [0.49146084164326437, -1.0043314872943092, 2.000218221747127, 0.009921266464051056]),
    100: ([0.4842380364064706, -0.9946237890135681, 1.9796778007778622, 0.0120483775360368],
          [0.48929691096633177, -1.004991566198664, 2.0003165819344813, 0.012162863052321641])}


def test_hundred_steps_of_pytorch():
    """Rate 1e-3 (1 + cos 0.03 t), gradient i of step t: s_i sin(0.7 t + i). One of the gradients
    is no larger than eps."""
    sizes, start = np.array([1.0, 1e-3, 1e-9, 0.3]), [0.5, -1.0, 2.0, 1e-3]
    w, m, v = np.array(start * 2), np.zeros(8), np.zeros(8)
    size = np.abs(w)  # of what a weight is the sum of: its start and one rate a step
    for t in range(1, 101):
        size += 1e-3 * (1 + math.cos(0.03 * t))
        g = np.tile(sizes * np.sin(0.7 * t + np.arange(4)), 2)
        adamw(w, None, m, v, g, one(1e-3 * (1 + math.cos(0.03 * t)), float),
              one(1 - BETA1 ** t, float), one(1 - BETA2 ** t, float), one(1.0, float), BETA1,
              BETA2, EPS, DECAY, 4)
        if t in PYTORCH:
            assert_within(f"w after {t} steps", w, np.concatenate(PYTORCH[t]),
                          gamma(ROUNDINGS * t) * size)


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
    # no term of w, m and v is larger than all of these together
    size = np.abs(start).max() + rates.sum() + np.abs(gradients).max() ** 2
    for i in range(n):
        want = scalar_trace(start[i], gradients[:, i], rates, clips, i < decayed)
        np.testing.assert_allclose((w[i], m[i], v[i]), want, rtol=0,
                                   atol=gamma(ROUNDINGS * steps) * size)


@lanes([(37,)], [(1_000_003,)])
def test_kernel_with_gradients_as_small_as_eps(shape):
    n, t = shape[0], 7
    judge("adamw", "adamw", small_gradients(n, None, t), ("w", "m", "v"))


def small_gradients(n, work, t):
    """Weights of zero, so that the step alone is seen; the rate makes it about 1."""
    return {"w": np.zeros(n, F32), "work": work, "m": normal(1, n, F32, 1e-8),
            "v": normal(2, n, F32, 1e-8) ** 2, "g": normal(3, n, F32, 1e-8), "lr": one(1.0),
            "correction1": one(1 - BETA1 ** t), "correction2": one(1 - BETA2 ** t),
            "clip": one(1.0), "beta1": BETA1, "beta2": BETA2, "eps": EPS, "decay": DECAY,
            "decayed": 0}


@pytest.mark.parametrize("decayed", [0, 1, 300_000, 600_000])
def test_blocks_change_nothing_and_the_working_copy_follows(decayed):
    """600,000 parameters are cut into blocks; the boundary of the decay lies within one of them."""
    n, constants = 600_000, (BETA1, BETA2, EPS, DECAY)
    start = [normal(seed, n, F32) for seed in range(4)]
    scalars = [one(x) for x in (1e-2, 0.5, 0.4, 0.7)]
    w, m, v, g = (x.copy() for x in start)
    v, work = np.abs(v), blank(n, BF16)
    adamw(w, work, m, v, g, *scalars, *constants, decayed)
    for at in range(0, n, 100_000):
        part = slice(at, at + 100_000)
        alone, m0, v0, g0 = (x[part].copy() for x in start)
        adamw(alone, None, m0, np.abs(v0), g0, *scalars, *constants, max(0, decayed - at))
        np.testing.assert_array_equal(w[part], alone)
    np.testing.assert_array_equal(work, w.astype(BF16))
    assert not np.array_equal(w, start[0])


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
