"""AdamW with 16-byte accesses against the oracle."""
import numpy as np
import pytest

from judge import blank, judge, normal
from test_adamw import small_gradients
from tolerance import BF16, F32, FUNCTION, gamma

BETA1, BETA2, EPS, DECAY = 0.9, 0.95, 1e-8, 0.1
VECTORS_OF_A_BLOCK = 2048  # of 4 elements


def one(value):
    return np.array([value], F32)


def arguments(n, dtype, decayed, t=7):
    return {"w": normal(0, n, F32), "work": None if dtype == F32 else blank(n, dtype),
            "m": normal(1, n, F32, 0.1), "v": np.abs(normal(2, n, F32, 0.1)),
            "g": normal(3, n, F32), "lr": one(1e-2), "correction1": one(1 - BETA1 ** t),
            "correction2": one(1 - BETA2 ** t), "clip": one(0.7), "beta1": BETA1, "beta2": BETA2,
            "eps": EPS, "decay": DECAY, "decayed": decayed}


@pytest.mark.gpu
@pytest.mark.parametrize("n", [4, 4 * VECTORS_OF_A_BLOCK, 4 * VECTORS_OF_A_BLOCK + 4, 1_000_004])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["master-alone", "working-copy"])
@pytest.mark.parametrize("share", [0, 0.5, 1], ids=["none", "half", "all"])
def test_update(n, dtype, share):
    """One vector, a whole block, one vector more, many blocks; how much of it is decayed."""
    judge("adamw", "adamw", arguments(n, dtype, int(share * n) // 4 * 4),
          ("w", "m", "v") if dtype == F32 else ("w", "work", "m", "v"), room="sm80")


@pytest.mark.gpu
@pytest.mark.parametrize("n", [4, 4 * VECTORS_OF_A_BLOCK + 4])
def test_gradients_as_small_as_eps(n):
    # of w, the step alone: root and quotient are the hardware's approximations
    judge("adamw", "adamw", small_gradients(n, None, 7), ("w", "m", "v"), room="sm80",
          allowances={"w": gamma(2 * FUNCTION, F32)})


@pytest.mark.gpu
def test_parameters_without_gradient_only_decay():
    """Moments and gradients of zero, as in embedding rows of unseen tokens: eps prevents 0 / 0."""
    given = arguments(4096, BF16, 2048)
    for name in ("m", "v", "g"):
        given[name][:] = 0
    got = judge("adamw", "adamw", given, ("w", "work", "m", "v"), room="sm80")
    assert got["w"][2048:].tobytes() == given["w"][2048:].tobytes()
    assert not got["m"].any() and not got["v"].any()


def test_misfits_are_named():
    from aprnb.kernels.sm80.adamw import misfit
    values = list(arguments(8, BF16, 8).values())
    assert misfit(*values) is None
    assert "multiples of 4" in misfit(*values[:-1], 6)
    assert "float16" in misfit(values[0], np.empty(8, np.float16), *values[2:])
