"""delta[t] = do[t] . o[t], and the log-sum-exp as the gradient kernels want it, head_dim 128.

(At head_dim 64 the kernel of the query gradients does this on the way.)

Both are needed for whole tiles of query rows: rows up to the next multiple of 128 get delta 0 and a
log-sum-exp of +inf, which makes every p there 2 ** (s - inf) = 0; the gradient kernels then need no
other care for lengths that are no multiple. The log-sum-exp is scaled to base 2.

A block owns 8 neighbouring positions with all their heads: it reads 8 contiguous runs of o and do,
a warp each, and through shared memory writes 8 neighbours along t, a whole 32-byte sector.

Floor at 16 x 1024, 12 heads: 101 MB read, 3 MB written: 24 us at 4.25 TB/s.
"""
import math

import numpy as np

from ..cuda import cuda, float32, kernel
from ..ptx.barrier import let_next_start, wait_for_previous
from ..ptx.scalar import load_f32, shuffle_xor, store_f32
from ..ptx.vector import dot_bf16x8
from .attention_schedule import LOG2_E

D = 128
POSITIONS, HEADS = 8, 32  # of a block; which pass through shared memory at a time
LANES = D // 8  # that share a row, 16 bytes each
TOGETHER = 32 // LANES  # heads that a warp works on at a time
INFINITY, TO_BASE_2 = np.float32(math.inf), np.float32(LOG2_E)


@kernel("p p p p p p i i i", registers=32, threads=256, blocks=8, architectures=("sm_90a",),
        overlap=True, name="attention_delta_128")
def delta_kernel(delta, padded_delta, padded_lse, o, do, lse, T, Tp, H):
    """delta (B, H, T) as the op gives it; delta and lse padded to (B, H, Tp); o, do (B, T, H, 128)
    bfloat16; lse (B, H, T); T, Tp, H. Grid: Tp / 8 * B blocks."""
    found = cuda.shared.array((HEADS, POSITIONS), float32)
    let_next_start()
    wait_for_previous()
    tid = np.int32(cuda.threadIdx.x)
    warp, lane = tid >> 5, tid & 31
    groups = Tp // POSITIONS
    block = np.int32(cuda.blockIdx.x)
    b = block // groups
    t0 = (block - b * groups) * POSITIONS
    own = (np.int64(b) * T + t0 + warp) * H  # heads before this warp's position
    for h0 in range(0, H, HEADS):
        for i in range(0, min(HEADS, H - h0), TOGETHER):
            h = h0 + i + lane // LANES
            d = float32(0.0)
            if h < H and t0 + warp < T:
                at = ((own + h) * D + lane % LANES * 8) * 2
                d = dot_bf16x8(o + at, do + at)
            distance = LANES >> 1
            while distance > 0:
                d += shuffle_xor(d, distance)
                distance >>= 1
            if lane % LANES == 0:
                found[i + lane // LANES, warp] = d
        cuda.syncthreads()  # the rows of these heads stand
        h, t = h0 + (tid >> 3), t0 + (tid & 7)
        if h < H:
            row = np.int64(b) * H + h
            d, l = found[tid >> 3, tid & 7], INFINITY
            if t < T:
                l = load_f32(lse + (row * T + t) * 4) * TO_BASE_2
                store_f32(delta + (row * T + t) * 4, d)
            store_f32(padded_delta + (row * Tp + t) * 4, d)
            store_f32(padded_lse + (row * Tp + t) * 4, l)
        cuda.syncthreads()  # read before the next heads overwrite them

