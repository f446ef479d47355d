"""The simulator's own faults, mended in kernels/cuda.py: each is provoked here every time."""
import threading
import time

import numpy as np
import pytest

from aprnb.kernels.cuda import cuda, float32

THREADS = 8


class SlowLength:
    """A length whose reading lets every other thread run."""

    def __index__(self):
        time.sleep(0.02)
        return THREADS


LENGTH = SlowLength()


def reverse(out):
    t = cuda.threadIdx.x
    shared = cuda.shared.array(LENGTH, float32)
    shared[t] = t
    cuda.syncthreads()  # all values stand before any is read
    out[t] = shared[THREADS - 1 - t]


@pytest.mark.sim
def test_threads_that_ask_at_once_share_one_array():
    out = cuda.to_device(np.full(THREADS, np.nan, np.float32))
    cuda.jit(reverse)[1, THREADS](out)
    assert out.copy_to_host().tolist() == list(range(THREADS))[::-1]


def leave_early(out):
    """Half of the threads end before the barrier, at which the others meet twice."""
    t = cuda.threadIdx.x
    if t % 2:
        out[t] = 1
        return
    shared = cuda.shared.array(THREADS, float32)
    for turn in range(2):
        shared[t] = t + turn
        cuda.syncthreads()  # all values of this turn stand before any is read
        out[t] = shared[THREADS - 2 - t]
        cuda.syncthreads()  # all are read before the next turn


@pytest.mark.sim
def test_a_barrier_waits_for_the_threads_that_are_left():
    out = cuda.to_device(np.full(THREADS, np.nan, np.float32))
    cuda.jit(leave_early)[1, THREADS](out)
    assert out.copy_to_host().tolist() == [7, 1, 5, 1, 3, 1, 1, 1]


def divide(out):
    t = cuda.threadIdx.x
    if t == 3:
        out[t] = 1 // (t - 3)
    cuda.syncthreads()  # the others wait here for one that never comes
    out[t] = t


@pytest.mark.sim
def test_a_thread_that_fails_is_named_and_lets_the_others_end():
    out = cuda.to_device(np.full(THREADS, np.nan, np.float32))
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match=r"tid=\[3, 0, 0\] ctaid=\[0, 0, 0\]"):
        cuda.jit(divide)[1, THREADS](out)
    while threading.active_count() > before:
        time.sleep(0.01)
    assert np.isnan(out.copy_to_host()).all()
