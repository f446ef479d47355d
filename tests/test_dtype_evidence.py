"""The evidence that a matrix does not fit its 16-bit dtype: each measure and each bound by hand."""
import warnings

import numpy as np
import pytest

from aprnb.formats.dtype_evidence import _is_weight_like, _shape_of, fits_other, pattern_values
from aprnb.formats.tensors import DENSE
from tolerance import gamma


def histogram(counts, dtype="F16"):
    """(65536,) of {value: how often}."""
    out = np.zeros(65536, np.int64)
    for value, count in counts.items():
        out[np.array([value]).astype(DENSE[dtype]).view(np.uint16)] += count
    return out


def test_patterns_have_their_values_and_signalling_nans_are_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = pattern_values("F16")
    assert values[[0x3C00, 0xC000, 1, 0x7C00]].tolist() == [1, -2, 2**-24, np.inf]
    assert np.isnan(values[0x7C01]) and pattern_values("BF16")[0x3F80] == 1


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_spread_and_tails_by_hand(dtype):
    """In binades and shares; signs do not count, nor do zero, NaN and infinity."""
    counts = {2**-8: 10, -2**-4: 20, 0.25: 20, -0.25: 5, 0.5: 25, 1.0: 5, 1.5: 5, 2.0: 10}
    nothing = {0.0: 900, -0.0: 900, np.inf: 900, -np.inf: 900, np.nan: 900}
    shape = _shape_of(dtype, histogram(counts | nothing, dtype))
    assert shape["spread"] == 3  # from 2**-4 to 2**-1 around the median of 2**-2
    assert (shape["below"], shape["above"]) == pytest.approx((0.1, 0.15), rel=gamma(8))
    assert _shape_of(dtype, histogram({0.5: 100}, dtype)) == {"spread": 0, "below": 0, "above": 0}


def test_fewer_than_64_values_say_nothing():
    assert _shape_of("F16", histogram({1.0: 32, -2.0: 31, 0.0: 99})) is None
    assert _shape_of("F16", histogram({1.0: 32, -2.0: 32})) is not None
    assert _shape_of("F16", np.zeros(65536, np.int64)) is None


@pytest.mark.parametrize("spread, below, above, want", [
    (2, 0.1, 0.1, True), (1.0, 0.1, 0.1, True), (0.99, 0.1, 0.1, False),
    (3.9, 0.1, 0.1, True), (3.91, 0.1, 0.1, False),
    (2, 0.05, 0.0, True), (2, 0.049, 0.0, False), (2, 0.35, 0.0, True), (2, 0.351, 0.0, False),
    (2, 0.125, 0.15, True), (2, 0.125, 0.125 + 0.03, False), (2, 0.125, 0.16, False),
])
def test_weights_have_a_proper_spread_and_a_tail_towards_zero(spread, below, above, want):
    assert _is_weight_like({"spread": spread, "below": below, "above": above}) is want


@pytest.mark.parametrize("low, high, want", [
    (1, 2, "F16"),  # one binade as F16, eight as BF16
    (2**-2, 2**3, "F16"), (2**-4, 2**4, None), (1, 1.5, None)])
def test_a_spread_too_wide_is_another_dtypes_if_that_has_a_proper_one(low, high, want):
    bits = histogram({low: 50, high: 50}, "F16")
    assert fits_other("BF16", bits, 2) == want
    assert fits_other("F16", bits, 2) is None
    assert fits_other("BF16", bits, 1) is None and fits_other("F32", bits, 2) is None


def test_bits_that_are_no_numbers_in_their_dtype_say_nothing():
    bits = np.zeros(65536, np.int64)
    bits[0x7D00:0x7D80] = 1  # NaN as F16, finite as BF16
    assert fits_other("F16", bits, 2) is None and fits_other("BF16", bits, 2) is None
