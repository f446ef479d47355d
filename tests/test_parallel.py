"""Overflow in the oracle: NumPy warns who calls an op by itself, and never who trains."""
import warnings

import numpy as np
import pytest

from aprnb.backend import open_backend
from aprnb.oracle.swiglu import swiglu_forward

F = 512


@pytest.mark.parametrize("rows", [1, 2000])  # one block in this thread, many blocks on the others
def test_threads_take_over_the_error_settings_of_their_caller(rows):
    y, gu = np.empty((rows, F), np.float32), np.full((rows, 2 * F), 1e30, np.float32)
    with np.errstate(over="raise"), pytest.raises(FloatingPointError):
        swiglu_forward(y, gu)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with np.errstate(over="ignore"):
            swiglu_forward(y, gu)
        y[...] = 0
        open_backend("cpu").ops.swiglu_forward(y, gu)
        assert np.isinf(y).all()
        with pytest.raises(RuntimeWarning):
            swiglu_forward(y, gu)
