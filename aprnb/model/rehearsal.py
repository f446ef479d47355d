"""What a backend cannot compute is refused here, before a byte is allocated.

A pass is rehearsed: the decoder's own list of ops runs over arrays that have a shape, a storage
type and an address but no memory, and the backend's `checks` ask the kernels about each call. So a
limit stands once, in the `misfit` of the file that has it, and is met with the shapes, strides and
addresses of the run. What the kernels serve:

    head_dim           even; sm_90 64 and 128, portable up to 256          kernels/attention.py
    rows of a pass     batch * length below 2^30                           kernels/shapes.py
    vocabulary, width  below 2^30 columns of any matrix; odd ones too      kernels/shapes.py
    all else           any number of layers, heads, sequences, positions and parameters

A room with narrower limits (rows of 16 bytes, bfloat16) leaves the call to the next one; see
kernels/choice.py. The oracle, on the CPU, has no limit of its own.
"""
import ctypes
from dataclasses import dataclass
from math import prod

import numpy as np

from ..dtypes import F32
from ..errors import LoadError
from .decoder import Decoder
from .params import build_table
from .plan import activation_plan

LAYERS = 2  # that are rehearsed: the first, and one like all others
INTEGERS = np.dtype(np.int32)


@dataclass(frozen=True)
class Shadow:
    """A contiguous array without memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int = 0
    """Bytes from a start that is aligned as allocations are."""

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return prod(self.shape)

    @property
    def strides(self):
        return tuple(prod(self.shape[i + 1:]) * self.dtype.itemsize for i in range(self.ndim))

    @property
    def device_ctypes_pointer(self):
        """The name under which arrays of a GPU have it."""
        return ctypes.c_void_p(self.offset)

    def reshape(self, shape):
        assert prod(shape) == self.size
        return Shadow(tuple(shape), self.dtype, self.offset)

    def __getitem__(self, rows):
        """A slice along the first dimension."""
        start, stop, _ = rows.indices(self.shape[0])
        return Shadow((stop - start, *self.shape[1:]), self.dtype,
                      self.offset + start * self.strides[0])


def refuse_unserved(config, backend, batch, length, training, recompute="none",
                    where="this model"):
    """Refuse a model, or a size of its passes, that the backend has no kernel for.

    training: whether there is a backward pass;  where: the file or preset of the model
    Errors: LoadError (exit 6) saying op, got and need; DeviceError if kernels that were asked for
    by name do not serve it.
    """
    refusal = _refusal(config, backend, batch, length, training, recompute)
    if refusal:
        other = _refusal(config, backend, 1, 1, training, recompute)  # the model's own, or none
        tip = "" if other else "fewer or shorter sequences in a pass, or "
        raise LoadError(f"{where}: {backend.name} has no kernel for {refusal}; try {tip}--device "
                        "cpu")


def _refusal(*size):
    """What a rehearsal is refused with, or None."""
    try:
        _rehearse(*size)
    except LoadError as error:
        return error


def _rehearse(config, backend, batch, length, training, recompute):
    if backend.checks is None:
        return
    config = config.with_(num_layers=min(LAYERS, config.num_layers))
    table = build_table(config)
    layout = activation_plan(config, backend, batch, length, training, recompute)
    acts = layout.views({t: Shadow((n,), t) for t, n in layout.lengths.items()})
    angles = Shadow((length, config.head_dim // 2), F32)
    decoder = Decoder(config, backend.checks, table.views(Shadow((table.elements,), backend.dtype)),
                      acts, (angles, angles), recompute)
    ids = targets = Shadow((batch * length,), INTEGERS)
    decoder.forward(ids)
    decoder.losses(targets)
    decoder.logits(0, 1)
    if training:
        decoder.backward(table.views(Shadow((table.elements,), F32)), ids, targets,
                         Shadow((1,), F32), False)
