"""dQ of causal attention with head_dim 128 on Hopper, two ways.

From dS in memory, as attention_keys_128 left it: dQ = dS K, one product. Persistent; a block owns
128 query rows, a warpgroup 64 of them, of two query heads that share a key head, so that a tile of
K serves 256 rows. dS tiles come by bulk copies and are turned into A operands by ldmatrix. Bound by
memory: 2 bytes an element of the causal half square. A key block of 64 is 32 KB of dS a
multiprocessor, 1780 clocks at 18.4 bytes a clock (4.25 TB/s on 132 at 1.75 GHz), for 1024 clocks of
products; with K 27 bytes a clock come out of L2.

Recomputed, where dS would not fit into memory: S = Q K^T and dP = dO V^T again, three products. A
block owns 128 query rows of one head and walks over key blocks of 64, from the diagonal down. One
accumulator, dQ, is in flight over the loop's back edge; ptxas would serialise more. The warpgroups
issue S and dP in turns, see attention_backward_128.py.
"""
import numpy as np

from ..cuda import cuda, device, kernel
from ..ptx import barrier as bar
from ..ptx import tma
from ..ptx.scalar import load_f32, quotient, shared_address, uniform
from ..ptx.tiles import make_rows, make_stage
from ..ptx.transposed import TILE, get, get_place
from ..ptx.wgmma import k_major, make_accumulator, make_product, mn_major
from .attention_keys_128 import BLOCK, D, OPERAND, PANEL, blocks_of, i32, i64, u32
from .attention_schedule import (ALIGNED, ROWS, THREADS, dealt, make_ring, open_ring, query_tile,
                                 query_tiles, rounds_of)

HEADS = 2  # query heads of a block
TURN = 3  # named barriers 3 and 4: whose turn it is; 1 and 2: the threads of one warpgroup
release_registers, take_registers = bar.setmaxnreg("dec", 40), bar.setmaxnreg("inc", 232)
wait_stores = tma.wait_stores_read(0)
stage, scaled = make_stage(D, 64), make_rows(D).scale


@device
def pairs_of(G):
    """Pairs of query heads in a group; the last may lack its second."""
    return quotient(G + (HEADS - 1), HEADS)


@device
def paired_item(i, T, G, groups):
    """Item i, longest first: (tile of 128 query rows, group, first of its two query heads)."""
    pairs = i32(pairs_of(G) * groups)
    from_last = quotient(i, pairs)
    rest = i32(i - from_last * pairs)
    group = quotient(rest, pairs_of(G))
    return (i32(quotient(T + (ROWS - 1), ROWS) - 1 - from_last), group,
            i32((rest - group * pairs_of(G)) * HEADS))


@device
def paired_items(T, G, groups):
    return i32(quotient(T + (ROWS - 1), ROWS) * pairs_of(G) * groups)


@device
def write(dQ, scale, place, dqkv_map, h, row, b, w, t):
    """A warpgroup's 64 rows of a head through shared memory to dqkv."""
    dQ = scaled(dQ, (scale, scale))
    lane = t & 31
    # stmatrix: lanes 0-15 hold the rows of the left 8 columns, lanes 16-31 of the right
    staged = 16 * (t >> 5) + (lane & 15)
    mine = place + staged * 128 + (((lane >> 4) ^ (staged & 7)) << 4)
    if t == 0:
        wait_stores()
    bar.named_sync(1 + w, 128)  # the last store has read the buffer
    stage(dQ, 0, mine)
    stage(dQ, 1, mine + PANEL)
    bar.fence_async_shared()
    bar.named_sync(1 + w, 128)  # all rows stand
    if t == 0:
        for p in range(2):
            tma.store_3d(dqkv_map, place + p * PANEL, h * D + 64 * p, row, b)
        tma.commit_stores()


def make_query_gradients(name, slots):
    """dQ from dS, with `slots` key blocks of 64 in its ring.

    Kernel arguments: maps of qkv and dqkv (boxes of 64 x 64); dS; T; H, KVH; the first group
    (sequence and key head) and how many; 1 / sqrt(D).
    """
    slot = OPERAND + 2 * HEADS * TILE  # K, then dS by head and warpgroup
    out = slots * slot
    full = out + 2 * OPERAND
    empty = full + 8 * slots

    advance = make_ring(slots)
    product = make_product(D, 4, b=mn_major(PANEL), a_registers=True)
    zeros, wait, _ = make_accumulator(D // 2)

    @device
    def feed(base, qkv_map, slopes, T, H, KVH, group0, groups):
        """Load K and dS of every item."""
        s, phase = i32(0), i32(0)
        blocks, G = blocks_of(T), quotient(H, KVH)
        triangle = i32(blocks * (blocks + 1) // 2)  # tiles of dS a head
        items = paired_items(T, G, groups)
        for r in range(rounds_of(items)):
            i = dealt(r)
            if i < items:
                tile, group, g = paired_item(i, T, G, groups)
                b = quotient(i32(group0 + group), KVH)
                column = i32((H + group0 + group - b * KVH) * D)
                heads = i32(min(HEADS, G - g))
                high = i32(min(2, blocks - 2 * tile))
                at = slopes + ((i64(group) * G + g) * triangle + 2 * tile) * TILE
                for j in range(i32(2 * tile + high)):
                    low = i32(j > 2 * tile)  # the upper rows see no key of the last block
                    bar.mbarrier_wait(base + empty + 8 * s, phase ^ 1)
                    here, ready = base + s * slot, base + full + 8 * s
                    bar.mbarrier_expect(ready, OPERAND + (high - low) * heads * TILE)
                    for p in range(2):
                        tma.load_3d(here + p * PANEL, qkv_map, column + 64 * p, j * BLOCK, b, ready)
                    for h in range(heads):
                        tma.load_bytes(here + OPERAND + (2 * h + low) * TILE,
                                       at + (i64(h) * triangle + low) * TILE,
                                       (high - low) * TILE, ready)
                    at += i64(blocks - 1 - j) * TILE  # from (j, m) to (j + 1, m)
                    s, phase = advance(s, phase)

    @kernel("p p p i i i i i f", registers=168, threads=THREADS, name=name,
            shared=empty + 8 * slots + ALIGNED, architectures=("sm_90a",))
    def query_gradients_kernel(qkv_map, dqkv_map, slopes, T, H, KVH, group0, groups, scale):
        tid = cuda.threadIdx.x
        base = (shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00
        warpgroup = uniform(tid // 128)
        if tid == 0:
            tma.prefetch_map(qkv_map)
            open_ring(base + full, slots, 1)
            open_ring(base + empty, slots, 256)
            bar.mbarrier_fence_init()
        cuda.syncthreads()  # the barriers stand before anyone waits on them

        if warpgroup == 0:
            release_registers()
            if tid == 0:
                feed(base, qkv_map, slopes, T, H, KVH, group0, groups)
        else:
            take_registers()
            w = i32(warpgroup) - i32(1)
            t = i32(tid) & i32(127)
            mine = u32(base + OPERAND + w * TILE + get_place(t))  # in the first slot's dS
            s, phase = i32(0), i32(0)
            dQ = zeros()
            dQ2 = zeros()  # of the second head
            blocks, G = blocks_of(T), quotient(H, KVH)
            items = paired_items(T, G, groups)
            for r in range(rounds_of(items)):
                i = dealt(r)
                if i < items:
                    tile, group, g = paired_item(i, T, G, groups)
                    m = i32(2 * tile + w)
                    exists = m < blocks
                    for j in range(i32(min(2 * tile + 2, blocks))):
                        bar.mbarrier_wait(base + full + 8 * s, phase)
                        if j <= m and exists:
                            dS = get(mine + s * slot)
                            dS2 = get(mine + s * slot + 2 * TILE)  # of no second head: not stored
                            dQ = product(dQ, dS, base + s * slot, j > 0)
                            dQ2 = product(dQ2, dS2, base + s * slot, j > 0)
                            dQ = wait(dQ)
                            dQ2 = wait(dQ2)
                        bar.mbarrier_arrive(base + empty + 8 * s)
                        s, phase = advance(s, phase)
                    if exists:
                        b = quotient(i32(group0 + group), KVH)
                        h = i32((group0 + group - b * KVH) * G + g)
                        place = base + out + w * OPERAND
                        write(dQ, scale, place, dqkv_map, h, m * BLOCK, b, w, t)
                        if g + 1 < G:
                            write(dQ2, scale, place, dqkv_map, h + 1, m * BLOCK, b, w, t)
            if t == 0:
                wait_stores()  # shared memory must outlive the last store's reads
    return query_gradients_kernel


def make_recomputed(name, slots):
    """dQ from Q, K, V, dO, with `slots` key blocks of 64 in its ring.

    Kernel arguments: maps of qkv, dO and dqkv (boxes of 64 x 64); lse2, delta (B, H, Tp); B, T, Tp;
    H, KVH; c = log2(e) / sqrt(D); 1 / sqrt(D).
    """
    ring = 4 * OPERAND  # behind Q and dO, by warpgroup
    out = ring + slots * 2 * OPERAND
    q_full = out + 2 * OPERAND
    q_empty, full = q_full + 8, q_full + 16
    empty = full + 8 * slots

    advance = make_ring(slots)
    scores = make_product(BLOCK, 8, k_major(PANEL), k_major(PANEL), fresh=True)
    product = make_product(D, 4, b=mn_major(PANEL), a_registers=True)
    _, wait_s, wait_s_1 = make_accumulator(BLOCK // 2)
    zeros, wait, _ = make_accumulator(D // 2)
    rows = make_rows(BLOCK, pinned=True)
    exp2, gradient, causal, to_bf16 = rows.exp2, rows.gradient, rows.causal, rows.to_bf16

    @device
    def feed(base, qkv_map, do_map, B, T, H, KVH):
        """Load Q and dO of every tile, K and V as far ahead as the slots allow."""
        s, phase, q_phase = i32(0), i32(0), i32(0)
        blocks, G = blocks_of(T), quotient(H, KVH)
        tiles = query_tiles(T, B, H)
        for r in range(rounds_of(tiles)):
            i = dealt(r)
            if i < tiles:
                tile, _, b, h = query_tile(i, T, B, H)
                bar.mbarrier_wait(base + q_empty, q_phase ^ 1)
                bar.mbarrier_expect(base + q_full, 4 * OPERAND)
                for p in range(4):  # warpgroup; panel
                    row = (2 * tile + (p >> 1)) * BLOCK
                    tma.load_3d(base + p * PANEL, qkv_map, h * D + 64 * (p & 1), row, b,
                                base + q_full)
                    tma.load_3d(base + 2 * OPERAND + p * PANEL, do_map, h * D + 64 * (p & 1), row,
                                b, base + q_full)
                q_phase ^= i32(1)
                steps = i32(min(2 * tile + 2, blocks))
                for left in range(steps):
                    row = (steps - 1 - left) * BLOCK
                    bar.mbarrier_wait(base + empty + 8 * s, phase ^ 1)
                    here, ready = base + ring + s * (2 * OPERAND), base + full + 8 * s
                    bar.mbarrier_expect(ready, 2 * OPERAND)
                    for p in range(4):  # K, V; panel
                        column = (H + (p >> 1) * KVH + quotient(h, G)) * D + 64 * (p & 1)
                        tma.load_3d(here + p * PANEL, qkv_map, column, row, b, ready)
                    s, phase = advance(s, phase)

    @kernel("p p p p p i i i i i f f", registers=168, threads=THREADS, name=name,
            shared=empty + 8 * slots + ALIGNED, architectures=("sm_90a",))
    def recomputed_kernel(qkv_map, do_map, dqkv_map, lse2, delta, B, T, Tp, H, KVH, c, scale):
        tid = cuda.threadIdx.x
        base = (shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00
        warpgroup = uniform(tid // 128)
        if tid == 0:
            tma.prefetch_map(qkv_map)
            tma.prefetch_map(do_map)
            open_ring(base + q_full, 1, 1)
            open_ring(base + q_empty, 1, 2)
            open_ring(base + full, slots, 1)
            open_ring(base + empty, slots, 2)
            bar.mbarrier_fence_init()
        cuda.syncthreads()  # the barriers stand before anyone waits on them

        if warpgroup == 0:
            release_registers()
            if tid == 0:
                feed(base, qkv_map, do_map, B, T, H, KVH)
        else:
            take_registers()
            w = i32(warpgroup) - i32(1)
            t = i32(tid) & i32(127)
            s, phase, q_phase = i32(0), i32(0), i32(0)
            q = base + w * OPERAND
            dQ = zeros()
            if w == 1:
                bar.named_arrive(TURN, 256)  # the first turn is warpgroup 0's
            blocks = blocks_of(T)
            tiles = query_tiles(T, B, H)
            for r in range(rounds_of(tiles)):
                i = dealt(r)
                if i < tiles:
                    tile, bh, b, h = query_tile(i, T, B, H)
                    m = i32(2 * tile + w)
                    row = i32(16 * (t >> 5) + ((t & 31) >> 2))
                    at = (i64(bh) * Tp + m * BLOCK + row) * 4
                    lse = (load_f32(lse2 + at), load_f32(lse2 + at + 32))
                    of_row = (load_f32(delta + at), load_f32(delta + at + 32))
                    bar.mbarrier_wait(base + q_full, q_phase)
                    q_phase ^= i32(1)
                    steps = i32(min(2 * tile + 2, blocks))
                    exists = m < blocks
                    last = s
                    for left in range(steps):
                        j = steps - 1 - left
                        bar.mbarrier_wait(base + full + 8 * s, phase)
                        here = base + ring + s * (2 * OPERAND)
                        bar.named_sync(TURN + w, 256)
                        if j > m or not exists:  # no row of this warpgroup sees these keys
                            bar.named_arrive(TURN + 1 - w, 256)
                            if t == 0:
                                bar.mbarrier_arrive(base + empty + 8 * s)
                        else:
                            S = scores(q, here)
                            dP = scores(q + 2 * OPERAND, here + OPERAND)
                            bar.named_arrive(TURN + 1 - w, 256)
                            S = wait_s_1(S)  # the last block's dQ is done too
                            if t == 0:
                                if j < m and left > 0:
                                    bar.mbarrier_arrive(base + empty + 8 * last)
                            if j >= m:
                                S = causal(S, row - 2 * (t & 3))
                            S = exp2(S, c, lse)
                            # a spin loop: ptxas would pull the wait above the exponentials
                            bar.mbarrier_wait(base + full + 8 * s, phase)
                            dP = wait_s(dP)
                            dQ = product(dQ, to_bf16(gradient(S, dP, of_row)), here, j < m)
                            last = s
                        s, phase = advance(s, phase)
                    dQ = wait(dQ)
                    if t == 0:
                        if exists:
                            bar.mbarrier_arrive(base + empty + 8 * last)
                        bar.mbarrier_arrive(base + q_empty)
                    if exists:
                        write(dQ, scale, base + out + w * OPERAND, dqkv_map, h, m * BLOCK, b, w, t)
            if t == 0:
                wait_stores()  # shared memory must outlive the last store's reads
    return recomputed_kernel


query_gradients = make_query_gradients("attention_queries_128", slots=4)
query_gradients_recomputed = make_recomputed("attention_queries_128_recomputed", slots=4)
