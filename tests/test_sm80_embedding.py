"""Token embedding and its scatter-add with 16-byte accesses against the oracle."""
import numpy as np
import pytest

from judge import blank, judge, normal, run_kernel
from tolerance import BF16, F32

# (R, C, V): one vector, an odd number of rows, more columns than threads, the real width
SHAPES = [(1, 8, 1), (7, 8, 3), (40, 40, 11), (513, 264, 2), (33, 4096, 50), (1024, 896, 4096)]
STREAM = pytest.mark.parametrize("residual", [BF16, F32], ids=str)
CHUNK, SLICE = 32, 32768  # rows added one after the other; rows of a sort


def ids_of(R, V, kind="uniform"):
    """"uniform", "text": a few ids make up most rows, "one": a single id, not the first."""
    rng = np.random.default_rng(7)
    ids = {"uniform": lambda: rng.integers(0, V, R), "text": lambda: rng.zipf(1.2, R) % V,
           "one": lambda: np.full(R, V - 1)}[kind]()
    return ids.astype(np.int32)


def in_order(table, dy, ids):
    """The promised order: row after row onto the table; of an id with more than 32 rows, chunk
    after chunk of 32, each summed by itself."""
    out, dy = table.copy(), dy.astype(F32)
    by_id = np.argsort(ids, kind="stable")
    for rows in np.split(by_id, np.flatnonzero(np.diff(ids[by_id])) + 1):
        total = out[ids[rows[0]]]
        for start in range(0, len(rows), CHUNK):
            part = total if len(rows) <= CHUNK else np.zeros_like(total)
            for r in rows[start:start + CHUNK]:
                part += dy[r]
            if part is not total:
                total += part
    return out


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@STREAM
def test_forward(shape, residual):
    R, C, V = shape
    table, ids = normal(0, (V, C), BF16), ids_of(R, V)
    got = judge("embedding", "embedding_forward",
                {"y": blank((R, C), residual), "table": table, "ids": ids}, ("y",), room="sm80")
    assert got["y"].tobytes() == table[ids].astype(residual).tobytes()


def backward(shape, kind, accumulate, residual):
    R, C, V = shape
    ids, dy = ids_of(R, V, kind), normal(1, (R, C), residual)
    start = normal(2, (V, C), F32) if accumulate else blank((V, C), F32)
    own = in_order(start if accumulate else np.zeros((V, C), F32), dy, ids)
    got = judge("embedding", "embedding_backward",
                {"dtable": start, "dy": dy, "ids": ids, "accumulate": accumulate}, ("dtable",),
                peer={"dtable": own}, room="sm80")
    np.testing.assert_array_equal(got["dtable"], own)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", ["uniform", "text", "one"])
@pytest.mark.parametrize("accumulate", [False, True])
@STREAM
def test_backward(shape, kind, accumulate, residual):
    backward(shape, kind, accumulate, residual)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(2048, 896, 4096), (SLICE, 16, 5000)],
                         ids=["batch-of-one", "whole-slice"])
@pytest.mark.parametrize("kind", ["uniform", "text", "one"])
@STREAM
def test_backward_with_long_runs(shape, kind, residual):
    backward(shape, kind, True, residual)


@pytest.mark.gpu
@STREAM
def test_backward_in_slices(residual):
    """More rows than one sort takes: each slice is added to what the one before left."""
    R, C, V = SLICE + 333, 8, 300
    ids, dy, start = ids_of(R, V, "text"), normal(1, (R, C), residual), normal(2, (V, C), F32)
    first = in_order(start, dy[:SLICE], ids[:SLICE])
    own = in_order(first, dy[SLICE:], ids[SLICE:])
    got = judge("embedding", "embedding_backward",
                {"dtable": start, "dy": dy, "ids": ids, "accumulate": True}, ("dtable",),
                peer={"dtable": own}, room="sm80")
    np.testing.assert_array_equal(got["dtable"], own)


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [(33, 32, 1, 31, 64, 65, 63), (33, 33, 1, 1, 34, 95, 97)])
def test_neighbouring_runs(lengths):
    """Ids that lie side by side after the sort: none takes the other's partial sums."""
    ids = np.repeat(128 * np.arange(len(lengths)), lengths).astype(np.int32)
    ids = np.random.default_rng(3).permutation(ids)
    dy, start = normal(1, (len(ids), 8), BF16), normal(2, (128 * len(lengths), 8), F32)
    got = run_kernel("embedding", "embedding_backward",
                     {"dtable": start, "dy": dy, "ids": ids, "accumulate": True}, "sm80")
    np.testing.assert_array_equal(got["dtable"], in_order(start, dy, ids))


def test_misfits_are_named():
    from aprnb.kernels.sm80.embedding import misfit
    ids = ids_of(4, 3)
    for residual in (BF16, F32):
        assert misfit(blank((4, 8), residual), blank((3, 8), BF16), ids) is None
    assert "float32" in misfit(blank((4, 8), F32), blank((3, 8), F32), ids)
    assert "16 bytes" in misfit(blank((3, 12), F32), blank((4, 12), BF16), ids, True)


def test_a_small_multiprocessor_leaves_the_sort_to_the_portable_kernel(monkeypatch):
    """Compute capability 8.6, 8.9 and 12.0 give a block 99 KB; the sort has 128 KB of keys."""
    from aprnb.kernels.sm80 import embedding
    arguments = (blank((3, 16), F32), blank((4, 16), BF16), np.zeros(4, np.int32), True)
    for kbytes, served in ((99, False), (163, True), (227, True)):
        monkeypatch.setattr(embedding, "shared_memory", lambda: kbytes << 10)
        assert (embedding.misfit(*arguments) is None) is served
