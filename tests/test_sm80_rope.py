"""RoPE with 16-byte accesses against the oracle, and with the bias gradient in its pass."""
import numpy as np
import pytest

from judge import blank, judge, normal, run_kernel
from test_rope import angles
from tolerance import BF16, F32, assert_agrees

pytestmark = pytest.mark.gpu
# (B, T, N, rotated heads, D): the smallest; fewer positions than lanes; several tiles of heads
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 16), (2, 3, 5, 3, 32), (2, 127, 18, 16, 64), (1, 33, 6, 5, 128),
              (3, 7, 36, 32, 128), (2, 5, 70, 69, 64)], ids=lambda shape: "x".join(map(str, shape)))


def arguments(shape, name):
    B, T, N, heads, D = shape
    cos, sin = angles(T, D)
    return {name: normal(0, (B, T, N, D), BF16), "cos": cos, "sin": sin, "heads": heads}


@SHAPES
@pytest.mark.parametrize("op, name", [("rope_forward", "x"), ("rope_backward", "dx")])
def test_rotation(shape, op, name):
    given = arguments(shape, name)
    got = judge("rope", op, given, (name,), room="sm80")
    heads = given["heads"]
    assert got[name][:, :, heads:].tobytes() == given[name][:, :, heads:].tobytes()


@SHAPES
@pytest.mark.parametrize("accumulate", [False, True])
def test_bias_gradient_in_the_same_pass(shape, accumulate):
    """The same dx, bit for bit, as rope_backward; db sums it as it is stored."""
    given, (B, T, N, heads, D) = arguments(shape, "dx"), shape
    db = normal(1, N * D, F32) if accumulate else blank(N * D, F32)
    start = {"dx": given["dx"], "db": db, **given, "accumulate": accumulate}
    got, again = (run_kernel("rope", "rope_backward_bias", start, "sm80") for _ in range(2))
    alone = run_kernel("rope", "rope_backward", given, "sm80")
    assert got["dx"].tobytes() == alone["dx"].tobytes()
    assert got["db"].tobytes() == again["db"].tobytes(), "two calls, two results"
    rows = got["dx"].reshape(B * T, N * D).astype(F32)
    own, truth = (rows.sum(axis=0, dtype=t) + (db.astype(t) if accumulate else 0)
                  for t in (F32, np.float64))
    size = float(np.abs(rows).sum(axis=0).max() / np.sqrt(B * T))
    assert_agrees("db", got["db"], truth, own, scale=max(size, float(np.abs(truth).max())))


def test_misfits_are_named():
    from aprnb.kernels.sm80.rope import misfit
    assert misfit(blank((1, 2, 3, 24), BF16)).startswith("heads of 24")
    assert misfit(blank((1, 2, 3, 64), F32)).startswith("float32 storage")
