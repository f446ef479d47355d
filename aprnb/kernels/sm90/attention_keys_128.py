"""dK and dV of causal attention with head_dim 128 on Hopper, and dS for the kernel that makes dQ.

    S^T = K Q^T    P^T = 2 ** (c S^T - lse2)    dV += P^T dO
    dP^T = V dO^T  dS^T = P^T * (dP^T - delta)  dK += dS^T Q

Persistent; 384 threads: warpgroup 0 loads through TMA, warpgroups 1 and 2 own 64 keys each of the
block's 128 and walk over the query blocks of 64 of the query heads that share the key head. Rows
are keys: P^T and dS^T go from accumulator to A operand without leaving the registers, the Q and dO
tiles serve as K-major B (S^T, dP^T) and as MN-major B (dK, dV) from the same shared memory. K and V
are A operands in shared memory: in registers they would take 128 a thread beside the 128 of dK and
dV. An item's gradients are staged where its K and V lay, and leave through TMA.

One turn of the loop works on two blocks: S^T of the next is in flight with dV and dK of the last,
dP^T of the next follows when dV's operand is free, and the exponentials run under dK and dP^T. So
at most 208 registers hold operands (dK, dV 128, S^T, dP^T 64, dS^T 16), and nothing is in flight
over the loop's back edge, where ptxas would serialise the products.

Floor, a multiprocessor, a query block (128 keys x 64 queries): 4 products, 2048 clocks. Below that:
shared memory 1536 clocks of operands (64 x 64 x 16 with both from there takes as many as the
product itself), 256 for TMA, 128 for lse2 and delta; 512 clocks of exp2; 16 KB of dS to memory.
"""
import numpy as np

from ..cuda import cuda, device, kernel
from ..ptx import barrier as bar
from ..ptx import tma
from ..ptx.scalar import quotient, shared_address, uniform
from ..ptx.tiles import make_columns, make_rows, make_stage, make_store
from ..ptx.transposed import TILE, put, put_place
from ..ptx.wgmma import k_major, make_accumulator, make_product, mn_major
from .attention_schedule import ALIGNED, THREADS, dealt, open_ring, rounds_of

D, BLOCK = 128, 64  # head dimension; queries of a block, keys of a warpgroup
PANEL = BLOCK * 64 * 2  # bytes of 64 rows of 64 bfloat16: what one tensor copy brings
OPERAND = 2 * PANEL  # bytes of 64 rows of Q, K, V or dO
COLUMNS = BLOCK * 4  # bytes of lse2 or delta of a block
SLOTS_BITS = 2
SLOTS = 1 << SLOTS_BITS  # query blocks in the ring
TURN = 3  # named barriers 3 and 4: whose turn it is; 1 and 2: the threads of one warpgroup
i32, u32, i64, u64 = np.int32, np.uint32, np.int64, np.uint64

# shared memory: K and V of both warpgroups, the ring of Q and dO, of lse2 and delta, the mbarriers
RING = 4 * OPERAND
COLUMN_PLACE = RING + SLOTS * 2 * OPERAND
KV_FULL = COLUMN_PLACE + SLOTS * 2 * COLUMNS
KV_EMPTY, FULL = KV_FULL + 8, KV_FULL + 16
EMPTY = FULL + 8 * SLOTS
SHARED = EMPTY + 8 * SLOTS + ALIGNED

release_registers, take_registers = bar.setmaxnreg("dec", 24), bar.setmaxnreg("inc", 240)
wait_stores = tma.wait_stores_read(0)
stage, store, scaled = make_stage(D, 64), make_store(D), make_rows(D).scale


@device
def blocks_of(T):
    """Query blocks of a sequence."""
    return quotient(T + (BLOCK - 1), BLOCK)


@device
def items_of(T, groups, parts):
    return i32(quotient(T + (2 * BLOCK - 1), 2 * BLOCK) * groups * parts)


@device
def key_item(i, groups, parts):
    """Item i, longest first: (tile of 128 keys, group, part of its query heads)."""
    tile = quotient(i, i32(groups * parts))
    rest = i32(i - tile * groups * parts)
    part = quotient(rest, groups)
    return tile, i32(rest - part * groups), part


@device
def heads_of(part, parts, G):
    """(first, number) of the query heads of a part; the first parts have one more where they
    cannot be alike."""
    heads = quotient(G, parts)
    more = i32(G - heads * parts)
    return i32(part * heads + min(part, more)), i32(heads + (part < more))


@device
def slot_of(u):
    """Where the u-th block that passes through the ring lies."""
    return i32(u) & i32(SLOTS - 1)


@device
def phase_of(u):
    return (i32(u) >> i32(SLOTS_BITS)) & i32(1)


@device
def feed(base, qkv_map, do_map, lse2, delta, T, Tp, H, KVH, group0, groups, parts):
    """Load K and V of every item, and Q, dO, lse2 and delta as far ahead as the slots allow."""
    u, kv_phase = i32(0), i32(0)
    blocks, G = blocks_of(T), quotient(H, KVH)
    items = items_of(T, groups, parts)
    for r in range(rounds_of(items)):
        i = dealt(r)
        if i < items:
            tile, group, part = key_item(i, groups, parts)
            b = quotient(i32(group0 + group), KVH)
            key = i32(group0 + group - b * KVH)
            bar.mbarrier_wait(base + KV_EMPTY, kv_phase ^ 1)
            kv_phase ^= i32(1)
            bar.mbarrier_expect(base + KV_FULL, 4 * OPERAND)
            for p in range(8):  # K, V; warpgroup; panel
                column = i32((H + (p >> 2) * KVH + key) * D + 64 * (p & 1))
                tma.load_3d(base + p * PANEL, qkv_map, column,
                            i32((2 * tile + ((p >> 1) & 1)) * BLOCK), b, base + KV_FULL)
            g, count = heads_of(part, parts, G)
            for h in range(i32(key * G + g), i32(key * G + g + count)):
                for m in range(i32(2 * tile), blocks):
                    bar.mbarrier_wait(base + EMPTY + 8 * slot_of(u), phase_of(u) ^ 1)
                    full = base + FULL + 8 * slot_of(u)
                    here = base + RING + slot_of(u) * (2 * OPERAND)
                    bar.mbarrier_expect(full, 2 * OPERAND + 2 * COLUMNS)
                    for p in range(2):
                        tma.load_3d(here + p * PANEL, qkv_map, h * D + 64 * p, m * BLOCK, b, full)
                        tma.load_3d(here + OPERAND + p * PANEL, do_map, h * D + 64 * p, m * BLOCK,
                                    b, full)
                    at = ((i64(b) * H + h) * Tp + m * BLOCK) * 4
                    columns = base + COLUMN_PLACE + slot_of(u) * (2 * COLUMNS)
                    tma.load_bytes(columns, lse2 + at, COLUMNS, full)
                    tma.load_bytes(columns + COLUMNS, delta + at, COLUMNS, full)
                    u = i32(u + 1)


@device
def write(dK, dV, k, dqkv_map, H, KVH, row, group, w, t):
    """A warpgroup's gradients through the shared memory of its K and V to dqkv."""
    b = quotient(group, KVH)
    column = (H + group - b * KVH) * D
    lane = t & 31
    # stmatrix: lanes 0-15 hold the rows of the left 8 columns, lanes 16-31 of the right
    staged = 16 * (t >> 5) + (lane & 15)
    mine = k + staged * 128 + (((lane >> 4) ^ (staged & 7)) << 4)
    stage(dK, 0, mine)
    stage(dK, 1, mine + PANEL)
    stage(dV, 0, mine + 2 * OPERAND)
    stage(dV, 1, mine + 2 * OPERAND + PANEL)
    bar.fence_async_shared()
    bar.named_sync(1 + w, 128)  # all rows stand
    if t == 0:
        for p in range(2):
            tma.store_3d(dqkv_map, k + p * PANEL, column + 64 * p, row, b)
            tma.store_3d(dqkv_map, k + 2 * OPERAND + p * PANEL, column + KVH * D + 64 * p, row, b)
        tma.commit_stores()


@device
def write_part(dK, dV, sums, part, T, B, KVH, row, group, t):
    """A warpgroup's 64 rows of both to their place in sums (parts, B, T, 2 KVH, D) float32."""
    b = quotient(group, KVH)
    row += 16 * (t >> 5) + ((t & 31) >> 2)
    pitch = i64(2 * KVH * D * 4)
    column = i32(2 * (t & 3))
    at = sums + ((i64(part) * B + b) * T + row) * pitch + ((group - b * KVH) * D + column) * 4
    store(dK, at, pitch, i32(T - row), i32(D - column))
    store(dV, at + KVH * D * 4, pitch, i32(T - row), i32(D - column))


def make_key_gradients(name, keep):
    """One variant of the kernel.

    keep: dS goes to memory; else the warpgroups issue their products in turns
    Kernel arguments: maps of qkv, dO and dqkv (boxes of 64 x 64, over (heads * 128, T, B));
    lse2, delta (B, H, Tp); dS; sums (parts, B, T, 2 KVH, D) float32, written in place of dqkv if
    parts > 1; B, T, Tp, H, KVH; the first group (sequence and key head) and how many; parts that
    the heads of a group are cut into; c = log2(e) / sqrt(D); 1 / sqrt(D).
    """
    turns = not keep  # measured, see attention_backward_128.py
    scores = make_product(BLOCK, 8, k_major(PANEL), k_major(PANEL), fresh=True)
    sums = make_product(D, 4, b=mn_major(PANEL), a_registers=True)
    _, wait_s, wait_s_1 = make_accumulator(BLOCK // 2)
    zeros, wait, wait_1 = make_accumulator(D // 2)
    of_columns, to_bf16 = make_columns(BLOCK), make_rows(BLOCK).to_bf16
    exp2, gradient, causal = of_columns.exp2, of_columns.gradient, of_columns.causal

    @device
    def pass_by(base, u, w):
        """Leave out a block that is wholly before this warpgroup's keys."""
        if turns:
            bar.named_sync(TURN + w, 256)
            bar.named_arrive(TURN + 1 - w, 256)
        bar.mbarrier_wait(base + FULL + 8 * slot_of(u), phase_of(u))
        bar.mbarrier_arrive(base + EMPTY + 8 * slot_of(u))
        return i32(u + 1)

    @device
    def first_tile(slopes, head, m, blocks, t):
        """Where this thread puts dS of a head's key block m and query block m."""
        before = i64(head) * (blocks * (blocks + 1) // 2) + m * blocks - m * (m - 1) // 2
        return u64(slopes + before * TILE + put_place(t))

    @device
    def first_block(base, k, u, at, w, diagonal, mine, c):
        """P and dS of an item's first block, which lies on the diagonal."""
        bar.mbarrier_wait(base + FULL + 8 * slot_of(u), phase_of(u))
        here = u32(base + RING + slot_of(u) * (2 * OPERAND))
        if turns:
            bar.named_sync(TURN + w, 256)
        S = scores(k, here)
        dP = scores(k + 2 * OPERAND, here + OPERAND)
        if turns:
            bar.named_arrive(TURN + 1 - w, 256)
        S = wait_s(S)
        dP = wait_s(dP)
        S = causal(S, diagonal)
        S = exp2(S, c, mine + slot_of(u) * (2 * COLUMNS))
        dP = gradient(S, dP, mine + slot_of(u) * (2 * COLUMNS) + COLUMNS)
        dS = to_bf16(dP)
        if keep:
            put(dS, at)
        return to_bf16(S), dS

    # local memory: the producer's, who has 24 registers; the consumers use up to 235 of 240
    @kernel("p p p p p p p i i i i i i i i f f", registers=168, threads=THREADS, name=name,
            shared=SHARED, architectures=("sm_90a",), spills=256)
    def key_gradients_kernel(qkv_map, do_map, dqkv_map, lse2, delta, slopes, part_sums, B, T, Tp,
                             H, KVH, group0, groups, parts, c, scale):
        tid = cuda.threadIdx.x
        base = (shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00
        warpgroup = uniform(tid // 128)
        if tid == 0:
            tma.prefetch_map(qkv_map)
            tma.prefetch_map(do_map)
            open_ring(base + KV_FULL, 1, 1)
            open_ring(base + KV_EMPTY, 1, 2)
            open_ring(base + FULL, SLOTS, 1)
            open_ring(base + EMPTY, SLOTS, 256)
            bar.mbarrier_fence_init()
        cuda.syncthreads()  # the barriers stand before anyone waits on them

        if warpgroup == 0:
            release_registers()
            if tid == 0:
                feed(base, qkv_map, do_map, lse2, delta, T, Tp, H, KVH, group0, groups, parts)
        else:
            take_registers()
            w = i32(warpgroup) - i32(1)
            t = i32(tid) & i32(127)
            k = u32(base + w * OPERAND)
            mine = u32(base + COLUMN_PLACE + 8 * (t & 3))  # this lane's columns of lse2
            diagonal = i32(16 * (t >> 5) + ((t & 31) >> 2) - 2 * (t & 3))
            u, kv_phase = i32(0), i32(0)
            dK = zeros()
            dV = zeros()
            if turns:
                if w == 1:
                    bar.named_arrive(TURN, 256)  # the first turn is warpgroup 0's
            blocks, G = blocks_of(T), quotient(H, KVH)
            items = items_of(T, groups, parts)
            for r in range(rounds_of(items)):
                i = dealt(r)
                if i < items:
                    tile, group, part = key_item(i, groups, parts)
                    g, heads = heads_of(part, parts, G)
                    first = i32(2 * tile + w)  # the query block on these keys' diagonal
                    at = first_tile(slopes, group * G + g, first, blocks, t)
                    bar.mbarrier_wait(base + KV_FULL, kv_phase)
                    kv_phase ^= i32(1)
                    if w == 1:
                        u = pass_by(base, u, w)
                    left = i32(heads * (blocks - first))
                    if left == 0:  # no key of this warpgroup exists
                        for h in range(heads - 1):
                            u = pass_by(base, u, w)
                    else:
                        P, dS = first_block(base, k, u, at, w, diagonal, mine, c)
                        here = u32(base + RING + slot_of(u) * (2 * OPERAND))
                        m = first
                        begun = i32(0)  # whether dK and dV hold anything
                        while left > 1:
                            last = here
                            released = u32(base + EMPTY + 8 * slot_of(u))
                            u = i32(u + 1)
                            m = i32(m + 1)
                            at = u64(at + TILE)
                            if m == blocks:  # the next head
                                m = first
                                at = u64(at + i64(blocks * (blocks + 1) // 2 - blocks + first)
                                         * TILE)
                                if w == 1:
                                    u = pass_by(base, u, w)
                            here = u32(base + RING + slot_of(u) * (2 * OPERAND))
                            bar.mbarrier_wait(base + FULL + 8 * slot_of(u), phase_of(u))
                            k = uniform(k)  # descriptors are made anew, else kept and spilled
                            if turns:
                                bar.named_sync(TURN + w, 256)
                            S = scores(k, here)
                            dV = sums(dV, P, last + OPERAND, begun)
                            dK = sums(dK, dS, last, begun)
                            S = wait_s_1(S)
                            dV = wait_1(dV)
                            dP = scores(k + 2 * OPERAND, here + OPERAND)
                            if turns:
                                bar.named_arrive(TURN + 1 - w, 256)
                            if m == first:
                                S = causal(S, diagonal)
                            S = exp2(S, c, mine + slot_of(u) * (2 * COLUMNS))
                            # A spin loop on what is complete: within one basic block ptxas would
                            # pull the wait above the exponentials.
                            bar.mbarrier_wait(base + FULL + 8 * slot_of(u), phase_of(u))
                            dK = wait_1(dK)
                            bar.mbarrier_arrive(released)
                            dP = wait_s(dP)
                            dP = gradient(S, dP, mine + slot_of(u) * (2 * COLUMNS) + COLUMNS)
                            P = to_bf16(S)
                            dS = to_bf16(dP)
                            if keep:
                                put(dS, at)
                            begun = i32(1)
                            left = i32(left - 1)
                        dV = sums(dV, P, here + OPERAND, begun)
                        dK = sums(dK, dS, here, begun)
                        dV = wait(dV)
                        dK = wait(dK)
                        bar.mbarrier_arrive(base + EMPTY + 8 * slot_of(u))
                        u = i32(u + 1)
                        dK = scaled(dK, (scale, scale))
                        bar.named_sync(1 + w, 128)  # all warps have done with K and V
                        if parts > 1:
                            write_part(dK, dV, part_sums, part, T, B, KVH, first * BLOCK,
                                       i32(group0 + group), t)
                        else:
                            write(dK, dV, k, dqkv_map, H, KVH, first * BLOCK,
                                  i32(group0 + group), w, t)
                    if t == 0:
                        wait_stores()  # the stores have read what K and V are loaded over
                        bar.mbarrier_arrive(base + KV_EMPTY)
    return key_gradients_kernel


KEY_GRADIENTS = {  # by whether dS is kept
    keep: make_key_gradients(f"attention_keys_128{'_kept' * keep}", keep)
    for keep in (True, False)}
