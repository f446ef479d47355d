"""From tables to memory: exact bytes and offsets before anything is allocated.

One arena per storage type; every buffer of the activation table is a view of it.
"""
from dataclasses import dataclass
from math import prod

import numpy as np

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


def plan(buffers):
    """Lay buffers out one after another, each on an aligned offset."""
    offsets, lengths = {}, {}
    for name, b in buffers.items():
        offsets[name] = lengths.get(b.dtype, 0)
        lengths[b.dtype] = offsets[name] + -(-prod(b.shape) // ALIGN) * ALIGN
    return Plan(buffers, offsets, lengths)
