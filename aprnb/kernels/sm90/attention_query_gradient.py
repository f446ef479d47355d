"""The gradient of the queries for Hopper: causal, grouped-query, head_dim 64.

    p[t,u]  = 2 ** (c s[t,u] - lse2[t])
    ds[t,u] = p[t,u] * (do[t] . v[u] - delta[t])        delta[t] = do[t] . o[t]
    dq[t]   = sum_u ds[t,u] k[u] / sqrt(D)

Without atomics: this kernel owns query rows, attention_key_gradient.py owns keys; s and dp are
computed in both, 7 products instead of 5, but there is no second pass over dq, and the result is
the same in every run. The frame is that of attention_forward.py: a producer warpgroup and two
consumers of 64 query rows; dS stays in registers as the A operand of dQ += dS K, with K as it lies
in memory as the MN-major B operand. The consumers take turns: one issues its products while the
other does its exponentials (1 to 2 %).

ptxas moves a wait for a product upwards over arithmetic that does not depend on it, and both
compilers sink pure arithmetic below a wait when only code there uses it. Hence the exponentials are
pinned (they are volatile), and the wait behind them stands beyond a spin loop, which is the border
of a basic block. In the machine code MUFU must stand before the second WARPGROUP.DEPBAR.

delta is computed here, where dO is at hand: O comes with it, 29 MB at 16 x 1024 that load under the
products, where a kernel of its own moved 63 MB in 19 us. This kernel so also writes what the key
gradients need: delta, and lse in base 2, both padded to whole tiles of 128 rows with 0 and +inf,
which makes every p there 2 ** (s - inf) = 0; no other care is needed for any length.

Floor at 16 x 1024, 14 heads: 3 products of 15 GFLOP each half square, with the diagonal 51 GFLOP:
63 us at 800 TFLOP/s, and 36 us of exponentials that can run under them (16 a clock).
"""
import math

import numpy as np

from ..cuda import cuda, device, kernel
from ..ptx import barrier as bar
from ..ptx import tma
from ..ptx.scalar import load_f32, quotient, shared_address, store_f32, uniform
from ..ptx.tiles import make_rows, make_stage, quad_sum
from ..ptx.vector import dot_shared_bf16x8
from ..ptx.wgmma import make_accumulator, make_product, mn_major
from .attention_schedule import (ALIGNED, BARRIERS, LOG2_E, PANEL, ROWS, THREADS, dealt, i32,
                                 make_ring, open_ring, query_tile, query_tiles, rounds_of)

D, SLOTS = 64, 3  # head dimension; key blocks in the ring
DO_PLACE = 2 * PANEL  # Q, dO and O twice: the next tile's are loaded while this one finishes
O_PLACE = 4 * PANEL
K_PLACE = 6 * PANEL
V_PLACE = K_PLACE + SLOTS * PANEL
OUT_PLACE = V_PLACE + SLOTS * PANEL
Q_FULL = OUT_PLACE + PANEL
Q_EMPTY, K_FULL = Q_FULL + 16, Q_FULL + 32
V_FULL, K_EMPTY, V_EMPTY = (K_FULL + 8 * SLOTS * i for i in (1, 2, 3))
TURN = 3  # named barriers 3 and 4: whose turn it is; 1 and 2: the threads of one warpgroup

advance = make_ring(SLOTS)
product_s = make_product(ROWS)
product_q = make_product(D, 8, b=mn_major(PANEL), a_registers=True)
zeros_s, wait_s, wait_s_1 = make_accumulator(ROWS // 2)
zeros_q, wait_q, _ = make_accumulator(D // 2)
_rows = make_rows(ROWS, pinned=True)
exp2_rows, causal, gradient_rows, to_bf16 = _rows.exp2, _rows.causal, _rows.gradient, _rows.to_bf16
scale_q, stage = make_rows(D).scale, make_stage(D, 64)
release_registers, take_registers = bar.setmaxnreg("dec", 40), bar.setmaxnreg("inc", 232)
wait_stores = tma.wait_stores_read(0)
INFINITY, TO_BASE_2 = np.float32(math.inf), np.float32(LOG2_E)


@device
def feed(base, q_map, do_map, o_map, k_map, v_map, T, B, H, G):
    """Load Q, dO, O, K and V of every tile, as far ahead as the slots allow."""
    s, phase, q_slot, q_phase = i32(0), i32(0), i32(0), i32(0)
    tiles = query_tiles(T, B, H)
    for r in range(rounds_of(tiles)):
        i = dealt(r)
        if i < tiles:
            m, _, b, h = query_tile(i, T, B, H)
            full = base + Q_FULL + 8 * q_slot
            bar.mbarrier_wait(base + Q_EMPTY + 8 * q_slot, q_phase ^ 1)
            bar.mbarrier_expect(full, 3 * PANEL)
            tma.load_3d(base + q_slot * PANEL, q_map, h * D, m * ROWS, b, full)
            tma.load_3d(base + DO_PLACE + q_slot * PANEL, do_map, h * D, m * ROWS, b, full)
            tma.load_3d(base + O_PLACE + q_slot * PANEL, o_map, h * D, m * ROWS, b, full)
            q_slot = i32(q_slot ^ 1)
            if q_slot == 0:
                q_phase = i32(q_phase ^ 1)
            for left in range(m + 1):
                u, column = (m - left) * ROWS, quotient(h, G) * D
                bar.mbarrier_wait(base + K_EMPTY + 8 * s, phase ^ 1)
                bar.mbarrier_expect(base + K_FULL + 8 * s, PANEL)
                tma.load_3d(base + K_PLACE + s * PANEL, k_map, column, u, b, base + K_FULL + 8 * s)
                bar.mbarrier_wait(base + V_EMPTY + 8 * s, phase ^ 1)
                bar.mbarrier_expect(base + V_FULL + 8 * s, PANEL)
                tma.load_3d(base + V_PLACE + s * PANEL, v_map, column, u, b, base + V_FULL + 8 * s)
                s, phase = advance(s, phase)


@device
def load_lse(lse, bh, row, T):
    """lse of this lane's two rows in base 2, +inf beyond the last."""
    at = lse + (np.int64(bh) * T + row) * 4
    low, high = INFINITY, INFINITY
    if row < T:
        low = load_f32(at) * TO_BASE_2
    if row + 8 < T:
        high = load_f32(at + 32) * TO_BASE_2
    return low, high


@device
def dot_rows(dout, in_tile, lane):
    """do . o of rows in_tile and in_tile + 8 of this warpgroup, whose dO tile is at `dout`."""
    # a lane takes 16 bytes of each half of a row, even rows the left first: no bank conflicts
    part = (lane & 3) | ((in_tile & 1) << 2)
    at = dout + in_tile * 128 + ((part ^ (in_tile & 7)) << 4)
    other = at + (O_PLACE - DO_PLACE)
    low = dot_shared_bf16x8(at, other) + dot_shared_bf16x8(at ^ 64, other ^ 64)
    at, other = at + 8 * 128, other + 8 * 128
    high = dot_shared_bf16x8(at, other) + dot_shared_bf16x8(at ^ 64, other ^ 64)
    return quad_sum((low, high))


@device
def write_rows(delta, padded_delta, padded_lse, d, l, bh, row, T, Tp):
    """delta as the op gives it; delta and lse as the key gradients want them."""
    at, padded = (np.int64(bh) * T + row) * 4, (np.int64(bh) * Tp + row) * 4
    store_f32(padded_delta + padded, d[0])
    store_f32(padded_delta + padded + 32, d[1])
    store_f32(padded_lse + padded, l[0])
    store_f32(padded_lse + padded + 32, l[1])
    if row < T:
        store_f32(delta + at, d[0])
    if row + 8 < T:
        store_f32(delta + at + 32, d[1])


@device
def write(dQ, base, dq_map, b, h, m, w, t):
    """A warpgroup's 64 rows through shared memory."""
    lane = t & 31
    # stmatrix: lanes 0-15 hold the rows of the left 8 columns, lanes 16-31 of the right
    row = 16 * (t >> 5) + (lane & 15)
    out = base + OUT_PLACE + w * (64 * 128)
    bar.named_sync(1 + w, 128)  # the last tile's store has read the buffer
    stage(dQ, 0, out + row * 128 + (((lane >> 4) ^ (row & 7)) << 4))
    bar.fence_async_shared()
    bar.named_sync(1 + w, 128)  # all rows stand
    if t == 0:
        tma.store_3d(dq_map, out, h * D, m * ROWS + w * 64, b)
        tma.commit_stores()


@kernel("p p p p p p p p p p i i i i i f f", registers=168, threads=THREADS,
        shared=Q_FULL + BARRIERS + ALIGNED, architectures=("sm_90a",), overlap=True,
        name="attention_query_gradient_64")
def query_gradient_kernel(q_map, do_map, o_map, k_map, v_map, dq_map, lse, delta, padded_lse,
                          padded_delta, B, T, Tp, H, G, c, scale):
    """Maps of Q, dO, O, K, V (boxes of 64 x 128 rows) and dQ (64 x 64 rows), each over
    (heads * 64, T, B); lse; delta (B, H, T) to be written; lse in base 2 and delta padded to
    (B, H, Tp), to be written; B, T, Tp, H, query heads a key head, log2(e) / sqrt(D),
    1 / sqrt(D)."""
    tid = cuda.threadIdx.x
    base = (shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00
    warpgroup = uniform(tid // 128)
    if tid == 0:
        tma.prefetch_map(q_map)
        tma.prefetch_map(do_map)
        tma.prefetch_map(o_map)
        tma.prefetch_map(k_map)
        tma.prefetch_map(v_map)
        open_ring(base + Q_FULL, 2, 1)
        open_ring(base + Q_EMPTY, 2, 256)  # every thread has read dO and O
        open_ring(base + K_FULL, 2 * SLOTS, 1)  # and V_FULL, which lies behind it
        open_ring(base + K_EMPTY, 2 * SLOTS, 2)  # and V_EMPTY
        bar.mbarrier_fence_init()
    bar.let_next_start()
    cuda.syncthreads()  # the barriers stand before anyone waits on them
    bar.wait_for_previous()

    if warpgroup == 0:
        release_registers()
        if tid == 0:
            feed(base, q_map, do_map, o_map, k_map, v_map, T, B, H, G)
    else:
        take_registers()
        w = i32(warpgroup) - 1
        t = i32(tid) & 127
        lane = t & 31
        in_tile = 16 * (t >> 5) + (lane >> 2)
        s, phase, q_slot, q_phase = i32(0), i32(0), i32(0), i32(0)
        S = zeros_s()
        P = zeros_s()
        dQ = zeros_q()
        if w == 1:
            bar.named_arrive(TURN, 256)  # the first turn is warpgroup 0's
        tiles = query_tiles(T, B, H)
        for r in range(rounds_of(tiles)):
            i = dealt(r)
            if i < tiles:
                m, bh, b, h = query_tile(i, T, B, H)
                row = m * ROWS + w * 64 + in_tile
                l = load_lse(lse, bh, row, T)
                q = base + q_slot * PANEL + w * (64 * 128)
                bar.mbarrier_wait(base + Q_FULL + 8 * q_slot, q_phase)
                d = dot_rows(q + DO_PLACE, in_tile, lane)
                if lane & 3 == 0:
                    write_rows(delta, padded_delta, padded_lse, d, l, bh, row, T, Tp)
                last = s
                for block in range(m + 1):
                    k = base + K_PLACE + s * PANEL
                    bar.mbarrier_wait(base + K_FULL + 8 * s, phase)
                    bar.mbarrier_wait(base + V_FULL + 8 * s, phase)
                    bar.named_sync(TURN + w, 256)
                    P = product_s(P, q, k, 0)
                    S = product_s(S, q + DO_PLACE, base + V_PLACE + s * PANEL, 0)
                    bar.named_arrive(TURN + 1 - w, 256)
                    P = wait_s_1(P)  # the last block's dQ product is done too
                    if t == 0:
                        if block > 0:
                            bar.mbarrier_arrive(base + K_EMPTY + 8 * last)
                    if block == 0:
                        P = causal(P, w * 64 + in_tile - 2 * (lane & 3))
                    P = exp2_rows(P, c, l)
                    bar.mbarrier_wait(base + V_FULL + 8 * s, phase)  # a border: see above
                    S = wait_s(S)
                    if t == 0:
                        bar.mbarrier_arrive(base + V_EMPTY + 8 * s)
                    S = gradient_rows(P, S, d)
                    dQ = product_q(dQ, to_bf16(S), k, block > 0)
                    last = s
                    s, phase = advance(s, phase)
                dQ = wait_q(dQ)
                if t == 0:
                    bar.mbarrier_arrive(base + K_EMPTY + 8 * last)
                    wait_stores()
                bar.mbarrier_arrive(base + Q_EMPTY + 8 * q_slot)
                q_slot = i32(q_slot ^ 1)
                if q_slot == 0:
                    q_phase = i32(q_phase ^ 1)
                write(scale_q(dQ, (scale, scale)), base, dq_map, b, h, m, w, t)
        if t == 0:
            wait_stores()  # shared memory must outlive the last store's reads
