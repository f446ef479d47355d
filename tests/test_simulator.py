"""The simulator's own faults, mended in kernels/cuda.py: each is provoked here every time."""
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
