"""Token embedding and its scatter-add: oracle gradient, kernels against the oracle."""
import numpy as np
import pytest

from aprnb.oracle.embedding import embedding_backward, embedding_forward
from judge import DTYPES, STREAMS, assert_gradient, blank, judge, lanes, normal
from tolerance import F32

pytestmark = pytest.mark.numeric

# (R, C, V): one element, primes, many rows of one id, the real width
SHAPES = lanes([(1, 1, 1), (7, 5, 3), (40, 33, 11)], [(1024, 896, 4096), (513, 257, 2)])


def ids_of(R, V):
    return np.random.default_rng(7).integers(0, V, R).astype(np.int32)


def test_gradient_against_central_differences():
    ids, table, dy = ids_of(9, 4), normal(0, (4, 3), np.float64), normal(1, (9, 3), np.float64)
    y, dtable = np.empty((9, 3)), np.full((4, 3), np.nan)

    def loss():
        embedding_forward(y, table, ids)
        return y * dy
    embedding_backward(dtable, dy, ids, False)
    assert_gradient("dtable", loss, table, dtable)


@SHAPES
@STREAMS
def test_forward(shape, dtype, residual):
    R, C, V = shape
    table, ids = normal(0, (V, C), dtype), ids_of(R, V)
    got = judge("embedding", "embedding_forward",
                {"y": blank((R, C), residual), "table": table, "ids": ids}, ("y",))
    assert got["y"].tobytes() == table[ids].astype(residual).tobytes()


@SHAPES
@DTYPES
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward(shape, dtype, accumulate):
    R, C, V = shape
    ids = ids_of(R, V)
    start = normal(2, (V, C), F32) if accumulate else blank((V, C), F32)
    dy = normal(1, (R, C), dtype)
    own = start.copy() if accumulate else np.zeros((V, C), F32)
    for r in range(R):  # the kernel's order: row after row onto what stood there
        own[ids[r]] += dy[r].astype(F32)
    judge("embedding", "embedding_backward",
          {"dtable": start, "dy": dy, "ids": ids, "accumulate": accumulate}, ("dtable",),
          peer={"dtable": own})
