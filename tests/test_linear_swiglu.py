"""Gate and up projection with SwiGLU behind them, and back: composed and fused."""
import numpy as np
import pytest

from aprnb.oracle.linear_swiglu import linear_swiglu_forward, swiglu_linear_backward
from judge import assert_gradient, blank, judge, lanes, normal
from tolerance import BF16, F32, truncations

pytestmark = pytest.mark.numeric

# (R, C, F); the fused kernels have tiles of 128 rows and 128 columns
SHAPES = lanes([(3, 5, 7)], [(129, 33, 65)])
FUSED = [(8, 8, 8), (64, 64, 128), (136, 40, 72), (300, 136, 264), (1000, 896, 1096),
         (2048, 896, 4864)]


def test_gradients_against_central_differences():
    R, C, F = 4, 5, 3
    x, w, v, dy = (normal(i, s, np.float64) for i, s in enumerate([(R, C), (2 * F, C), (C, F),
                                                                   (R, C)]))
    h, gu, dgu, dh, dv = (np.empty(s) for s in ((R, F), (R, 2 * F), (R, 2 * F), (R, F), (C, F)))

    def loss():
        linear_swiglu_forward(h, gu, x, w)
        return h @ v.T * dy
    loss()
    swiglu_linear_backward(dgu, dh, dv, dy, gu, h, v, False)
    assert_gradient("w", loss, w, dgu.T @ x)
    assert_gradient("v", loss, v, dv)


def forward(shape, dtype, room="", allowances=None):
    R, C, F = shape
    judge("linear_swiglu", "linear_swiglu_forward", {
        "h": blank((R, F), dtype), "gu": blank((R, 2 * F), dtype), "x": normal(0, (R, C), dtype),
        "w": normal(1, (2 * F, C), dtype, C ** -0.5)}, ("h", "gu"), room=room,
        allowances=allowances)


def backward(shape, dtype, accumulate, room="", allowances=None):
    R, C, F = shape
    judge("linear_swiglu", "swiglu_linear_backward", {
        "dgu": blank((R, 2 * F), dtype), "dh": blank((R, F), dtype),
        "dw": normal(5, (C, F), F32) if accumulate else blank((C, F), F32),
        "dy": normal(2, (R, C), dtype), "gu": normal(3, (R, 2 * F), dtype),
        "h": normal(4, (R, F), dtype), "w": normal(6, (C, F), dtype, C ** -0.5),
        "accumulate": accumulate}, ("dgu", "dw"), free=("dh",), room=room, allowances=allowances)


@SHAPES
def test_forward_composed(shape):
    forward(shape, F32)


@SHAPES
def test_backward_composed(shape):
    backward(shape, F32, True)


@pytest.mark.gpu
@pytest.mark.parametrize("room", ["sm90", "sm80"])
@pytest.mark.parametrize("shape", FUSED, ids=lambda s: "x".join(map(str, s)))
def test_forward_on_tensor_cores(shape, room):
    C = shape[1]
    forward(shape, BF16, room, {"h": truncations(C), "gu": truncations(C)})


@pytest.mark.gpu
@pytest.mark.parametrize("room", ["sm90", "sm80"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("shape", FUSED, ids=lambda s: "x".join(map(str, s)))
def test_backward_on_tensor_cores(shape, accumulate, room):
    R, C, _ = shape
    backward(shape, BF16, accumulate, room, {"dgu": truncations(C), "dw": truncations(R)})
