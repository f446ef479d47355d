"""RMSNorm and its fusion with the residual add: oracle gradients, kernels against the oracle."""
import numpy as np
import pytest

from aprnb.oracle.rmsnorm import (add_rmsnorm_backward, add_rmsnorm_forward, rmsnorm_backward,
                                  rmsnorm_forward)
from judge import STREAMS, assert_gradient, blank, judge, lanes, normal, oracle_results
from tolerance import BF16, F32, assert_agrees, gamma

pytestmark = pytest.mark.numeric

SHAPES = lanes([(1, 1), (3, 17), (2, 33)], [(5, 31), (5, 32), (7, 255), (7, 257), (1024, 896)])


def test_gradients_against_central_differences():
    x, w, dy = (normal(i, s, np.float64) for i, s in enumerate([(4, 7), (7,), (4, 7)]))
    y, rstd, dx, dw = np.empty_like(x), np.empty(4), np.empty_like(x), np.empty(7)

    def loss():
        rmsnorm_forward(y, rstd, x, w, 1e-6)
        return y * dy
    loss()
    rmsnorm_backward(dx, dw, dy, x, w, rstd, False)
    assert_gradient("dx", loss, x, dx)
    assert_gradient("dw", loss, w, dw)


def test_fused_gradients_against_central_differences():
    """The loss reads both outputs: s, the stream, with weight ds, and y with weight dy."""
    x, r, dy, ds = (normal(i, (4, 7), np.float64) for i in range(4))
    w = normal(9, 7, np.float64)
    s, y, rstd, dx, dw = *(np.empty_like(x) for _ in range(2)), np.empty(4), np.empty_like(x), \
        np.empty(7)

    def loss():
        add_rmsnorm_forward(s, y, rstd, x, r, w, 1e-6)
        return np.concatenate([y * dy, s * ds])
    loss()
    add_rmsnorm_backward(dx, dw, dy, ds, s, w, rstd, False)
    assert_gradient("dx", loss, x, dx)
    assert_gradient("dr", loss, r, dx)
    assert_gradient("dw", loss, w, dw)


def test_eps_is_added_to_the_mean_square():
    """At x ~ 1e-3 the mean square is 1e-6: both eps matter, and differ."""
    x, w, rstd = np.full((1, 8), 1e-3), np.ones(8), np.empty(1)
    y = {eps: np.empty((1, 8)) for eps in (1e-5, 1e-6)}
    for eps, out in y.items():
        rmsnorm_forward(out, rstd, x, w, eps)
        np.testing.assert_allclose(out, 1e-3 / np.sqrt(1e-6 + eps), rtol=gamma(24))
    assert y[1e-6][0, 0] / y[1e-5][0, 0] == pytest.approx(np.sqrt(11 / 2), rel=gamma(2 * 24))


def test_statistics_are_kept_in_float32():
    """Rows in bfloat16: the root mean square is right to float32's last places nevertheless."""
    a = forward_arguments((5, 896), BF16)
    rmsnorm_forward(*a.values())
    want = 1 / np.sqrt((a["x"].astype(np.float64) ** 2).mean(axis=1) + 1e-6)
    np.testing.assert_allclose(a["rstd"], want, rtol=gamma(896 + 8, F32))


def test_the_norm_reads_the_sum_as_stored():
    """In bfloat16 the stored sum is rounded: backward reads that one, so forward does too."""
    x, r, w = normal(0, (3, 64), BF16), normal(1, (3, 64), BF16), normal(2, 64, BF16)
    s, y, rstd, alone = blank(x.shape, BF16), blank(x.shape, BF16), blank(3, F32), blank(3, F32)
    add_rmsnorm_forward(s, y, rstd, x, r, w, 1e-6)
    rmsnorm_forward(y, alone, s, w, 1e-6)
    assert rstd.tobytes() == alone.tobytes()


def forward_arguments(shape, dtype, residual=None, scale=1.0, eps=1e-6):
    R, C = shape
    return {"y": blank(shape, dtype), "rstd": blank(R, F32),
            "x": normal(0, shape, residual or dtype, scale), "w": normal(1, C, dtype), "eps": eps}


@SHAPES
@STREAMS
def test_forward(shape, dtype, residual):
    judge("rmsnorm", "rmsnorm_forward", forward_arguments(shape, dtype, residual), ("y", "rstd"))


@lanes([(2, 33)], [(64, 896)])
@pytest.mark.parametrize("eps", [1e-5, 1e-6])
def test_forward_of_small_values(shape, eps):
    judge("rmsnorm", "rmsnorm_forward", forward_arguments(shape, F32, scale=1e-3, eps=eps),
          ("y", "rstd"))


def backward_arguments(shape, dtype, accumulate, residual=None):
    R, C = shape
    residual = residual or dtype
    x, w = normal(0, shape, residual), normal(1, C, dtype)
    rstd = (1 / np.sqrt((x.astype(F32) ** 2).mean(axis=1) + 1e-6)).astype(F32)
    return {"dx": blank(shape, residual), "dw": normal(2, C, F32) if accumulate else blank(C, F32),
            "dy": normal(3, shape, dtype), "x": x, "w": w, "rstd": rstd, "accumulate": accumulate}


def cancelling(arguments, x):
    """Size of the terms whose difference is the gradient: g * rstd."""
    g = np.abs(arguments["dy"].astype(F32) * arguments["w"].astype(F32))
    return {"dx": float((g * arguments["rstd"][:, None]).max())}


@SHAPES
@STREAMS
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward(shape, dtype, residual, accumulate):
    arguments = backward_arguments(shape, dtype, accumulate, residual)
    judge("rmsnorm", "rmsnorm_backward", arguments, ("dx", "dw"),
          scales=cancelling(arguments, "x"))


@SHAPES
@STREAMS
def test_add_forward(shape, dtype, residual):
    add_forward(shape, dtype, residual)


def add_forward(shape, dtype, residual, room=""):
    """The norm reads s as it was stored, so its truth starts from there."""
    (R, C), w = shape, normal(2, shape[1], dtype)
    got = judge("rmsnorm", "add_rmsnorm_forward", {
        "s": blank(shape, residual), "y": blank(shape, dtype), "rstd": blank(R, F32),
        "x": normal(0, shape, residual), "r": normal(1, shape, dtype), "w": w, "eps": 1e-6},
        ("s",), free=("y", "rstd"), room=room)
    norm = {"y": blank(shape, dtype), "rstd": blank(R, F32), "x": got["s"], "w": w, "eps": 1e-6}
    truth, peer = oracle_results("rmsnorm", "rmsnorm_forward", norm)
    for name in ("y", "rstd"):
        assert_agrees(name, got[name], truth[name], peer[name])


@SHAPES
@STREAMS
@pytest.mark.parametrize("in_place", [False, True])
def test_add_backward(shape, dtype, residual, in_place):
    """dx may be ds itself: the residual gradient is updated where it stands."""
    a = backward_arguments(shape, dtype, True, residual)
    ds = normal(4, shape, residual)
    judge("rmsnorm", "add_rmsnorm_backward", {
        "dx": ds if in_place else a["dx"], "dw": a["dw"], "dy": a["dy"], "ds": ds, "s": a["x"],
        "w": a["w"], "rstd": a["rstd"], "accumulate": True}, ("dx", "dw"),
        scales=cancelling(a, "s"))
