"""Cross-entropy of bfloat16 logits, in place, against float64; both kernels."""
import numpy as np
import pytest

from judge import GUARD, normal
from tolerance import BF16, F32, FUNCTION, UNIT, assert_agrees, gamma

# (R, V): no whole vector, one, ragged, several turns of a thread, the real width
STREAMED = [(3, 5), (1, 8), (7, 1001), (5, 8192), (3, 40_001), (4, 151_936), (2, 200_003)]
# no vector in registers, ragged, as many as fit, more rows than a GPU has multiprocessors
RESIDENT = [(1, 114_688), (3, 114_691), (2, 155_648), (2, 155_655), (300, 115_000), (140, 151_936)]
BORDER = 0x7FD5  # a NaN that no kernel writes: between V and the row stride, and around the array
FUNCTIONS = gamma(FUNCTION, F32)  # the hardware's approximate 2^x and log2 x, and sums of them
SCALE = F32.type(1 / 300)


def both(cases):
    return pytest.mark.parametrize("shape, resident", [
        pytest.param(shape, resident, id=f"{'resident' if resident else 'streaming'}-"
                                         f"{shape[0]}x{shape[1]}") for shape, resident in cases])


def targets_of(R, V):
    """First and last columns among them, and every third row without one."""
    targets = np.random.default_rng(3).integers(0, V, R).astype(np.int32)
    targets[:3] = [V - 1, 0, -1][:R]
    targets[5::3] = -1
    return targets


def run(logits, targets, differentiate, resident):
    """(losses, logits afterwards) on the device; rows lie in a wider array, whose border must
    stand."""
    from aprnb.kernels.cuda import copy_in, copy_out, cuda
    from aprnb.kernels.launch import this_architecture
    from aprnb.kernels.sm80.cross_entropy import cross_entropy, misfit
    if resident and this_architecture() != "sm_90a":
        pytest.skip("no shared memory for 224 KB of a row")
    R, V = logits.shape
    pitch, stream = -(-V // 8) * 8 + 16, cuda.stream()
    host = np.full(2 * GUARD + R * pitch, BORDER, np.uint16).view(BF16)
    rows = host[GUARD:GUARD + R * pitch].reshape(R, pitch)
    rows[:, :V] = logits
    placed = [cuda.device_array(x.shape, x.dtype)
              for x in (host, np.empty(R, F32), targets, np.empty(1, F32))]
    given = (host, np.full(R, np.nan, F32), targets, np.array([SCALE]))
    for target, source in zip(placed, given):
        copy_in(target, source, stream)
    flat, losses, on_targets, scale = placed
    view = flat[GUARD:GUARD + R * pitch].reshape((R, pitch))[:, :V]
    arguments = losses, view, on_targets, scale, differentiate
    assert misfit(*arguments) is None
    cross_entropy(*arguments, stream, resident=resident)
    after = copy_out(flat, stream)
    result = after[GUARD:GUARD + R * pitch].reshape(R, pitch)[:, :V].copy()
    rows[:, :V] = result
    assert after.tobytes() == host.tobytes(), "wrote outside the rows"
    return copy_out(losses, stream), result


def by_definition(logits, targets, kind):
    """(losses, gradients) in floats of that kind, row after row."""
    for row, target in zip(logits.astype(kind), targets):
        shifted = row - row.max()
        lse = np.log(np.exp(shifted).sum())
        if target < 0:
            yield kind(0), np.zeros_like(row)
        else:
            gradient = np.exp(shifted - lse)
            gradient[target] -= 1
            yield lse - shifted[target], gradient * kind(SCALE)


def judge_rows(logits, targets, losses, gradients):
    rows = zip(by_definition(logits, targets, np.float64),
               by_definition(logits, targets, np.float32))
    truth, own = np.empty(len(targets)), np.empty(len(targets), F32)
    for r, ((truth[r], want), (own[r], _)) in enumerate(rows):
        # p: an exponent's roundings grow with its size; then one rounding to bfloat16
        finite = logits[r][np.isfinite(logits[r])].astype(np.float64)
        of_p = FUNCTIONS * (1 + np.ptp(finite))
        limit = (UNIT[BF16] + of_p) * np.abs(want) + np.finfo(F32).tiny
        if targets[r] >= 0:  # p - 1
            limit[targets[r]] += of_p * SCALE
        error = np.abs(gradients[r].astype(np.float64) - want)
        worst = np.argmax(error - limit)
        assert (error <= limit).all(), (
            f"row {r}, column {worst}: {gradients[r][worst]}, want {want[worst]}")
    scale = max(np.log(logits.shape[1]), np.abs(truth).max())
    assert_agrees("losses", losses, truth, own, scale, FUNCTIONS)


@pytest.mark.gpu
@both([(s, False) for s in STREAMED] + [(s, True) for s in RESIDENT])
def test_losses_and_gradients(shape, resident):
    logits, targets = normal(0, shape, BF16, 3.0), targets_of(*shape)
    losses, gradients = run(logits, targets, True, resident)
    judge_rows(logits, targets, losses, gradients)
    again = run(logits, targets, True, resident)
    assert (losses.tobytes(), gradients.tobytes()) == (again[0].tobytes(), again[1].tobytes())
    alone, untouched = run(logits, targets, False, resident)
    assert alone.tobytes() == losses.tobytes() and untouched.tobytes() == logits.tobytes()


@pytest.mark.gpu
@both([((9, 1003), False), ((140, 114_691), True)])
def test_unusual_rows(shape, resident):
    """Logits of +-100, of minus infinity, all equal; NaN counts only where there is a target."""
    R, V = shape
    logits, targets = normal(0, shape, BF16), targets_of(R, V)
    targets[:] = np.where(targets < 0, 1, targets)
    logits[0], logits[0, targets[0]] = -100, 100
    logits[1], logits[1, 0] = -100, 100
    targets[1] = 1
    logits[2] = 0
    logits[3, 8:] = -np.inf
    targets[3] = 7
    logits[4, :-8] = -np.inf
    targets[4] = V - 1
    targets[5], logits[5] = -1, np.nan
    targets[6] = -1
    losses, gradients = run(logits, targets, True, resident)
    assert losses[0] == pytest.approx(0, abs=FUNCTIONS)
    assert losses[1] == pytest.approx(200, rel=FUNCTIONS)
    assert losses[2] == pytest.approx(np.log(V), rel=FUNCTIONS)
    sound = np.arange(R) != 5
    judge_rows(logits[sound], targets[sound], losses[sound], gradients[sound])
    assert losses[5] == 0 and not gradients[5].astype(F32).any()
    targets[5] = 3
    assert np.isnan(run(logits, targets, True, resident)[0][5])


def test_the_resident_kernel_serves_the_real_width():
    from aprnb.kernels.sm80.cross_entropy import RESIDENT as lengths
    assert 151_936 in lengths and 114_688 in lengths and 155_655 in lengths
    assert 114_687 not in lengths and 155_656 not in lengths


def test_misfits_are_named():
    from aprnb.kernels.sm80.cross_entropy import misfit
    wide = np.zeros((4, 24), BF16)
    assert misfit(None, wide[:, :21], None, None, True) is None
    assert "16" in misfit(None, wide[:, :21].copy(), None, None, True)
    assert "float32" in misfit(None, wide.astype(F32), None, None, True)
