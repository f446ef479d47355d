"""Who works on what: tiles dealt to persistent blocks, rings of shared-memory slots, walks.

Tiles of a causal triangle are of unequal length. They are numbered from the longest to the
shortest and dealt to the blocks there and back (0 1 2 .. 2 1 0 0 1 2 ..), so that a schedule fixed
in advance gives every block about the same work: 97 % of an even share at 16 x 1024.
"""
import math

import numpy as np

from ..cuda import cuda, device
from ..ptx.barrier import mbarrier_init
from ..ptx.scalar import quotient

ROWS, THREADS = 128, 384  # query rows or keys of a tile; of a block: one producer, two consumers
PANEL = ROWS * 64 * 2  # bytes of 128 rows of 64 bfloat16: what one tensor copy brings
ALIGNED = 1024  # bytes: where the 128-byte swizzle repeats
BARRIERS = 256  # bytes for all mbarriers of a block
LOG2_E = 1 / math.log(2.0)
LN2 = np.float32(math.log(2.0))
# The compiler reckons in 64 bits what is not cast back: a loop variable stays in one register if it
# starts as an i32 and every new value is one.
i32 = np.int32


@device
def query_tiles(T, B, H):
    """Number of tiles of query rows over all sequences and heads."""
    return i32(quotient(T + (ROWS - 1), ROWS) * B * H)


@device
def rounds_of(items):
    """How many times around `items` are dealt to all blocks."""
    blocks = i32(cuda.gridDim.x)
    return quotient(items + blocks - 1, blocks)


@device
def dealt(r):
    """The item this block is dealt in round r, there and back."""
    blocks, own = i32(cuda.gridDim.x), i32(cuda.blockIdx.x)
    return i32(r * blocks + (blocks - 1 - own if r & 1 else own))


@device
def query_tile(i, T, B, H):
    """Tile i, longest first: (tile of query rows, sequence and head, sequence, head)."""
    from_last = quotient(i, B * H)
    m = i32(quotient(T + (ROWS - 1), ROWS) - 1 - from_last)
    bh = i32(i - from_last * B * H)
    b = quotient(bh, H)
    return m, bh, b, i32(bh - b * H)


def make_ring(slots):
    """advance(s, phase): the next slot of a ring of mbarriers, and the parity of its phase."""
    @device
    def advance(s, phase):
        s = i32(s + 1)
        if s == slots:
            s = i32(0)
            phase = i32(phase ^ 1)
        return s, phase
    return advance


@device
def open_ring(first, slots, arrivals):
    """Mbarriers of one direction of a ring, 8 bytes each."""
    for s in range(slots):
        mbarrier_init(first + 8 * s, arrivals)
