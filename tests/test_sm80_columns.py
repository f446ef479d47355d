"""Column sums in two stages against the oracle."""
import numpy as np
import pytest

from aprnb.oracle.reduce import column_sum
from judge import blank, normal, run_kernel
from tolerance import BF16, F32, assert_agrees

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("shape", [(1, 8), (17, 24), (77, 1152), (301, 136), (40, 2056),
                                   (4099, 1152)], ids=lambda shape: "x".join(map(str, shape)))
@pytest.mark.parametrize("accumulate", [False, True])
def test_column_sum(shape, accumulate):
    """One row and vector; lanes without rows; several tiles of columns; several loads a lane."""
    R, C = shape
    dy = normal(0, shape, BF16)
    db = normal(1, C, F32) if accumulate else blank(C, F32)
    arguments = {"db": db, "dy": dy, "accumulate": accumulate}
    got, again = (run_kernel("columns", "column_sum", arguments, "sm80") for _ in range(2))
    truth, own = db.astype(np.float64), db.copy()
    column_sum(truth, dy.astype(np.float64), accumulate)
    column_sum(own, dy, accumulate)
    scale = float(np.abs(dy.astype(F32)).sum(axis=0).max() / np.sqrt(R))
    assert_agrees("db", got["db"], truth, own, max(scale, float(np.abs(truth).max())))
    assert got["db"].tobytes() == again["db"].tobytes(), "two calls, two results"
    assert got["dy"].tobytes() == dy.tobytes(), "changed its input"
