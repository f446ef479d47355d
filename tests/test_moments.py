"""Moments of a stream: each figure by hand, with weights, in pieces, at the ends of the range."""
import numpy as np
import pytest

from aprnb.formats.moments import Moments
from tolerance import gamma


def near(value):
    """What sums of a few numbers may round to."""
    return pytest.approx(value, rel=gamma(32))


NOTHING = {"count": 0, "mean": None, "std": None, "min": None, "max": None,
           "zeros": 0, "nan": 0, "inf": 0}


def of(*pieces):
    """Moments of pieces, each values or (values, weights)."""
    moments = Moments()
    for piece in pieces:
        moments.add(*map(np.array, piece if isinstance(piece, tuple) else (piece,)))
    return moments


def test_without_values_there_are_no_figures():
    for moments in (Moments(), of([]), of(([1.0, np.nan], [0, 0]))):
        assert moments.report() == NOTHING and moments.mean_abs is None


def test_special_values_alone_have_a_count_and_no_figures():
    moments = of([np.nan, np.inf, -np.inf])
    assert moments.report() == NOTHING | {"count": 3, "nan": 1, "inf": 2}
    assert moments.mean_abs is None


def test_one_value_is_its_mean_and_both_extremes():
    for value in (-3.0, 0.0, 1e-20):
        moments = of([value])
        assert moments.report() == NOTHING | {"count": 1, "mean": value, "std": 0.0, "min": value,
                                              "max": value, "zeros": int(value == 0)}
        assert moments.mean_abs == abs(value)


def test_weights_say_how_often_a_value_occurs():
    moments = of(([-8.0, 0.0, 4.0, 9.0, np.nan, np.inf, np.nan], [1, 2, 5, 0, 3, 4, 0]))
    assert moments.report() == {"count": 15, "mean": 1.5, "std": near(15.75 ** 0.5),
                                "min": -8.0, "max": 4.0, "zeros": 2, "nan": 3, "inf": 4}
    assert moments.mean_abs == 3.5


def test_pieces_give_what_the_whole_gives():
    moments = of([2.0, 4.0], [], [-6.0], [np.nan], ([8.0, 1.0], [1, 0]))
    assert moments.report() == {"count": 5, "mean": 2.0, "std": near(26 ** 0.5),
                                "min": -6.0, "max": 8.0, "zeros": 0, "nan": 1, "inf": 0}
    assert moments.mean_abs == 5.0


def test_narrow_values_are_summed_in_float64():
    moments = of(np.full(4, 60000, np.float16), np.array([1 + 2 ** -23], np.float32))
    assert moments.report()["mean"] == near((240001 + 2 ** -23) / 5)
    assert moments.mean_abs == moments.report()["mean"]


def test_figures_beyond_the_range_are_none():
    """JSON has no infinity: extremes stay, sums that overflow do not."""
    with np.errstate(over="ignore", invalid="ignore"):
        report = of([1e308, 1e308]).report()
        spread = of([1e200, -1e200]).report()
    assert report == NOTHING | {"count": 2, "min": 1e308, "max": 1e308}
    assert spread == NOTHING | {"count": 2, "mean": 0.0, "min": -1e200, "max": 1e200}
