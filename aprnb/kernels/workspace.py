"""Scratch memory of kernels: partial sums, counters. Zeroed when made, kept for the process.

A captured graph holds the addresses, so a workspace never moves: one that is too small is left
standing and a larger one made beside it. Two launches that use one workspace must be ordered on one
stream.
"""
import numpy as np

from .cuda import fill_bytes
from .launch import address
from .memory import allocate

_made = {}


def workspace(name, nbytes, stream):
    """Address of at least `nbytes` bytes, zeroed when first made, a multiple of 256.

    Errors: DeviceMemoryError if they do not fit.
    """
    key = name, -(-int(nbytes) // 256) * 256
    if key not in _made:
        made = allocate(key[1], np.uint8)
        fill_bytes(made, 0, stream)
        _made[key] = made
    return address(_made[key])
