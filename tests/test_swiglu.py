"""SwiGLU on packed gate and up: oracle gradient, kernels against the oracle."""
import math

import numpy as np
import pytest

from aprnb.oracle.swiglu import swiglu_backward, swiglu_forward
from judge import DTYPES, assert_gradient, blank, judge, lanes, normal, run_kernel
from tolerance import F32, FUNCTION, assert_within, gamma

pytestmark = pytest.mark.numeric

SHAPES = lanes([(1, 1), (3, 31), (2, 33)], [(5, 257), (512, 4864)])


def test_oracle_against_the_definition():
    """The gate stands left, up stands right."""
    gu, y = normal(0, (3, 10), np.float64), np.empty((3, 5))
    swiglu_forward(y, gu)
    want = [[g / (1 + math.exp(-g)) * u for g, u in zip(row[:5], row[5:])] for row in gu]
    # a sigmoid near 0 is the difference of two halves: the scale is that of gate times up
    assert_within("y", y, want, gamma(4 * FUNCTION) * np.abs(gu[:, :5] * gu[:, 5:]))


def test_gradient_against_central_differences():
    gu, dy = normal(0, (3, 10), np.float64), normal(1, (3, 5), np.float64)
    y, dgu = np.empty((3, 5)), np.empty((3, 10))

    def loss():
        swiglu_forward(y, gu)
        return y * dy
    swiglu_backward(dgu, dy, gu)
    assert_gradient("dgu", loss, gu, dgu)


@SHAPES
@DTYPES
def test_forward(shape, dtype):
    R, F = shape
    judge("swiglu", "swiglu_forward",
          {"y": blank(shape, dtype), "gu": normal(0, (R, 2 * F), dtype)}, ("y",))


@SHAPES
@DTYPES
def test_backward(shape, dtype):
    R, F = shape
    judge("swiglu", "swiglu_backward", {
        "dgu": blank((R, 2 * F), dtype), "dy": normal(1, shape, dtype),
        "gu": normal(0, (R, 2 * F), dtype)}, ("dgu",))


@lanes([(1, 4)])
def test_gates_far_out(shape):
    """silu(-200) is 0 and silu(200) is 200, without overflow on the way."""
    gu = np.array([[-1000, -200, 200, 1000, 1, 1, 1, 1]], F32)
    got = run_kernel("swiglu", "swiglu_forward", {"y": blank(shape, F32), "gu": gu})
    assert got["y"].tolist() == [[0, 0, 200, 1000]]
    got = run_kernel("swiglu", "swiglu_backward",
                     {"dgu": blank((1, 8), F32), "dy": np.ones(shape, F32), "gu": gu})
    assert got["dgu"].tolist() == [[0, 0, 1, 1, 0, 0, 200, 1000]]
