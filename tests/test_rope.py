"""Rotary position embedding: a golden vector, the model's own angles, the oracle's gradient,
kernels against the oracle."""
import math

import numpy as np
import pytest

from aprnb.config import PRESETS, RopeScaling
from aprnb.model.rope_table import rope_table
from aprnb.oracle.rope import rope_backward, rope_backward_bias, rope_forward
from judge import DTYPES, assert_gradient, blank, judge, lanes, normal, run_kernel
from tolerance import F32, FUNCTION, gamma

pytestmark = pytest.mark.numeric

# (B, T, N, rotated heads, D)
SHAPES = lanes([(1, 1, 1, 1, 2), (2, 3, 5, 3, 6)], [(2, 127, 18, 16, 64), (1, 33, 6, 5, 128),
                                                           (70_000, 1, 3, 2, 6)])


def angles(T, D, theta=1e4, dtype=F32):
    angle = np.arange(T)[:, None] * theta ** (-2 * np.arange(D // 2) / D)
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


def golden(dtype):
    """d = 4, position 1, theta 1e4, x = (1, 0, 0, 0): split halves put sin 1 at index 2."""
    x = np.zeros((1, 2, 1, 4), dtype)
    x[0, :, 0, 0] = 1
    return x, [[1, 0, 0, 0], [np.cos(1), 0, np.sin(1), 0]]


def test_golden_vector_of_the_oracle():
    x, want = golden(np.float64)
    rope_forward(x, *angles(2, 4, dtype=np.float64), 1)
    np.testing.assert_allclose(x[0, :, 0], want, rtol=0, atol=gamma(2 * FUNCTION))


@lanes([(1, 2, 1, 4)])
def test_golden_vector_of_the_kernel(shape):
    x, want = golden(F32)
    cos, sin = angles(2, 4)
    got = run_kernel("rope", "rope_forward", {"x": x, "cos": cos, "sin": sin, "heads": 1})
    np.testing.assert_allclose(got["x"][0, :, 0], want, rtol=0, atol=gamma(2, F32))


def test_heads_behind_the_rotated_ones_stay():
    """Values lie behind queries and keys in one array, and have no position."""
    x = normal(0, (1, 2, 3, 4), np.float64)
    start = x.copy()
    rope_forward(x, *angles(2, 4, dtype=np.float64), 2)
    assert x[:, :, 2:].tobytes() == start[:, :, 2:].tobytes()
    assert (x[:, 1, :2] != start[:, 1, :2]).any()


@pytest.mark.parametrize("theta", [1e4, 1e6])
def test_angles_are_those_of_the_models_base(theta):
    """Position 0 turns nothing; at position 40 the third pair of 64 has turned 40 theta^(-4/64)."""
    config = PRESETS["qwen2.5-0.5b"].with_(rope_theta=theta)
    cos, sin = rope_table(config, 41)
    # the angle in float64, up to 40 radians, then one rounding to float32
    limit = 40 * gamma(4 * FUNCTION) + gamma(1, F32)
    assert cos.shape == sin.shape == (41, 32)
    assert (cos[0] == 1).all() and (sin[0] == 0).all()
    for k in range(32):
        angle = 40 / theta ** (2 * k / 64)
        assert cos[40, k] == pytest.approx(math.cos(angle), rel=0, abs=limit)
        assert sin[40, k] == pytest.approx(math.sin(angle), rel=0, abs=limit)


def test_llama3_scaling_slows_the_low_frequencies_alone():
    """Over a context of 402 positions pair k, with base 16 and 8 pairs, turns 64 * 16^(-k/8) times.

    16 turns and more are kept, 8 and fewer divided by 8, those between blended: pairs 0 to 3 make
    64 to 22.6, pair 5 makes 11.3 and keeps (11.3 - 8) / 8 of them, pairs 6 and 7 make 8.0 and 5.7.
    """
    scaling = RopeScaling(8.0, 8.0, 16.0, 402)
    config = PRESETS["tiny"].with_(head_dim=16, rope_theta=16.0, rope_scaling=scaling)
    cos, sin = rope_table(config, 2)
    got = np.arctan2(sin[1], cos[1]) * 402 / (2 * math.pi)  # turns over the context
    plain = [402 / (2 * math.pi) * 16 ** (-k / 8) for k in range(8)]
    kept = [min(1, max(0, (turns - 8) / 8)) for turns in plain]
    assert kept[3] == 1 and 0 < kept[5] < 1 and kept[6] == kept[7] == 0
    np.testing.assert_allclose(got, [t * (w + (1 - w) / 8) for t, w in zip(plain, kept)],
                               rtol=gamma(8 + FUNCTION, F32))


def test_gradient_against_central_differences():
    start, weight = (normal(i, (2, 3, 4, 6), np.float64) for i in range(2))
    tables = angles(3, 6, dtype=np.float64)

    def loss():
        x = start.copy()
        rope_forward(x, *tables, 3)
        return x * weight
    dx = weight.copy()
    rope_backward(dx, *tables, 3)
    assert_gradient("dx", loss, start, dx)


def check_bias_gradient(run, dtype):
    """dx as rope_backward leaves it; db its column sums over all heads, added to what is there."""
    dx, (cos, sin), start = normal(0, (2, 3, 4, 6), dtype), angles(3, 6), normal(1, 24, F32)
    turned, term = dx.astype(np.float64), 2 * np.abs(dx).max()  # two products make one of turned
    rope_backward(turned, cos.astype(np.float64), sin.astype(np.float64), 3)
    for accumulate in (False, True):
        got = run({"dx": dx.copy(), "db": start.copy() if accumulate else blank(24, F32),
                   "cos": cos, "sin": sin, "heads": 3, "accumulate": accumulate})
        np.testing.assert_allclose(got["dx"].astype(np.float64), turned, rtol=0,
                                   atol=gamma(3, F32) * term)
        want = turned.reshape(6, 24).sum(axis=0) + (start if accumulate else 0)
        np.testing.assert_allclose(got["db"], want, rtol=0,
                                   atol=gamma(3 + 7, F32) * (6 * term + np.abs(start).max()))


def test_bias_gradient_of_the_oracle():
    def run(arguments):
        rope_backward_bias(**arguments)
        return arguments
    check_bias_gradient(run, F32)


@lanes([(2, 3, 4, 3, 6)])
def test_bias_gradient_of_the_kernel(shape):
    check_bias_gradient(lambda arguments: run_kernel("rope", "rope_backward_bias", arguments), F32)


@SHAPES
@DTYPES
@pytest.mark.parametrize("op, name", [("rope_forward", "x"), ("rope_backward", "dx")])
def test_rotation(shape, dtype, op, name):
    B, T, N, heads, D = shape
    cos, sin = angles(T, D)
    x = normal(0, (B, T, N, D), dtype)
    got = judge("rope", op, {name: x, "cos": cos, "sin": sin, "heads": heads}, (name,))
    assert got[name][:, :, heads:].tobytes() == x[:, :, heads:].tobytes()
