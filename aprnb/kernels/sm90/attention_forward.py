"""Flash attention forward for Hopper: causal, grouped-query, bfloat16, float32 softmax.

Persistent; 384 threads: warpgroup 0 loads through TMA, warpgroups 1 and 2 own 64 query rows each.
S = Q K^T comes from shared memory; P stays in registers: the accumulator of S, packed to pairs, is
the A operand of O += P V, and V, as it lies in memory, is the MN-major B operand. The next block's
S and this block's P V are in flight together; the softmax of one warpgroup runs under the products
of the other. Running maximum in the scale of S, one FMA and one exp2 a score, row sums reduced
across lanes only at the end (Dao et al. 2022, algorithm 1; Shah et al. 2024).

The diagonal block comes first, so the maximum is never -inf, and only there anything is masked. Its
right half is empty for the upper warpgroup, which leaves it out: this also sets the warpgroups out
of step, and they stay so, which made explicit turns between them superfluous (95.8 us with turns,
92.0 without, at 16 x 1024).

P is rounded to bfloat16 before the second product, the sum of a row is that of the unrounded P.

Floor at 16 x 1024, 14 heads of 64: 30 GFLOP of half squares, 32 with what the masked halves cost:
40 us at 800 TFLOP/s; 125 million exp2 at 16 a clock and multiprocessor: 34 us. At head_dim 128 the
products are twice as long: 12 heads 55 GFLOP, 68 us, beside 29 us; K and V come out of L2 at 32
bytes a clock and multiprocessor if the products ran at their full rate.
"""
import math

import numpy as np

from ..cuda import cuda, device, kernel
from ..ptx import barrier as bar
from ..ptx import tma
from ..ptx.scalar import ex2, lg2, quotient, rcp, shared_address, store_f32, uniform
from ..ptx.tiles import make_rows, make_stage, make_widen, quad_sum
from ..ptx.wgmma import k_major, make_accumulator, make_product, mn_major
from .attention_schedule import (ALIGNED, BARRIERS, LN2, PANEL, ROWS, THREADS, dealt, i32,
                                 make_ring, open_ring, query_tile, query_tiles, rounds_of)

LOWEST = np.float32(-math.inf)
release_registers, take_registers = bar.setmaxnreg("dec", 24), bar.setmaxnreg("inc", 240)
wait_stores = tma.wait_stores_read(0)


def make_forward(D, slots):
    """The forward kernel of one head dimension, 64 or 128, with `slots` key blocks in its ring.

    Kernel arguments: maps of Q, K, V (boxes of 64 x 128 rows) and O (64 x 64 rows), each over
    (heads * D, T, B); lse (B, H, T); B, T, H, query heads a key head, log2(e) / sqrt(D).
    """
    panels = D // 64
    tile_bytes = panels * PANEL
    k_place = 2 * tile_bytes  # Q twice: the next tile's is loaded while this one finishes
    v_place = k_place + slots * tile_bytes
    o_place = v_place + slots * tile_bytes
    q_full = o_place + tile_bytes
    q_empty, k_full = q_full + 16, q_full + 32
    v_full, k_empty, v_empty = (k_full + 8 * slots * i for i in (1, 2, 3))

    advance, load = make_ring(slots), _make_load(panels)
    first_block = _make_first_block(D)
    write = _make_writer(D)
    scores = make_product(ROWS, 4 * panels, k_major(PANEL), k_major(PANEL))
    output = make_product(D, 8, b=mn_major(PANEL), a_registers=True)
    zeros_s, wait_s, wait_s_1 = make_accumulator(ROWS // 2)
    zeros_o, wait_o, _ = make_accumulator(D // 2)
    rows, rows_o = make_rows(ROWS), make_rows(D)
    row_max, row_sum, exp2_rows, to_bf16 = rows.row_max, rows.row_sum, rows.exp2, rows.to_bf16
    scale_o = rows_o.scale

    @device
    def feed(base, q_map, k_map, v_map, T, B, H, G):
        """Load Q, K and V of every tile, as far ahead as the slots allow."""
        s, phase, q_slot, q_phase = i32(0), i32(0), i32(0), i32(0)
        tiles = query_tiles(T, B, H)
        for r in range(rounds_of(tiles)):
            i = dealt(r)
            if i < tiles:
                m, _, b, h = query_tile(i, T, B, H)
                bar.mbarrier_wait(base + q_empty + 8 * q_slot, q_phase ^ 1)
                load(base + q_slot * tile_bytes, q_map, h * D, m * ROWS, b,
                     base + q_full + 8 * q_slot)
                q_slot = i32(q_slot ^ 1)
                if q_slot == 0:
                    q_phase = i32(q_phase ^ 1)
                for left in range(m + 1):
                    u = (m - left) * ROWS
                    bar.mbarrier_wait(base + k_empty + 8 * s, phase ^ 1)
                    load(base + k_place + s * tile_bytes, k_map, quotient(h, G) * D, u, b,
                         base + k_full + 8 * s)
                    bar.mbarrier_wait(base + v_empty + 8 * s, phase ^ 1)
                    load(base + v_place + s * tile_bytes, v_map, quotient(h, G) * D, u, b,
                         base + v_full + 8 * s)
                    s, phase = advance(s, phase)

    @kernel("p p p p p i i i i f", registers=168, threads=THREADS,
            shared=q_full + BARRIERS + ALIGNED, architectures=("sm_90a",), overlap=True,
            name=f"attention_forward_{D}")
    def attention_forward_kernel(q_map, k_map, v_map, o_map, lse, B, T, H, G, c):
        tid = cuda.threadIdx.x
        base = (shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00
        warpgroup = uniform(tid // 128)
        if tid == 0:
            tma.prefetch_map(q_map)
            tma.prefetch_map(k_map)
            tma.prefetch_map(v_map)
            open_ring(base + q_full, 2, 1)
            open_ring(base + q_empty, 2, 2)
            open_ring(base + k_full, 2 * slots, 1)  # and v_full, which lies behind it
            open_ring(base + k_empty, 2 * slots, 2)  # and v_empty
            bar.mbarrier_fence_init()
        bar.let_next_start()
        cuda.syncthreads()  # the barriers stand before anyone waits on them
        bar.wait_for_previous()

        if warpgroup == 0:
            release_registers()
            if tid == 0:
                feed(base, q_map, k_map, v_map, T, B, H, G)
        else:
            take_registers()
            w = i32(warpgroup) - 1
            t = i32(tid) & 127
            s, phase, q_slot, q_phase = i32(0), i32(0), i32(0), i32(0)
            S = zeros_s()
            O = zeros_o()
            one = np.float32(1.0)
            tiles = query_tiles(T, B, H)
            for r in range(rounds_of(tiles)):
                i = dealt(r)
                if i < tiles:
                    m, bh, b, h = query_tile(i, T, B, H)
                    row = m * ROWS + w * 64 + 16 * (t >> 5) + ((t & 31) >> 2)
                    q = base + q_slot * tile_bytes + w * (64 * 128)
                    bar.mbarrier_wait(base + q_full + 8 * q_slot, q_phase)
                    bar.mbarrier_wait(base + k_full + 8 * s, phase)
                    S, top, total = first_block(S, q, base + k_place + s * tile_bytes,
                                                base + k_empty + 8 * s, row - m * ROWS, c, w, t)
                    shrink = (one, one)
                    keep = 0  # whether O holds anything
                    read = s  # the slot whose V the product in flight reads
                    for left in range(m):
                        v_slot, v_phase = s, phase
                        s, phase = advance(s, phase)
                        bar.mbarrier_wait(base + k_full + 8 * s, phase)
                        # The wait for P V stands behind a spin loop: within one basic block ptxas
                        # would pull it above the exponentials.
                        O = wait_o(O)
                        if t == 0:
                            if keep:
                                bar.mbarrier_arrive(base + v_empty + 8 * read)
                        O = scale_o(O, shrink)
                        P = to_bf16(S)
                        S = scores(S, q, base + k_place + s * tile_bytes, 0)
                        bar.mbarrier_wait(base + v_full + 8 * v_slot, v_phase)
                        O = output(O, P, base + v_place + v_slot * tile_bytes, keep)
                        keep = 1
                        read = v_slot
                        S = wait_s_1(S)
                        if t == 0:
                            bar.mbarrier_arrive(base + k_empty + 8 * s)
                        new = row_max(S, top)
                        shrink = (ex2((top[0] - new[0]) * c), ex2((top[1] - new[1]) * c))
                        top = new
                        S = exp2_rows(S, c, (top[0] * c, top[1] * c))
                        total = row_sum(S, total, shrink)
                    bar.mbarrier_wait(base + v_full + 8 * s, phase)
                    O = wait_o(O)
                    if t == 0:
                        if keep:
                            bar.mbarrier_arrive(base + v_empty + 8 * read)
                        bar.mbarrier_arrive(base + q_empty + 8 * q_slot)
                    q_slot = i32(q_slot ^ 1)
                    if q_slot == 0:
                        q_phase = i32(q_phase ^ 1)
                    O = scale_o(O, shrink)
                    P = to_bf16(S)
                    O = output(O, P, base + v_place + s * tile_bytes, keep)
                    total = quad_sum(total)
                    O = wait_o(O)
                    if t == 0:
                        bar.mbarrier_arrive(base + v_empty + 8 * s)
                        wait_stores()
                    s, phase = advance(s, phase)
                    O = scale_o(O, (rcp(total[0]), rcp(total[1])))
                    write(O, base + o_place, o_map, lse, top, total, c, T, bh, b, h, m, row, w, t)
            if t == 0:
                wait_stores()  # shared memory must outlive the last store's reads
    return attention_forward_kernel


def _make_load(panels):
    """load(target, map, column, row, b, full): a tile of 128 rows, panel by panel."""
    @device
    def load(target, source, column, row, b, full):
        bar.mbarrier_expect(full, panels * PANEL)
        for p in range(panels):
            tma.load_3d(target + p * PANEL, source, column + 64 * p, row, b, full)
    return load


def _make_first_block(D):
    """The block on the diagonal: (P, maximum and sum of each row)."""
    panels = D // 64
    k_steps, layout = 4 * panels, k_major(PANEL)
    scores, half_scores = (make_product(ROWS, k_steps, layout, layout),
                           make_product(ROWS // 2, k_steps, layout, layout, fresh=True))
    wait, wait_half = (make_accumulator(n // 2)[1] for n in (ROWS, ROWS // 2))
    rows, half_rows, widen = make_rows(ROWS), make_rows(ROWS // 2), make_widen(ROWS)
    causal, row_max, row_sum, exp2_rows = rows.causal, rows.row_max, rows.row_sum, rows.exp2
    half_causal, half_max, half_sum, half_exp2 = (
        half_rows.causal, half_rows.row_max, half_rows.row_sum, half_rows.exp2)

    @device
    def first_block(S, q, k, k_empty, row, c, w, t):
        lowest = (LOWEST, LOWEST)
        zero = (np.float32(0.0), np.float32(0.0))
        d = row - 2 * (t & 3)
        if w == 0:  # only the left half has anything unmasked
            half = wait_half(half_scores(q, k))
            if t == 0:
                bar.mbarrier_arrive(k_empty)
            half = half_causal(half, d)
            top = half_max(half, lowest)
            half = half_exp2(half, c, (top[0] * c, top[1] * c))
            total = half_sum(half, zero, zero)
            S = widen(half)
        else:
            S = wait(scores(S, q, k, 0))
            if t == 0:
                bar.mbarrier_arrive(k_empty)
            S = causal(S, d)
            top = row_max(S, lowest)
            S = exp2_rows(S, c, (top[0] * c, top[1] * c))
            total = row_sum(S, zero, zero)
        return S, top, total
    return first_block


def _make_writer(D):
    panels = D // 64
    stage = make_stage(D, 64)

    @device
    def write(O, place, o_map, lse, top, total, c, T, bh, b, h, m, row, w, t):
        """A warpgroup's 64 rows through shared memory to O, and their log-sum-exp."""
        lane = t & 31
        # stmatrix: lanes 0-15 hold the rows of the left 8 columns, lanes 16-31 of the right
        staged = 16 * (t >> 5) + (lane & 15)
        out = place + w * (panels * 64 * 128)
        mine = out + staged * 128 + (((lane >> 4) ^ (staged & 7)) << 4)
        bar.named_sync(2 + w, 128)  # the last tile's store has read the buffer
        stage(O, 0, mine)
        stage(O, 1, mine + 64 * 128)  # nothing where there is one panel
        bar.fence_async_shared()
        bar.named_sync(2 + w, 128)  # all rows stand
        if t == 0:
            for p in range(panels):
                tma.store_3d(o_map, out + p * (64 * 128), h * D + 64 * p, m * ROWS + w * 64, b)
            tma.commit_stores()
        if lane & 3 == 0:
            p = lse + (np.int64(bh) * T + row) * 4
            if row < T:
                store_f32(p, (top[0] * c + lg2(total[0])) * LN2)
            if row + 8 < T:
                store_f32(p + 32, (top[1] * c + lg2(total[1])) * LN2)
    return write


FORWARD = {64: make_forward(64, slots=4), 128: make_forward(128, slots=2)}
