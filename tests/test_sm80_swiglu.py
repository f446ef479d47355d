"""SwiGLU with 16-byte accesses against the oracle."""
import numpy as np
import pytest

from judge import blank, judge, normal, run_kernel
from tolerance import BF16, F32

pytestmark = pytest.mark.gpu
# one vector; a warp with one too few, all, one more; one and two rounds a row; the real row
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 8), (3, 248), (2, 512), (3, 520), (2, 5120), (3, 5128), (131, 4864)],
    ids=lambda shape: "x".join(map(str, shape)))


@SHAPES
def test_forward(shape):
    R, F = shape
    judge("swiglu", "swiglu_forward",
          {"y": blank(shape, BF16), "gu": normal(0, (R, 2 * F), BF16, 3)}, ("y",), room="sm80")


@SHAPES
def test_backward(shape):
    R, F = shape
    judge("swiglu", "swiglu_backward", {
        "dgu": blank((R, 2 * F), BF16), "dy": normal(1, shape, BF16),
        "gu": normal(0, (R, 2 * F), BF16, 3)}, ("dgu",), room="sm80")


def test_gates_far_out():
    """silu(-1000) is 0 and silu(1000) is 1000, without overflow on the way."""
    gu = np.array([[-3e38, -1000, -200, -89, 89, 200, 1000, 3e38] + [1] * 8], BF16)
    want = np.maximum(gu[:, :8].astype(F32), 0)
    got = run_kernel("swiglu", "swiglu_forward", {"y": blank((1, 8), BF16), "gu": gu}, "sm80")
    np.testing.assert_array_equal(got["y"].astype(F32), want)
    got = run_kernel("swiglu", "swiglu_backward", {
        "dgu": blank((1, 16), BF16), "dy": np.ones((1, 8), BF16), "gu": gu}, "sm80")["dgu"]
    np.testing.assert_array_equal(got[:, :8].astype(F32), want > 0)
    np.testing.assert_array_equal(got[:, 8:].astype(F32), want)


def test_misfits_are_named():
    from aprnb.kernels.sm80.swiglu import misfit
    assert misfit(blank((4, 12), BF16), blank((4, 24), BF16)) == (
        "rows of 12 bfloat16 are no multiple of 16 bytes")
    assert misfit(blank((4, 8), F32), blank((4, 16), F32)).startswith("float32 storage")
