"""From tables to memory: exact bytes and offsets before anything is allocated.

One arena per storage type; every buffer of the activation table is a view of it.
"""
from dataclasses import dataclass
from math import prod

import numpy as np

from ..dtypes import PRECISIONS
from .activations import activation_table

ALIGN = 64  # elements: every buffer starts on 128 bytes or more


@dataclass(frozen=True)
class Plan:
    """Offsets, in elements, of named buffers in one arena per storage type."""

    buffers: dict
    offsets: dict[str, int]
    lengths: dict[np.dtype, int]
    """Elements of each arena."""

    @property
    def nbytes(self):
        return sum(n * dtype.itemsize for dtype, n in self.lengths.items())

    def views(self, arenas):
        """Name -> array, given one flat arena per storage type."""
        out = {}
        for name, b in self.buffers.items():
            at = self.offsets[name]
            out[name] = arenas[b.dtype][at:at + prod(b.shape)].reshape(b.shape)
        return out


def activation_plan(config, backend, batch, length, training, recompute="none"):
    """The Plan of a pass over `batch` sequences of `length` positions on a backend."""
    return plan(activation_table(config, batch, length, backend.dtype, backend.logits, training,
                                 recompute, PRECISIONS[backend.residual]))


def plan(buffers):
    """Lay buffers out one after another, each on an aligned offset; those of the parts "loss" and
    "layer", which are never in use together, begin at the same place."""
    always, after = _lay(buffers, ("saved", "scratch"), {})
    loss, after_loss = _lay(buffers, ("loss",), after)
    layer, after_layer = _lay(buffers, ("layer",), after)
    lengths = {t: max(after_loss.get(t, 0), after_layer.get(t, 0))
               for t in {**after_loss, **after_layer}}
    return Plan(buffers, always | loss | layer, lengths)


def _lay(buffers, parts, starts):
    """(offset of every buffer of these parts, first free element of every storage type)."""
    offsets, free = {}, dict(starts)
    for name, b in buffers.items():
        if b.part in parts:
            offsets[name] = free.get(b.dtype, 0)
            free[b.dtype] = offsets[name] + -(-prod(b.shape) // ALIGN) * ALIGN
    return offsets, free
