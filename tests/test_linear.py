"""Linear layer: oracle gradients, tiled products against the oracle in every layout and type."""
import numpy as np
import pytest

from aprnb.errors import ShapeError
from aprnb.oracle.linear import linear_backward, linear_forward
from judge import assert_gradient, blank, judge, lanes, normal, run_kernel
from tolerance import BF16, F32, F64, UNIT, assert_within, gamma, in_order

pytestmark = pytest.mark.numeric

# (R, K, N): one element, primes, one below / at / above the small tile and the depth of its slices
SHAPES = lanes([(1, 1, 1), (3, 5, 7), (33, 17, 31)],
               [(31, 15, 33), (32, 16, 32), (127, 63, 65), (513, 129, 1153), (1500, 40, 1700),
                (128, 896, 1152), (67, 4864, 896), (61, 896, 9728)])
MIXED = pytest.mark.parametrize("types", [(F32, F32), (BF16, BF16), (F32, BF16)],
                                ids=["f32", "bf16", "bf16-to-f32"])


def test_gradients_against_central_differences():
    x, w, b, dy = (normal(i, s, np.float64) for i, s in enumerate([(4, 5), (3, 5), 3, (4, 3)]))
    y, dx, dw, db = np.empty((4, 3)), np.empty((4, 5)), np.empty((3, 5)), np.empty(3)

    def loss():
        linear_forward(y, x, w, b)
        return y * dy
    linear_backward(dx, dw, db, dy, x, w, False)
    for name, array, gradient in (("dx", x, dx), ("dw", w, dw), ("db", b, db)):
        assert_gradient(name, loss, array, gradient)


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 4, 4)], ids=["oblong", "square"])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, BF16], ids=["f64", "bf16"])
def test_oracle_against_the_definition(shape, biased, dtype):
    """Term by term; an odd number of rows, and a square weight, which may be taken for its
    transpose and still fit."""
    R, K, N = shape
    x, w, b = normal(0, (R, K), dtype), normal(1, (N, K), dtype), normal(2, N, dtype)
    y = blank((R, N), dtype)
    linear_forward(y, x, w, b if biased else None)
    x, w, b = (a.astype(np.float64) for a in (x, w, b))
    size = np.abs(x) @ np.abs(w).T + biased * np.abs(b)  # of the terms, before any cancel
    want = [[sum(x[r, k] * w[n, k] for k in range(K)) + biased * b[n] for n in range(N)]
            for r in range(R)]
    stored = UNIT[BF16] * np.abs(want) if dtype == BF16 else 0
    assert_within("y", y, want, gamma(2 * (K + 1), F32 if dtype == BF16 else F64) * size + stored)


def test_the_oracle_adds_or_overwrites():
    """Without accumulate what stood there is gone, NaN included; with it both gradients count."""
    x, w, dy = (normal(i, s, np.float64) for i, s in enumerate([(4, 5), (3, 5), (4, 3)]))
    dx, dw, db = blank((4, 5), np.float64), blank((3, 5), np.float64), blank(3, np.float64)
    linear_backward(dx, dw, db, dy, x, w, False)
    once = dw.copy(), db.copy()
    linear_backward(dx, dw, db, dy, x, w, True)
    limit, column = 2 * gamma(len(dy) + 1), np.abs(dy).sum(axis=0)
    assert_within("dw", dw, 2 * once[0], 2 * limit * (np.abs(dy).T @ np.abs(x)))
    assert_within("db", db, 2 * once[1], 2 * limit * column)
    assert_within("db", once[1], dy.sum(axis=0), limit * column)


@SHAPES
@MIXED
@pytest.mark.parametrize("biased", [False, True])
def test_forward(shape, types, biased):
    (R, K, N), (out, dtype) = shape, types
    if biased and out != dtype:
        pytest.skip("a float32 output of bfloat16 operands is the logits, which have no bias")
    x, w, b = normal(0, (R, K), dtype), normal(1, (N, K), dtype, K ** -0.5), normal(2, N, dtype)
    own = in_order(x, w) + (b.astype(F32) if biased else 0)
    judge("linear", "linear_forward",
          {"y": blank((R, N), out), "x": x, "w": w, "b": b if biased else None}, ("y",),
          peer={"y": own.astype(out)})


@SHAPES
@pytest.mark.parametrize("types", [(F32, F32), (BF16, BF16), (BF16, F32)],
                         ids=["f32", "bf16", "bf16-from-f32"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward(shape, types, accumulate):
    """types: (x, w and dx, dy)"""
    (R, K, N), (dtype, dy_type) = shape, types

    def start(seed, shape):
        return normal(seed, shape, F32) if accumulate else blank(shape, F32)
    dy, x, w = normal(2, (R, N), dy_type), normal(3, (R, K), dtype), normal(4, (N, K), dtype)
    dw = start(0, (N, K))
    own = {"dx": in_order(dy, w.T).astype(dtype),
           "dw": in_order(dy.T, x.T) + (dw if accumulate else 0)}
    judge("linear", "linear_backward", {
        "dx": blank((R, K), dtype), "dw": dw, "db": start(1, N), "dy": dy, "x": x, "w": w,
        "accumulate": accumulate}, ("dx", "dw", "db"), peer=own)


@lanes([(3, 4, 4)], [(64, 896, 896)])
def test_a_square_weight(shape):
    """It fits transposed too, and the output projection of attention is one."""
    R, K, N = shape
    x, w = normal(0, (R, K), F32), normal(1, (N, K), F32, K ** -0.5)
    judge("linear", "linear_forward", {"y": blank((R, N), F32), "x": x, "w": w, "b": None}, ("y",),
          peer={"y": in_order(x, w)})


@lanes([(3, 5, 7)], [(64, 896, 1152)])
def test_backward_without_bias(shape):
    R, K, N = shape
    dy, x, w = normal(2, (R, N), F32), normal(3, (R, K), F32), normal(4, (N, K), F32)
    judge("linear", "linear_backward", {
        "dx": blank((R, K), F32), "dw": blank((N, K), F32), "db": None, "dy": dy, "x": x, "w": w,
        "accumulate": False}, ("dx", "dw"),
        peer={"dx": in_order(dy, w.T), "dw": in_order(dy.T, x.T)})


@lanes([(30, 17, 37)], [(129, 33, 257)])
@pytest.mark.parametrize("tile", [128, 64])
def test_larger_tiles(shape, tile, monkeypatch):
    """The choice of tile is by size; here each is made to compute the same small products."""
    from aprnb.kernels import matmul
    monkeypatch.setattr(matmul, "TILES", [t for t in matmul.TILES if t[0][0] == tile])
    (R, K, N), dtype = shape, F32
    x, w = normal(0, (R, K), dtype), normal(1, (N, K), dtype)
    judge("linear", "linear_forward", {"y": blank((R, N), dtype), "x": x, "w": w,
                                       "b": normal(2, N, dtype)}, ("y",))
    judge("linear", "linear_backward", {
        "dx": blank((R, K), dtype), "dw": normal(3, (N, K), F32), "db": None,
        "dy": normal(4, (R, N), dtype), "x": x, "w": w, "accumulate": True}, ("dx", "dw"))


@lanes([(3, 5, 7)])
def test_shapes_that_do_not_fit(shape):
    R, K, N = shape
    arguments = {"y": blank((R, N), F32), "x": normal(0, (R, K), F32),
                 "w": normal(1, (N, K + 1), F32), "b": None}
    with pytest.raises(ShapeError, match=r"linear_forward: w has shape \(7, 6\), need \(7, 5\)"):
        run_kernel("linear", "linear_forward", arguments)
