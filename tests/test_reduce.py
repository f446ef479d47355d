"""Fixed-order reductions and conversions: oracle, kernels against the oracle."""
import numpy as np
import pytest

from aprnb.oracle.convert import convert
from aprnb.oracle.reduce import clip_factor, column_sum, sum_of_squares
from judge import DTYPES, blank, judge, lanes, normal
from tolerance import BF16, F32, assert_within, gamma

pytestmark = pytest.mark.numeric


def lane_order(x):
    """Column sums in the kernel's order: 16 lanes of every 16th row, then a tree."""
    lanes_ = np.zeros((16, x.shape[1]), F32)
    for r, row in enumerate(x.astype(F32)):
        lanes_[r % 16] += row
    while len(lanes_) > 1:
        half = len(lanes_) // 2
        lanes_ = lanes_[:half] + lanes_[half:]
    return lanes_[0]


def test_oracle_against_the_definitions():
    x = normal(0, (5, 3), np.float64)
    out, partials, norm, clip = np.empty(3), np.empty(4), np.empty(1), np.empty(1)
    column_sum(out, x, False)
    assert_within("out", out, [sum(x[:, c]) for c in range(3)],
                  gamma(2 * 5) * np.abs(x).sum(axis=0))
    sum_of_squares(partials, x.ravel())  # 15 elements in parts of 4, 4, 4, 3
    np.testing.assert_allclose(partials, [(x.ravel()[i:i + 4] ** 2).sum() for i in (0, 4, 8, 12)],
                               rtol=gamma(2 * 5))
    clip_factor(norm, clip, partials, 0.5)
    assert norm[0] == pytest.approx(np.linalg.norm(x), rel=gamma(2 * 16))
    assert clip[0] == pytest.approx(0.5 / (np.linalg.norm(x) + 1e-6), rel=gamma(2 * 18))


SPECIAL = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -3.4e38,
                    2**-133, 2**-126, 1 - 2**-9, 1 + 2**-7 - 2**-20], F32)
ROUNDED = [0, -0.0, np.inf, -np.inf, np.nan, 1, 1 + 2**-6, np.inf, -np.inf, 2**-133, 2**-126, 1,
           1 + 2**-7]


def test_rounding_of_the_oracle():
    """Ties go to even, overflow to infinity, denormals survive, NaN stays NaN."""
    y = blank(len(SPECIAL), BF16)
    convert(y, SPECIAL)
    np.testing.assert_array_equal(y.astype(F32), np.array(ROUNDED, F32))
    assert np.signbit(y[:2].astype(F32)).tolist() == [False, True]


@lanes([(1, 1), (17, 15), (5, 17)], [(16, 16), (4096, 1152)])
@DTYPES
@pytest.mark.parametrize("accumulate", [False, True])
def test_column_sum(shape, dtype, accumulate):
    R, C = shape
    x = normal(0, shape, dtype)
    out = normal(1, C, F32) if accumulate else blank(C, F32)
    judge("reduce", "column_sum", {"out": out, "x": x, "accumulate": accumulate}, ("out",),
          scales={"out": float(np.abs(x.astype(F32)).sum(axis=0).max() / np.sqrt(R))},
          peer={"out": lane_order(x) + (out if accumulate else 0)})


@lanes([(1, 1), (3, 1000), (4, 9)], [(1024, 3_000_017)])
@DTYPES
def test_sum_of_squares(shape, dtype):
    """(parts, elements): the last part is shorter, or (4 parts of 3 of 9 elements) empty."""
    parts, n = shape
    judge("reduce", "sum_of_squares",
          {"partials": blank(parts, F32), "x": normal(0, n, dtype)}, ("partials",))


@lanes([(1,), (5,)], [(1024,)])
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6])
def test_clip_factor(shape, max_norm):
    """Clipping off, clipping, and a norm below the limit."""
    partials = np.abs(normal(0, shape, F32)) + F32.type(1)
    got = judge("reduce", "clip_factor", {
        "norm": blank(1, F32), "clip": blank(1, F32), "partials": partials,
        "max_norm": max_norm}, ("norm", "clip"))
    assert (got["clip"][0] < 1) == (max_norm == 0.5)


@pytest.mark.parametrize("partials, max_norm, want", [
    ([9, 16], 0, 1),  # off
    ([9, 16], 10, 1),
    ([9, 16], 2.5, 2.5 / (5 + 1e-6)),
    ([1e-12], 1e-6, 0.5),  # a norm as small as the 1e-6 that keeps the quotient finite
    ([0], 1, 1),
])
def test_clip_factor_by_hand(partials, max_norm, want):
    norm, clip = blank(1, np.float64), blank(1, np.float64)
    clip_factor(norm, clip, np.array(partials, np.float64), max_norm)
    assert norm[0] == np.sqrt(sum(partials)) and clip[0] == pytest.approx(want, rel=gamma(8))


def nan_stays(run):
    """A norm that is not a number must not pass as "no clipping"."""
    clip = run(np.array([1, np.nan], F32), 1.0)
    assert np.isnan(clip[0])


def test_clip_factor_of_nan_in_the_oracle():
    def run(partials, max_norm):
        norm, clip = blank(1, F32), np.ones(1, F32)
        clip_factor(norm, clip, partials, max_norm)
        return clip
    nan_stays(run)


@lanes([(2,)])
def test_clip_factor_of_nan_in_the_kernel(shape):
    from judge import run_kernel
    nan_stays(lambda partials, max_norm: run_kernel("reduce", "clip_factor", {
        "norm": blank(1, F32), "clip": np.ones(1, F32), "partials": partials,
        "max_norm": max_norm})["clip"])


@lanes([(1,), (999,)], [(1_000_003,)])
@pytest.mark.parametrize("out", [F32, BF16], ids=["to-f32", "to-bf16"])
@DTYPES
def test_convert(shape, dtype, out):
    x = normal(0, shape, dtype)
    got = judge("convert", "convert", {"y": blank(shape, out), "x": x}, ("y",))
    assert got["y"].tobytes() == x.astype(out).tobytes()


@lanes([SPECIAL.shape])
def test_convert_special_values(shape):
    """As the oracle rounds them, to the bit."""
    from judge import run_kernel
    got = run_kernel("convert", "convert", {"y": blank(shape, BF16), "x": SPECIAL})["y"]
    assert np.isnan(got[4])
    assert np.delete(got, 4).tobytes() == np.delete(SPECIAL.astype(BF16), 4).tobytes()
