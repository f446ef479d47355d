"""Contests: several ways to do the same work take turns on one machine that drifts.

A turn repeats one contestant for about TURN_MS without a pause; a round gives everybody a turn, in
an order that rotates from round to round; the first round only warms up. Nothing waits between
turns, so a GPU reaches the clock that it holds under load ("sustained"), the same for everybody.
Figures are medians over rounds; the spread is half the interquartile range over the median.
"""
import statistics
import time
from dataclasses import dataclass
from typing import Callable

ROUNDS = 5
TURN_MS = 30


@dataclass(frozen=True)
class Contestant:
    """Work that can be enqueued again and again."""

    call: Callable
    launches: int = 1
    """How often a call does the work that is timed: a graph holds many launches."""


class HostClock:
    """Time of the host: for work that is done when the call returns."""

    def mark(self):
        return time.perf_counter()

    def elapsed(self, start, end):
        """Milliseconds between two marks."""
        return 1e3 * (end - start)

    def wait(self):
        """Nothing is under way."""


def contest(clock, contestants, rounds=ROUNDS, turn_ms=TURN_MS):
    """Milliseconds of one launch: for each contestant a list with one figure a round."""
    calls = [calls_in_turn(clock, c.call, turn_ms) for c in contestants]
    turns = [[] for _ in contestants]
    for number in range(rounds + 1):
        for i in rotated(len(contestants), number):
            start = clock.mark()
            for _ in range(calls[i]):
                contestants[i].call()
            turns[i].append((start, clock.mark()))
    clock.wait()
    return [[clock.elapsed(*turn) / (n * c.launches) for turn in own[1:]]
            for c, n, own in zip(contestants, calls, turns)]


def calls_in_turn(clock, call, turn_ms):
    """How many calls fill a turn; at least one."""
    call()  # the first one loads and allocates
    return max(1, round(turn_ms / time_of(clock, call)))


def time_of(clock, call):
    """Milliseconds of one call, everything enqueued before it being done."""
    clock.wait()
    start = clock.mark()
    call()
    end = clock.mark()
    clock.wait()
    return max(clock.elapsed(start, end), 1e-6)


def rotated(n, number):
    """The order of round `number`: it starts one further each time."""
    return [(number + i) % n for i in range(n)]


def median(values):
    return statistics.median(values)


def spread(values):
    """Half the interquartile range over the median; 0 of a single figure."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / statistics.median(values)
