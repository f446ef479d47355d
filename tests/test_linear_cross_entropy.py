"""Fused output head and loss: closed forms, oracle gradients, kernels against the oracle."""
import numpy as np
import pytest

from aprnb.oracle.linear_cross_entropy import (linear_cross_entropy_backward,
                                               linear_cross_entropy_forward)
from judge import DTYPES, assert_gradient, blank, judge, lanes, normal, run_kernel
from tolerance import BF16, F32, FUNCTION, UNIT, allowed, gamma, in_order, truncations

pytestmark = pytest.mark.numeric

# (R, C, V, chunk): one chunk, a short last chunk, rows one by one
SMALL = [(1, 1, 1, 1), (5, 7, 11, 2), (3, 5, 33, 8)]
REAL = [(130, 64, 4096, 64), (96, 896, 8009, 64), (17, 13, 1021, 1)]
# the last of them with rows so long that, on Hopper, they are held on the chip
TENSOR_CORES = [(1, 8, 8, 1), (5, 16, 11, 2), (300, 136, 1009, 128), (96, 896, 8009, 64),
                (20, 64, 151_936, 16)]


def arguments_of(shape, dtype):
    R, C, V, chunk = shape
    targets = np.random.default_rng(3).integers(0, V, R).astype(np.int32)
    targets[1::3] = -1  # rows that count for nothing
    return {"losses": blank(R, F32), "logits": blank((chunk, V), F32),
            "x": normal(0, (R, C), dtype), "w": normal(1, (V, C), dtype, C ** -0.5),
            "targets": targets}


def with_gradients(shape, dtype, accumulate):
    a, (R, C, V, _) = arguments_of(shape, dtype), shape
    dw = normal(2, (V, C), F32) if accumulate else blank((V, C), F32)
    return {"losses": a["losses"], "dx": blank((R, C), dtype), "dw": dw, "logits": a["logits"],
            "x": a["x"], "w": a["w"], "targets": a["targets"],
            "scale": np.array([1 / R], F32), "accumulate": accumulate}


def test_gradients_against_central_differences():
    R, C, V = 5, 4, 6
    x, w, z = normal(0, (R, C), np.float64), normal(1, (V, C), np.float64), np.empty((2, V))
    targets = np.array([0, 5, -1, 2, 2], np.int32)
    losses, dx, dw, scale = np.empty(R), np.empty((R, C)), np.empty((V, C)), np.array([0.25])

    def loss():
        linear_cross_entropy_forward(losses, z, x, w, targets)
        return losses * scale[0]
    linear_cross_entropy_backward(losses, dx, dw, z, x, w, targets, scale, False)
    assert_gradient("dx", loss, x, dx)
    assert_gradient("dw", loss, w, dw)


def test_rows_without_a_target_count_for_nothing():
    """In two chunks; what the outputs held before is gone."""
    R, C, V = 5, 4, 6
    x, w = normal(0, (R, C), np.float64), normal(1, (V, C), np.float64)
    targets = np.array([0, -1, -7, 2, -1], np.int32)
    losses, dx, dw = (blank(s, np.float64) for s in (R, (R, C), (V, C)))
    linear_cross_entropy_backward(losses, dx, dw, np.empty((3, V)), x, w, targets, np.ones(1),
                                  False)
    kept = targets >= 0
    assert not losses[~kept].any() and not dx[~kept].any() and losses[kept].all()
    alone = blank((V, C), np.float64)
    linear_cross_entropy_backward(blank(2, F32), blank((2, C), np.float64), alone,
                                  np.empty((2, V)), x[kept], w, targets[kept], np.ones(1), False)
    logit = (np.abs(x) @ np.abs(w).T).max()  # what one is rounded at; exp makes it relative
    np.testing.assert_allclose(dw, alone, rtol=0, atol=(
        2 * gamma(C + V + R + 2 * FUNCTION) * (1 + logit) * np.abs(x).sum(axis=0).max()))


@pytest.mark.parametrize("chunk", [1, 2, 5])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("scratch", [F32, BF16], ids=["f32", "bf16"])
def test_chunks_and_the_type_of_the_scratch_change_rounding_only(chunk, accumulate, scratch):
    a = with_gradients((5, 4, 6, 5), F32, accumulate)
    want = {name: a[name].astype(np.float64) for name in ("losses", "dx", "dw")}
    wide = a | want | {n: a[n].astype(np.float64) for n in ("logits", "x", "w", "scale")}
    linear_cross_entropy_backward(*wide.values())
    a["logits"] = blank((chunk, 6), scratch)
    peer = gradients_in_order(**a) | {"losses": losses_in_order(a["x"], a["w"], a["targets"],
                                                                scratch)}
    linear_cross_entropy_backward(*a.values())
    size = sizes(a)
    for name in want:
        limit = allowed(np.abs(peer[name] - want[name]).max(),
                        max(size[name], np.abs(want[name]).max()))
        np.testing.assert_allclose(a[name], want[name], rtol=0, atol=limit, err_msg=name)


def closed_forms(run):
    """Constant logits cost ln V; logits of +-100 neither overflow nor lose the loss."""
    V = 7
    ones, targets = np.ones((2, 1), F32), np.array([0, 3], np.int32)
    flat = run(ones, np.zeros((V, 1), F32), targets)
    np.testing.assert_allclose(flat, np.log(V), rtol=gamma(V + FUNCTION, F32))
    steep = np.full((V, 1), -100, F32)
    steep[3] = 100
    np.testing.assert_allclose(run(ones, steep, targets), [200, 0], rtol=gamma(2, F32))


def test_closed_forms_of_the_oracle():
    def run(x, w, targets):
        losses = blank(2, F32)
        linear_cross_entropy_forward(losses, blank((2, len(w)), F32), x, w, targets)
        return losses
    closed_forms(run)


@lanes([(2, 1, 7, 2)])
def test_closed_forms_of_the_kernel(shape):
    def run(x, w, targets):
        return run_kernel("linear_cross_entropy", "linear_cross_entropy_forward", {
            "losses": blank(2, F32), "logits": blank((2, len(w)), F32), "x": x, "w": w,
            "targets": targets})["losses"]
    closed_forms(run)


@lanes(SMALL, [*REAL, (48, 64, 151_936, 32)])
@DTYPES
def test_forward(shape, dtype):
    judge("linear_cross_entropy", "linear_cross_entropy_forward", arguments_of(shape, dtype),
          ("losses",), free=("logits",), scales={"losses": max(1.0, float(np.log(shape[2])))})


def gradients_in_order(losses, dx, dw, logits, x, w, targets, scale, accumulate):
    """dx and dw in float32 by the equations, every product summed over ascending k; logits and
    their gradient are rounded to the scratch's type."""
    dx, dw = np.empty(dx.shape, F32), np.where(accumulate, dw, 0).astype(F32)
    for start in range(0, len(x), len(logits)):
        rows = slice(start, start + len(logits))
        z = in_order(x[rows], w).astype(logits.dtype).astype(F32)
        p = np.exp(z - z.max(axis=1, keepdims=True))
        dz = p / p.sum(axis=1, keepdims=True)
        dz[np.arange(len(dz)), targets[rows]] -= 1
        dz = (dz * scale * (targets[rows, None] >= 0)).astype(logits.dtype).astype(F32)
        dx[rows] = in_order(dz, w.T)
        dw += in_order(dz.T, x[rows].T)
    return {"dx": dx.astype(x.dtype), "dw": dw}


def losses_in_order(x, w, targets, scratch):
    """The losses in float32 by the equations; logits are rounded to the scratch's type."""
    z = in_order(x, w).astype(scratch).astype(F32)
    top = z.max(axis=1)
    lse = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    return np.where(targets < 0, 0, lse - z[np.arange(len(z)), targets])


@lanes(SMALL, REAL)
@DTYPES
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward(shape, dtype, accumulate):
    arguments = with_gradients(shape, dtype, accumulate)
    size = sizes(arguments)
    if accumulate:
        del size["dw"]
    backward(arguments, size)


def sizes(arguments):
    """Of the terms that cancel in each output."""
    V, scale = len(arguments["w"]), float(arguments["scale"][0])
    return {"losses": max(1.0, float(np.log(V))),
            "dx": scale * float(np.abs(arguments["w"].astype(F32)).max()),
            "dw": scale * float(np.abs(arguments["x"].astype(F32)).max())}


def backward(arguments, size, room="", allowances=None):
    got = judge("linear_cross_entropy", "linear_cross_entropy_backward", arguments,
                ("losses", "dx", "dw"), free=("logits",), scales=size, room=room,
                peer=gradients_in_order(**arguments), allowances=allowances)
    skipped = arguments["targets"] < 0
    assert not got["losses"][skipped].any() and not got["dx"][skipped].astype(F32).any()


# ---------------------------------------------------------------- tensor cores, bfloat16 logits

SHAPES = pytest.mark.parametrize("shape", TENSOR_CORES, ids=lambda s: "x".join(map(str, s)))
ROOMS = pytest.mark.parametrize("room", ["sm90", "sm80"])


def allowances(shape):
    """Logits and their gradient are rounded to bfloat16; at the targets, whose gradient is about
    -scale, all in the same direction, which dx and dw then show as a gain."""
    R, C, V, _ = shape
    depths = {"losses": C, "dx": V, "dw": R}
    return {name: UNIT[BF16] + truncations(depth) for name, depth in depths.items()}


def narrow(arguments):
    """Scratch in bfloat16 with rows of whole vectors of 8; the last logit is a target."""
    chunk, V = arguments["logits"].shape
    targets = arguments["targets"].copy()
    targets[0] = V - 1
    return arguments | {"logits": blank((chunk, -(-V // 8) * 8), BF16), "targets": targets}


@pytest.mark.gpu
@SHAPES
@ROOMS
def test_forward_on_tensor_cores(shape, room):
    judge("linear_cross_entropy", "linear_cross_entropy_forward",
          narrow(arguments_of(shape, BF16)), ("losses",), free=("logits",), room=room,
          scales={"losses": max(1.0, float(np.log(shape[2])))}, allowances=allowances(shape))


@pytest.mark.gpu
@SHAPES
@ROOMS
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward_on_tensor_cores(shape, room, accumulate):
    arguments = narrow(with_gradients(shape, BF16, accumulate))
    arguments["dw"] /= len(arguments["x"])  # no larger than what is added to it
    backward(arguments, sizes(arguments), room, allowances(shape))


@pytest.mark.gpu
@ROOMS
def test_misfits_are_named(room):
    from importlib import import_module

    from aprnb.kernels.cuda import cuda
    misfit = import_module(f"aprnb.kernels.{room}.linear_cross_entropy").misfit

    def of(logits, C):
        return misfit(None, logits, *(cuda.device_array((n, C), BF16) for n in (4, 9)), None)
    wide, unpadded = (cuda.device_array((2, n), BF16) for n in (16, 9))
    assert of(wide, 24) is None and "float32" in of(cuda.device_array((2, 16), F32), 24)
    assert "18 bytes in the logits" in of(unpadded, 24) and "34 bytes in a" in of(wide, 17)
