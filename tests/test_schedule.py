"""Learning-rate schedules: the values at step 0, at the end of warm-up and at the last step."""
import math

import pytest

from aprnb.train.schedule import SHAPES as OFFERED
from aprnb.train.schedule import Schedule
from tolerance import FUNCTION, gamma

PEAK, LOW = 3e-4, 3e-5
SHAPES = ("cosine", "linear", "constant", "wsd")


def test_all_shapes_are_judged_here():
    assert OFFERED == SHAPES


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup, steps", [(0, 1), (0, 20), (10, 100), (99, 100), (1000, 50)])
def test_every_rate_is_positive_and_at_most_the_peak(shape, warmup, steps):
    schedule = Schedule(shape, PEAK, LOW, warmup, steps)
    assert all(0 < schedule.rate(s) <= PEAK for s in range(steps))


@pytest.mark.parametrize("shape", SHAPES)
def test_warm_up_is_linear_and_reaches_the_peak_at_its_end(shape):
    schedule = Schedule(shape, PEAK, LOW, 10, 100)
    rates = [schedule.rate(s) for s in range(11)]
    assert rates[0] == PEAK / 11
    assert rates[10] == PEAK
    differences = [b - a for a, b in zip(rates, rates[1:])]
    assert differences == pytest.approx([PEAK / 11] * 10, rel=0, abs=gamma(8) * PEAK)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rate_after_warm_up_is_the_peak_to_the_last_bit(shape):
    for warmup in range(200):
        assert Schedule(shape, 0.7e-4, LOW, warmup, 1000).rate(warmup) == 0.7e-4


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("warmup", [0, 10])
def test_the_last_step_has_exactly_the_lowest_rate(shape, warmup):
    schedule = Schedule(shape, PEAK, LOW, warmup, 100)
    assert schedule.rate(99) == LOW
    assert schedule.rate(98) > LOW


@pytest.mark.parametrize("shape", ["cosine", "linear", "wsd"])
def test_rates_never_rise_after_warm_up(shape):
    schedule = Schedule(shape, PEAK, LOW, 10, 100)
    rates = [schedule.rate(s) for s in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


def test_constant_without_warm_up_is_the_given_float_on_every_step():
    assert {Schedule("constant", PEAK, LOW, 0, 20).rate(s) for s in range(20)} == {PEAK}


@pytest.mark.parametrize("warmup", [0, 10])
def test_cosine_is_half_way_in_the_middle_and_follows_the_curve(warmup):
    schedule = Schedule("cosine", PEAK, LOW, warmup, warmup + 101)
    assert schedule.rate(warmup + 50) == pytest.approx((PEAK + LOW) / 2, rel=gamma(4 * FUNCTION))
    quarter = LOW + (PEAK - LOW) * (1 + math.cos(math.pi / 4)) / 2
    assert schedule.rate(warmup + 25) == pytest.approx(quarter, rel=gamma(4 * FUNCTION))


def test_linear_falls_by_the_same_amount_at_every_step():
    schedule = Schedule("linear", PEAK, LOW, 0, 11)
    rates = [schedule.rate(s) for s in range(11)]
    assert [a - b for a, b in zip(rates, rates[1:])] == pytest.approx(
        [(PEAK - LOW) / 10] * 10, rel=0, abs=gamma(16) * PEAK)


def test_wsd_stays_at_the_peak_for_four_fifths():
    schedule = Schedule("wsd", PEAK, LOW, 10, 100)
    assert {schedule.rate(s) for s in range(10, 80)} == {PEAK}
    assert schedule.rate(80) < PEAK
    uneven = Schedule("wsd", PEAK, LOW, 10, 104)  # decays over 20 steps, not 20.8
    assert uneven.rate(83) == PEAK > uneven.rate(84)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_run_that_ends_where_warm_up_ends_stops_at_the_peak(shape):
    assert Schedule(shape, PEAK, LOW, 9, 10).rate(9) == PEAK
    assert Schedule(shape, PEAK, LOW, 0, 1).rate(0) == PEAK
