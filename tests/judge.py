"""Runs an op as kernel and as oracle on the same arguments and compares every output.

Arguments come by name in the order of the op's signature, as NumPy arrays with the contents that
the op is to find: outputs start as NaN (`blank`) or, where the op adds, as given values. On the
device every array lies between guard bands: NaN around inputs, so that a read outside poisons the
result, and a known pattern around outputs, compared after the call.
"""
import importlib
import inspect

import ml_dtypes
import numpy as np
import pytest

from tolerance import BF16, F32, FUNCTION, assert_agrees, gamma

GUARD = 64  # elements before and behind: keeps 16-byte alignment in every type
DTYPES = pytest.mark.parametrize("dtype", [F32, BF16], ids=["f32", "bf16"])
STREAMS = pytest.mark.parametrize("dtype, residual", [(F32, F32), (BF16, BF16), (BF16, F32)],
                                  ids=["f32", "bf16", "bf16-f32"])  # storage, residual stream


def lanes(small, real=()):
    """Parametrise `shape`: small ones in the simulator and on a GPU, real ones on a GPU only."""
    def case(shape, mark):
        return pytest.param(shape, marks=mark, id=f"{mark.name}-{'x'.join(map(str, shape))}")
    return pytest.mark.parametrize("shape", [case(s, pytest.mark.sim) for s in small]
                                   + [case(s, pytest.mark.gpu) for s in (*small, *real)])


def normal(seed, shape, dtype, scale=1.0):
    """Standard normal values, rounded to dtype."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def blank(shape, dtype):
    """An output that nobody has written."""
    return np.full(shape, np.nan, dtype)


def judge(module, op, arguments, outputs, free=(), scales=None, peer=None, room="",
          allowances=None):
    """Run `op` twice on the device and once in the oracle per precision; compare.

    outputs: names of the arrays to be judged;  free: names of arrays that may hold anything;
    scales: output -> size of the terms that cancel in it;  peer: output -> array to use in place
    of the oracle's float32 result, where that sums in another order than the kernel;  room: "" for
    the portable kernels, "sm80", "sm90";  allowances: output -> fraction of the scale that the
    hardware's own arithmetic may add (tensor cores, approximate functions).
    Returns the kernel's arrays by name.
    """
    truth, plain = oracle_results(module, op, arguments)
    got, again = (run_kernel(module, op, arguments, room) for _ in range(2))
    for name, start in arguments.items():
        if not isinstance(start, np.ndarray):
            continue
        assert got[name].tobytes() == again[name].tobytes(), f"{name}: two calls, two results"
        if name in free:
            continue
        if name in outputs:
            own = (peer or {}).get(name, plain[name])
            assert_agrees(f"{op}: {name}", got[name], truth[name], own, (scales or {}).get(name),
                          (allowances or {}).get(name, 0.0))
        elif not any(start is arguments[out] for out in outputs):
            assert got[name].tobytes() == start.tobytes(), f"{op} changed its input {name}"
    return got


def oracle_results(module, op, arguments):
    """(truth, peer): all arguments after the op in float64 and in the storage types."""
    oracle = getattr(importlib.import_module(f"aprnb.oracle.{module}"), op)
    assert list(arguments) == list(inspect.signature(oracle).parameters)
    truth, peer = _copy(arguments, widened=True), _copy(arguments)
    oracle(*truth.values())
    oracle(*peer.values())
    return truth, peer


def run_kernel(module, op, arguments, room=""):
    """One call on the device; the arrays as they are afterwards, guard bands checked."""
    from aprnb.kernels.cuda import copy_in, cuda
    home = importlib.import_module(".".join(filter(None, ("aprnb.kernels", room, module))))
    launcher = getattr(home, op)
    stream, placed, bands = cuda.stream(), {}, {}
    for name, value in arguments.items():
        if not isinstance(value, np.ndarray):
            placed[name] = value
        elif id(value) in bands:  # the same array twice: the op is called in place
            placed[name] = bands[id(value)][1]
        else:
            base = np.concatenate([_guard(value.dtype), value.ravel(), _guard(value.dtype)])
            on_device = cuda.device_array(base.shape, base.dtype)
            copy_in(on_device, base, stream)
            view = on_device[GUARD:GUARD + value.size].reshape(value.shape)
            bands[id(value)] = on_device, view
            placed[name] = view
    assert not room or home.misfit(*placed.values()) is None
    launcher(*placed.values(), stream)
    stream.synchronize()
    return {name: _unwrap(f"{op}: {name}", value, bands, stream) if isinstance(value, np.ndarray)
            else value for name, value in arguments.items()}


def _guard(dtype):
    """NaN in every type, with a bit pattern no kernel writes; a far-off id for integers."""
    if dtype == np.int32:
        return np.full(GUARD, -(1 << 30), np.int32)
    word = {4: 0x7FC12345, 2: 0x7FD5}[dtype.itemsize]
    return np.full(GUARD, word, f"u{dtype.itemsize}").view(dtype)


def _unwrap(name, value, bands, stream):
    from aprnb.kernels.cuda import copy_out
    base = copy_out(bands[id(value)][0], stream)
    guard = _guard(value.dtype).tobytes()
    assert base[:GUARD].tobytes() == guard, f"{name}: wrote before the start"
    assert base[GUARD + value.size:].tobytes() == guard, f"{name}: wrote behind the end"
    return base[GUARD:GUARD + value.size].reshape(value.shape)


def _copy(arguments, widened=False):
    """Copies of all arrays, an array given twice staying one; floats as float64 if widened."""
    copies = {}
    for value in arguments.values():
        if isinstance(value, np.ndarray) and id(value) not in copies:
            floating = value.dtype == F32 or value.dtype == ml_dtypes.bfloat16
            copies[id(value)] = value.astype(np.float64 if widened and floating else value.dtype)
    return {name: copies.get(id(value), value) for name, value in arguments.items()}


STEP = 2.0 ** -13  # of central differences: their error is measured, so any that is small will do


def central_difference(terms, x, direction, step):
    """(derivative of the sum of terms() along a direction of x, how far rounding may move it).

    terms() gives the numbers that add up to a loss; x is float64, changed in place and restored.
    """
    start, seen = x.copy(), []
    for sign in (1, -1):
        x[...] = start + sign * step * direction
        seen.append(np.array(terms(), np.float64))
    x[...] = start
    above, below = seen
    # every term is a sum over x or less, behind some functions; all of them are added up
    roundings = x.size + above.size + 4 * FUNCTION
    noise = gamma(roundings) * (np.abs(above).sum() + np.abs(below).sum()) / (2 * step)
    return float((above - below).sum()) / (2 * step), noise


def assert_gradient(name, terms, x, gradient, directions=3):
    """The analytic gradient predicts the derivative of the sum of terms() along random directions.

    Central differences err by step^2 / 6 of the third derivative. Those of a whole and of a half
    step differ by three times the error of the half one, and that, with the rounding, is the limit.
    """
    rng = np.random.default_rng(5)
    for _ in range(directions):
        direction = rng.standard_normal(x.shape)
        whole, _ = central_difference(terms, x, direction, STEP)
        half, noise = central_difference(terms, x, direction, STEP / 2)
        predicted = float((gradient * direction).sum())
        limit = abs(whole - half) + 2 * noise
        assert abs(predicted - half) <= limit, (
            f"{name}: gradient gives {predicted:.10g}, central differences {half:.10g}; "
            f"limit {limit:.1e}")
