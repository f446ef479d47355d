"""Sums of squares, clip factor and conversion with 16-byte accesses against the oracle."""
import numpy as np
import pytest

from judge import blank, judge, normal, run_kernel
from tolerance import BF16, F32

# (parts, elements): parts that start between vectors, shorter than a vector, empty; one part that
# is cut into many pieces; what training has
SIZES = [(1, 1), (3, 7), (4, 9), (5, 8), (3, 1000), (1, 1_000_003), (7, 2_000_002),
         (1024, 3_000_017), (1024, 8_000_000)]


@pytest.mark.gpu
@pytest.mark.parametrize("parts, n", SIZES)
def test_sum_of_squares(parts, n):
    judge("reduce", "sum_of_squares", {"partials": blank(parts, F32), "x": normal(0, n, F32)},
          ("partials",), room="sm80")


@pytest.mark.gpu
@pytest.mark.parametrize("parts, n", [(4, 4099), (1, 300_001)])
def test_every_element_counts_once(parts, n):
    """Powers of two in turn, one element after the other: the sum shows which were read."""
    x = np.zeros(n, F32)
    for i in [*range(0, 12), *range(n // 2 - 6, n // 2 + 6), *range(n - 12, n)]:
        x[:] = 0
        x[i] = 3
        got = judge("reduce", "sum_of_squares", {"partials": blank(parts, F32), "x": x},
                    ("partials",), room="sm80")
        assert got["partials"].sum() == 9 and got["partials"][i // -(-n // parts)] == 9


@pytest.mark.gpu
@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e6])
def test_clip_factor(max_norm):
    partials = np.abs(normal(0, 1024, F32)) + F32.type(1)
    judge("reduce", "clip_factor", {"norm": blank(1, F32), "clip": blank(1, F32),
                                    "partials": partials, "max_norm": max_norm},
          ("norm", "clip"), room="sm80")


@pytest.mark.gpu
@pytest.mark.parametrize("n", [4, 1024, 2048, 2052, 3072, 1_000_004])
@pytest.mark.parametrize("given, wanted", [(F32, BF16), (BF16, F32)], ids=["narrow", "widen"])
def test_convert(n, given, wanted):
    """One vector, half a block, a block, one vector more, a block and a half, many."""
    x = normal(0, n, given)
    got = judge("convert", "convert", {"y": blank(n, wanted), "x": x}, ("y",), room="sm80")
    assert got["y"].tobytes() == x.astype(wanted).tobytes()


@pytest.mark.gpu
def test_convert_special_values():
    """Ties go to even, overflow to infinity, denormals survive, NaN stays NaN."""
    x = np.array([0, -0.0, np.inf, -np.inf, np.nan, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, -3.4e38,
                  2**-133, 2**-126, 1 - 2**-9], F32)
    got = run_kernel("convert", "convert", {"y": blank(12, BF16), "x": x}, "sm80")["y"]
    assert np.isnan(got[4])
    assert np.delete(got, 4).tobytes() == np.delete(x.astype(BF16), 4).tobytes()


def test_misfits_are_named():
    from aprnb.kernels.sm80 import convert
    assert "convert float32 and bfloat16" in convert.misfit(blank(8, F32), blank(8, F32))
    assert "multiples of 4" in convert.misfit(blank(6, BF16), blank(6, F32))
    assert convert.misfit(blank(8, BF16), blank(8, F32)) is None
    from aprnb.kernels.sm80.reduce import misfit
    f32, bf16 = blank((4, 12), F32), blank((4, 12), BF16)
    assert misfit(f32[0], f32[0]) is None and misfit(f32[0], f32[0], f32[0], 1.0) is None
    assert "bfloat16" in misfit(f32[0], bf16[0])
    assert "16 bytes" in misfit(f32[0], bf16, False) and "float32" in misfit(f32[0], f32, False)
