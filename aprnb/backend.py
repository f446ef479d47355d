"""Backends: where arrays live and which ops compute on them. The only file that knows both the
NumPy oracle and the CUDA kernels; it binds an `ops` object, and its stream, once.

Who synchronises: ops only enqueue. `upload` and `download` are ordered with them on the same
stream and `download` waits for it, so the host meets the device exactly where a number is read:
once per optimiser step for losses and norm, and for logits, weights and moments when asked.
"""
import re
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

from .dtypes import F32, PRECISIONS
from .errors import DeviceError, UsageError

OPS = {  # module -> its public ops, the same in oracle and kernels
    "convert": ("convert",),
    "reduce": ("column_sum", "sum_of_squares", "clip_factor"),
    "embedding": ("embedding_forward", "embedding_backward"),
    "rmsnorm": ("rmsnorm_forward", "rmsnorm_backward", "add_rmsnorm_forward",
                "add_rmsnorm_backward"),
    "linear": ("linear_forward", "linear_backward"),
    "rope": ("rope_forward", "rope_backward", "rope_backward_bias"),
    "attention": ("attention_forward", "attention_backward"),
    "swiglu": ("swiglu_forward", "swiglu_backward"),
    "linear_swiglu": ("linear_swiglu_forward", "swiglu_linear_backward"),
    "linear_cross_entropy": ("linear_cross_entropy_forward", "linear_cross_entropy_backward"),
    "adamw": ("adamw",),
}
KERNELS = ("auto", "sm_90", "sm_80", "portable")  # what --kernels may ask of a GPU
DEVICE = re.compile(r"auto|cpu|cuda(?::(\d|1[0-5]))?")


@dataclass(frozen=True)
class Logits:
    """How a device wants the chunk of logits that exists at a time."""

    dtype: np.dtype
    nbytes: int
    """Of the chunk, about: what a CPU caches, what keeps a GPU's products large."""
    rows: int
    """A chunk has at least, however large the vocabulary."""
    align: int
    """Elements of which a row is a multiple."""


class Backend:
    """A device, a storage precision and the ops bound to them.

    residual: the precision of the residual stream, if it is not that of everything else
    checks: beside every op a function that refuses arguments which no kernel serves and runs
        nothing (model/rehearsal.py); None where every shape is served, as by the oracle
    """

    def __init__(self, device, ops, precision, reason, logits=None, served=list, residual=None,
                 checks=None):
        self.device, self.ops, self.precision, self.reason = device, ops, precision, reason
        self.name, self.dtype = device.name, PRECISIONS[precision]
        self.residual = residual or precision
        self.logits = logits or Logits(F32, 8 << 20, 256, 1)
        self.served, self.checks = served, checks
        """() -> lines saying which kernels served which ops, once they have run"""
        for method in ("poisoned", "zeros", "array", "upload", "copy", "download", "synchronize",
                       "memory_peak", "utilisation", "program", "build"):
            setattr(self, method, getattr(device, method))


def open_backend(device="auto", precision="auto", kernels="auto", residual="auto"):
    """The backend for --device, --precision, --kernels and --residual; only "auto" may choose, and
    says why. The residual stream's auto is the precision; beside fp32 there is no other.

    Errors: UsageError for a malformed name or a bf16 stream beside fp32, DeviceError if a GPU was
    asked for and none is usable, or kernels that this GPU, precision or model cannot run.
    """
    match = DEVICE.fullmatch(device)
    if not match:
        raise UsageError(f"--device {device!r}: need auto, cpu, cuda or cuda:N with N in 0..15")
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"--precision {precision!r}: need auto, {' or '.join(PRECISIONS)}")
    if residual not in ("auto", *PRECISIONS):
        raise UsageError(f"--residual {residual!r}: need auto, {' or '.join(PRECISIONS)}")
    if kernels not in KERNELS:
        raise UsageError(f"--kernels {kernels!r}: need {', '.join(KERNELS)}")
    if device == "cpu":
        if kernels != "auto":
            raise UsageError(f"--kernels {kernels} asks for a GPU and --device cpu for none")
        return _cpu(precision, "asked for", residual)
    try:
        from .device.gpu import GpuDevice
        gpu = GpuDevice(int(match[1] or 0))
    except DeviceError as error:
        if kernels != "auto":
            raise DeviceError(f"{error}; --kernels {kernels} asks for one, auto may choose the "
                              "CPU") from error
        if device != "auto":
            raise DeviceError(f"{error}; use --device cpu or auto") from error
        return _cpu(precision, f"no usable GPU ({error})", residual)
    return _cuda(gpu, precision, kernels, residual)


def _cpu(precision, why, residual):
    from . import oracle
    from .device.host import HostDevice
    precision = "fp32" if precision == "auto" else precision
    residual, types = _storage(precision, residual)
    # as on a GPU: an overflow gives inf or NaN, which whoever reads loss and norm judges by name
    quietly = np.errstate(all="ignore")
    return Backend(HostDevice(), _bind(oracle, quietly), precision,
                   f"cpu, {types}: NumPy oracle; {why}", residual=residual)


def _cuda(gpu, precision, asked, residual):
    if precision == "auto":
        precision = "bf16" if gpu.capability >= (8, 0) else "fp32"
    residual, types = _storage(precision, residual)
    from .kernels.choice import Choice, name_of
    choice = Choice(asked, gpu.capability, precision)

    def on_stream(op):
        return lambda *args: op(*args, gpu.stream)

    every = [(module, name) for module, names in OPS.items() for name in names]
    ops = {name: on_stream(choice.bind(module, name)) for module, name in every}
    checks = {name: choice.check(module, name) for module, name in every}
    best = choice.rooms[0]
    logits = Logits(F32 if best == "portable" else PRECISIONS[precision], 5 << 28, 256, 8)
    return Backend(gpu, SimpleNamespace(**ops), precision,
                   f"{gpu.name}, {types}: {name_of(best)} kernels on {gpu.description}", logits,
                   choice.lines, residual, SimpleNamespace(**checks))


def _storage(precision, residual):
    """(precision of the residual stream, both in words)."""
    if residual in ("auto", precision):
        return precision, precision
    if precision == "fp32":
        raise UsageError(f"--residual {residual}: with precision fp32 everything is float32; leave "
                         "--residual out, or use --precision bf16")
    return residual, f"{precision} with a residual stream in {residual}"


def _bind(package, wrap):
    from importlib import import_module
    ops = {}
    for module, names in OPS.items():
        home = import_module(f"{package.__name__}.{module}")
        ops.update({name: wrap(getattr(home, name)) for name in names})
    return SimpleNamespace(**ops)
