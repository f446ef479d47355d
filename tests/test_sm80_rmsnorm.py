"""RMSNorm with 16-byte accesses against the oracle: one warp a row up to eight, ragged rows."""
import numpy as np
import pytest

from judge import blank, judge, normal, oracle_results, run_kernel
from test_rmsnorm import add_forward, backward_arguments, cancelling, forward_arguments
from tolerance import BF16, F32, FUNCTION, UNIT, assert_within, gamma

pytestmark = pytest.mark.gpu
# one vector; a row's last vectors missing; 1, 2, 4 and 8 warps a row; more rows than blocks hold
COMMON = [(1, 8), (3, 24), (7, 264), (19, 896), (5, 1024), (6, 1032), (3, 1536), (5, 3584),
          (5003, 896), (1700, 1536), (1100, 3584)]
SHAPES = pytest.mark.parametrize(
    "shape, residual", [*((s, BF16) for s in [*COMMON, (3, 8192), (600, 8192)]),
                        *((s, F32) for s in [*COMMON, (9, 512), (5003, 504), (600, 4096)])],
    ids=lambda value: "x".join(map(str, value)) if isinstance(value, tuple) else f"s-{value}")


@SHAPES
def test_forward(shape, residual):
    judge("rmsnorm", "rmsnorm_forward", forward_arguments(shape, BF16, residual), ("y", "rstd"),
          room="sm80")


@pytest.mark.parametrize("eps", [1e-5, 1e-6])
@pytest.mark.parametrize("shape", [(3, 24), (19, 896)])
def test_forward_of_small_values(shape, eps):
    """Values of 1e-3: their mean square is no larger than eps."""
    judge("rmsnorm", "rmsnorm_forward", forward_arguments(shape, BF16, scale=1e-3, eps=eps),
          ("y", "rstd"), room="sm80")


@SHAPES
def test_add_forward(shape, residual):
    add_forward(shape, BF16, residual, "sm80")


@SHAPES
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward(shape, residual, accumulate):
    arguments = backward_arguments(shape, BF16, accumulate, residual)
    judge("rmsnorm", "rmsnorm_backward", arguments, ("dx", "dw"),
          scales=cancelling(arguments, "x"), room="sm80")


@SHAPES
@pytest.mark.parametrize("in_place", [False, True])
def test_add_backward(shape, residual, in_place):
    """dx may be ds itself: the residual gradient is updated where it stands."""
    a, ds = backward_arguments(shape, BF16, True, residual), normal(4, shape, residual)
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
    truth = oracle_results("rmsnorm", "rmsnorm_backward", a)[0]["dx"]  # what eps leaves of it
    # roundings of terms as large as rstd * x, and of their mean, a tree of sums over a row
    rounded = gamma(np.log2(shape[1]) + FUNCTION, F32) * cancelling(a, "x")["dx"]
    assert_within("dx", got["dx"], truth, rounded + UNIT[BF16] * np.abs(truth))


@pytest.mark.parametrize("shape, dtype, residual, reason", [
    ((4, 8192), BF16, BF16, None), ((4, 4096), BF16, F32, None),
    ((4, 12), BF16, BF16, "rows of 12 bfloat16 are no multiple of 16 bytes"),
    ((4, 12), BF16, F32, "rows of 12 bfloat16 are no multiple of 16 bytes"),
    ((4, 8200), BF16, BF16, "rows of 8200 elements, these kernels hold 8192 at most"),
    ((4, 4104), BF16, F32, "rows of 4104 elements, these kernels hold 4096 at most"),
    ((4, 16), F32, F32, "float32 storage, these kernels have bfloat16")])
def test_misfits_are_named(shape, dtype, residual, reason):
    from aprnb.kernels.sm80.rmsnorm import misfit
    forward = forward_arguments(shape, dtype, residual)
    backward = backward_arguments(shape, dtype, True, residual)
    y, rstd, x, w, eps = forward.values()
    dx, dw, dy, x, w, rstd, accumulate = backward.values()
    assert misfit(*forward.values()) == misfit(*backward.values()) == reason
    assert misfit(x, y, rstd, x, y, w, eps) == reason  # with add: s, y, rstd, x, r, ...
    assert misfit(dx, dw, dy, x, x, w, rstd, accumulate) == reason


def test_a_stream_of_two_types_is_a_misfit():
    from aprnb.kernels.sm80.rmsnorm import misfit
    arguments = backward_arguments((4, 16), BF16, True, F32) | {"dx": blank((4, 16), BF16)}
    assert misfit(*arguments.values()) == "a residual stream of bfloat16 and float32"
