"""RMSNorm with 16-byte accesses against the oracle: one warp a row up to eight, ragged rows."""
import numpy as np
import pytest

from judge import blank, judge, normal, oracle_results, run_kernel
from test_rmsnorm import backward_arguments, cancelling, forward_arguments
from tolerance import BF16, F32, assert_agrees

pytestmark = pytest.mark.gpu
# one vector; a row's last vectors missing; 1, 2, 4 and 8 warps a row; more rows than blocks hold
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 8), (3, 24), (7, 264), (19, 896), (5, 1024), (6, 1032), (3, 1536), (5, 3584),
              (3, 8192), (5003, 896), (1700, 1536), (1100, 3584), (600, 8192)],
    ids=lambda shape: "x".join(map(str, shape)))


@SHAPES
def test_forward(shape):
    judge("rmsnorm", "rmsnorm_forward", forward_arguments(shape, BF16), ("y", "rstd"), room="sm80")


@SHAPES
def test_add_forward(shape):
    """The norm reads s as it was stored, so its truth starts from there."""
    (R, C), w = shape, normal(2, shape[1], BF16)
    got = judge("rmsnorm", "add_rmsnorm_forward", {
        "s": blank(shape, BF16), "y": blank(shape, BF16), "rstd": blank(R, F32),
        "x": normal(0, shape, BF16), "r": normal(1, shape, BF16), "w": w, "eps": 1e-6},
        ("s",), free=("y", "rstd"), room="sm80")
    norm = {"y": blank(shape, BF16), "rstd": blank(R, F32), "x": got["s"], "w": w, "eps": 1e-6}
    truth, peer = oracle_results("rmsnorm", "rmsnorm_forward", norm)
    for name in ("y", "rstd"):
        assert_agrees(name, got[name], truth[name], peer[name])


@SHAPES
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward(shape, accumulate):
    arguments = backward_arguments(shape, BF16, accumulate)
    judge("rmsnorm", "rmsnorm_backward", arguments, ("dx", "dw"),
          scales=cancelling(arguments, "x"), room="sm80")


@SHAPES
@pytest.mark.parametrize("in_place", [False, True])
def test_add_backward(shape, in_place):
    """dx may be ds itself: the residual gradient is updated where it stands."""
    a, ds = backward_arguments(shape, BF16, True), normal(4, shape, BF16)
    judge("rmsnorm", "add_rmsnorm_backward", {
        "dx": ds if in_place else a["dx"], "dw": a["dw"], "dy": a["dy"], "ds": ds, "s": a["x"],
        "w": a["w"], "rstd": a["rstd"], "accumulate": True}, ("dx", "dw"),
        scales=cancelling(a, "s"), room="sm80")


@pytest.mark.parametrize("shape", [(9, 896), (5, 3584)])
def test_a_gradient_along_the_row_vanishes(shape):
    """dy = x: nothing of it changes the norm's output. Shows the mean, which hides elsewhere."""
    a = backward_arguments(shape, BF16, False)
    a["dy"], a["w"] = a["x"].copy(), np.ones(shape[1], BF16)
    got = run_kernel("rmsnorm", "rmsnorm_backward", a, "sm80")
    assert np.abs(got["dx"].astype(F32)).max() < 1e-5


@pytest.mark.parametrize("shape, dtype, reason", [
    ((4, 12), BF16, "rows of 12 bfloat16 are no multiple of 16 bytes"),
    ((4, 8200), BF16, "rows of 8200 elements, these kernels hold 8192 at most"),
    ((4, 16), F32, "float32 storage, these kernels have bfloat16")])
def test_misfits_are_named(shape, dtype, reason):
    from aprnb.kernels.sm80.rmsnorm import misfit
    assert misfit(*forward_arguments(shape, dtype).values()) == reason
    assert misfit(*backward_arguments(shape, dtype, True).values()) == reason
