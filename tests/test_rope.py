"""Rotary position embedding: a golden vector, the oracle's gradient, kernels against the oracle."""
import numpy as np
import pytest

from aprnb.oracle.rope import rope_backward, rope_forward
from judge import DTYPES, assert_gradient, judge, lanes, normal, run_kernel
from tolerance import F32

# (B, T, N, rotated heads, D)
SHAPES = lanes([(1, 1, 1, 1, 2), (2, 3, 5, 3, 6)], [(2, 127, 18, 16, 64), (1, 33, 6, 5, 128)])


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
    np.testing.assert_allclose(x[0, :, 0], want, atol=1e-15)


@lanes([(1, 2, 1, 4)])
def test_golden_vector_of_the_kernel(shape):
    x, want = golden(F32)
    cos, sin = angles(2, 4)
    got = run_kernel("rope", "rope_forward", {"x": x, "cos": cos, "sin": sin, "heads": 1})
    np.testing.assert_allclose(got["x"][0, :, 0], want, atol=1e-7)


def test_gradient_against_central_differences():
    start, weight = (normal(i, (2, 3, 4, 6), np.float64) for i in range(2))
    tables = angles(3, 6, dtype=np.float64)

    def loss():
        x = start.copy()
        rope_forward(x, *tables, 3)
        return (x * weight).sum()
    dx = weight.copy()
    rope_backward(dx, *tables, 3)
    assert_gradient("dx", loss, start, dx)


@SHAPES
@DTYPES
@pytest.mark.parametrize("op, name", [("rope_forward", "x"), ("rope_backward", "dx")])
def test_rotation(shape, dtype, op, name):
    B, T, N, heads, D = shape
    cos, sin = angles(T, D)
    x = normal(0, (B, T, N, D), dtype)
    got = judge("rope", op, {name: x, "cos": cos, "sin": sin, "heads": heads}, (name,))
    assert got[name][:, :, heads:].tobytes() == x[:, :, heads:].tobytes()
