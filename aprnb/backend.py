"""Backends: where arrays live and which ops compute on them. The only file that knows both the
NumPy oracle and the CUDA kernels; it binds an `ops` object, and its stream, once.

Who synchronises: ops only enqueue. `upload` and `download` are ordered with them on the same
stream and `download` waits for it, so the host meets the device exactly where a number is read:
once per optimiser step for losses and norm, and for logits, weights and moments when asked.
"""
import re
from types import SimpleNamespace

from .dtypes import PRECISIONS
from .errors import DeviceError, UsageError

OPS = {  # module -> its public ops, the same in oracle and kernels
    "convert": ("convert",),
    "reduce": ("column_sum", "sum_of_squares", "clip_factor"),
    "embedding": ("embedding_forward", "embedding_backward"),
    "rmsnorm": ("rmsnorm_forward", "rmsnorm_backward", "add_rmsnorm_forward",
                "add_rmsnorm_backward"),
    "linear": ("linear_forward", "linear_backward"),
    "rope": ("rope_forward", "rope_backward"),
    "attention": ("attention_forward", "attention_backward"),
    "swiglu": ("swiglu_forward", "swiglu_backward"),
    "linear_cross_entropy": ("linear_cross_entropy_forward", "linear_cross_entropy_backward"),
    "adamw": ("adamw",),
}
DEVICE = re.compile(r"auto|cpu|cuda(?::(\d|1[0-5]))?")


class Backend:
    """A device, a storage precision and the ops bound to them."""

    def __init__(self, device, ops, precision, reason):
        self.device, self.ops, self.precision, self.reason = device, ops, precision, reason
        self.name, self.dtype = device.name, PRECISIONS[precision]
        for method in ("poisoned", "zeros", "array", "upload", "download", "synchronize",
                       "memory_peak", "utilisation"):
            setattr(self, method, getattr(device, method))


def open_backend(device="auto", precision="auto"):
    """The backend for --device and --precision; only "auto" may choose, and it says why.

    Errors: UsageError for a malformed name, DeviceError if a GPU was asked for and none is usable.
    """
    match = DEVICE.fullmatch(device)
    if not match:
        raise UsageError(f"--device {device!r}: need auto, cpu, cuda or cuda:N with N in 0..15")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"--precision {precision!r}: need auto, {' or '.join(PRECISIONS)}")
    if device == "cpu":
        return _cpu(precision, "asked for")
    try:
        return _cuda(int(match[1] or 0), precision)
    except DeviceError as error:
        if device != "auto":
            raise DeviceError(f"{error}; use --device cpu or auto") from error
        return _cpu(precision, f"no usable GPU ({error})")


def _cpu(precision, why):
    import numpy as np

    from . import oracle
    from .device.host import HostDevice
    precision = "fp32" if precision == "auto" else precision
    # as on a GPU: an overflow gives inf or NaN, which whoever reads loss and norm judges by name
    quietly = np.errstate(all="ignore")
    return Backend(HostDevice(), _bind(oracle, quietly), precision,
                   f"cpu, {precision}: NumPy oracle; {why}")


def _cuda(index, precision):
    from .device.gpu import GpuDevice
    gpu = GpuDevice(index)
    from . import kernels
    if precision == "auto":
        precision = "bf16" if gpu.capability >= (8, 0) else "fp32"

    def on_stream(op):
        return lambda *args: op(*args, gpu.stream)

    return Backend(gpu, _bind(kernels, on_stream), precision,
                   f"{gpu.name}, {precision}: portable kernels on {gpu.description}")


def _bind(package, wrap):
    from importlib import import_module
    ops = {}
    for module, names in OPS.items():
        home = import_module(f"{package.__name__}.{module}")
        ops.update({name: wrap(getattr(home, name)) for name in names})
    return SimpleNamespace(**ops)
