"""Token files as arrays that are mapped when they are read, however many of them there are.

A memory map keeps a file descriptor for as long as it lives, and a process has about a thousand of
those. So a dataset keeps the maps of the OPEN_MAPS shards that were read last, and makes one anew
when it is needed: a few microseconds.
"""
from functools import lru_cache

import numpy as np

from ..errors import CheckError

DTYPE = np.dtype("<u4")
OPEN_MAPS = 16  # of one dataset


class ShardError(CheckError):
    """A shard or its manifest cannot be read or does not agree."""


class Shard:
    """The ids of one file, (tokens,) u32 and read-only: `len`, and slices as arrays."""

    def __init__(self, file, mapped):
        """`mapped(file)` gives the whole array. Errors: ShardError (empty, cut within an id)."""
        self.file, self._mapped = file, mapped
        size = file.stat().st_size
        if size == 0:
            raise ShardError(f"{file}: empty shard, 0 bytes")
        if size % DTYPE.itemsize:
            raise ShardError(
                f"{file}: {size} bytes is no multiple of 4, so it is truncated or holds no 32-bit "
                "token ids; encode the corpus again, or read 16-bit ids with `aprnb tokenize "
                "import-tokens --dtype uint16`")
        self._tokens = size // DTYPE.itemsize

    def __len__(self):
        return self._tokens

    def __getitem__(self, part):
        ids = self._mapped(self.file)
        if len(ids) != self._tokens:
            raise ShardError(f"{self.file}: had {self._tokens} tokens when it was opened and now "
                             f"has {len(ids)}; leave a dataset alone while it is read")
        return ids[part]

    def __array__(self, dtype=None, copy=None):
        return np.array(self[:], dtype)


def open_shards(files):
    """A Shard for every file; they share OPEN_MAPS maps. Errors: ShardError."""
    mapped = lru_cache(OPEN_MAPS)(map_file)
    return tuple(Shard(file, mapped) for file in files)


def map_file(file):
    """(tokens,) u32 read-only map of a whole file."""
    return np.memmap(file, DTYPE, mode="r")
