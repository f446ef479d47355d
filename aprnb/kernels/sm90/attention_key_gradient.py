"""The gradients of keys and values for Hopper: causal, grouped-query, head_dim 64.

    p[t,u]  = 2 ** (c s[t,u] - lse2[t])                 dv[u] = sum_t p[t,u] do[t]
    ds[t,u] = p[t,u] * (do[t] . v[u] - delta[t])        dk[u] = sum_t ds[t,u] q[t] / sqrt(D)

An item is 128 keys of one key head, a warpgroup owns 64 of them and walks over the group's query
heads and their query blocks of 64: the sums over the group cost nothing. Where items are few, each
has only a part of the heads (attention_parts.py). Everything is transposed (rows are keys): K and V
are A operands that stay in registers for the whole item, P^T and dS^T are A operands straight from
the accumulators, and Q and dO tiles serve both as K-major B (S^T, dP^T) and as MN-major B (dK, dV)
from the same shared memory. Nothing is written back to shared memory. lse and delta, one value a
column, come with each tile through a bulk copy; +inf beyond T makes p zero there. See
attention_query_gradient.py for the frame and for why nothing is atomic.

With two accumulators (dV, dK) in flight over the loop's back edge while the others are redefined,
ptxas would wait after every single product (warning C7515). A block thus issues one batch of 16,
waits for all of it, and leaves the overlap to the other warpgroup: they take turns, 4 to 7 % (the
one whose first block is left of the diagonal takes an empty turn).

Every thread arrives when it has read a slot, not one for its warpgroup: compute-sanitizer follows
only that, and it costs 1.3 % at most.

Floor at 16 x 1024, 14 heads: 4 products of 15 GFLOP each half square, with the diagonal 64 GFLOP:
80 us at 800 TFLOP/s, and 34 us of exponentials that can run under them (16 a clock).
"""
import numpy as np

from ..cuda import cuda, device, kernel
from ..ptx import barrier as bar
from ..ptx import tma
from ..ptx.scalar import quotient, shared_address, uniform
from ..ptx.tiles import make_columns, make_rows, make_stage, make_store
from ..ptx.wgmma import make_accumulator, make_operand, make_product, mn_major
from .attention_schedule import (ALIGNED, BARRIERS, ROWS, THREADS, dealt, i32, make_ring,
                                 open_ring, rounds_of)

D, SLOTS = 64, 6  # head dimension; query blocks in the ring
BLOCK = 64 * D * 2  # bytes of 64 query rows
COLUMNS = 64 * 4  # bytes of their lse, or of their delta
DO_PLACE = SLOTS * BLOCK
COLUMN_PLACE = 2 * SLOTS * BLOCK  # lse and delta of a slot side by side
OUT_PLACE = COLUMN_PLACE + SLOTS * 2 * COLUMNS
OUT_PLACE += -OUT_PLACE % ALIGNED
FULL = OUT_PLACE + 4 * BLOCK
EMPTY = FULL + 8 * SLOTS
TURN = 3  # named barriers 3 and 4: whose turn it is; 1 and 2: the threads of one warpgroup

advance = make_ring(SLOTS)
product_t = make_product(64, a_registers=True, fresh=True)
product_g = make_product(D, b=mn_major(BLOCK), a_registers=True)
zeros, wait, _ = make_accumulator(D // 2)
load_operand, stage, store = make_operand(D // 16), make_stage(D, 64), make_store(D)
_rows, _columns = make_rows(64), make_columns(64)
scale_rows, to_bf16 = _rows.scale, _rows.to_bf16
exp2_columns, gradient_columns, causal = _columns.exp2, _columns.gradient, _columns.causal
release_registers, take_registers = bar.setmaxnreg("dec", 40), bar.setmaxnreg("inc", 232)
wait_stores = tma.wait_stores_read(0)


@device
def key_items(T, B, KVH, parts):
    """Number of items over all sequences and key heads."""
    return i32(quotient(T + (ROWS - 1), ROWS) * B * KVH * parts)


@device
def key_item(i, B, KVH, G, parts):
    """Item i, longest first: (first query block of 64, sequence, key head, part, first query head,
    heads); the first parts have one head more where they cannot be alike."""
    tile = quotient(i, B * KVH * parts)
    rest = i32(i - tile * B * KVH * parts)
    part = quotient(rest, B * KVH)
    rest = i32(rest - part * B * KVH)
    b = quotient(rest, KVH)
    kvh = i32(rest - b * KVH)
    heads = quotient(G, parts)
    more = i32(G - heads * parts)
    first = i32(kvh * G + part * heads + min(part, more))
    return i32(2 * tile), b, kvh, part, first, i32(heads + (part < more))


@device
def feed(base, q_map, do_map, lse2, delta, T, Tp, B, KVH, G, parts):
    """Load Q, dO, lse and delta of every query block that sees the keys, head after head."""
    s, phase = i32(0), i32(0)
    items = key_items(T, B, KVH, parts)
    for r in range(rounds_of(items)):
        i = dealt(r)
        if i < items:
            m0, b, _, _, first, heads = key_item(i, B, KVH, G, parts)
            for h in range(first, first + heads):
                for m in range(m0, quotient(T + 63, 64)):
                    bar.mbarrier_wait(base + EMPTY + 8 * s, phase ^ 1)
                    full = base + FULL + 8 * s
                    bar.mbarrier_expect(full, 2 * BLOCK + 2 * COLUMNS)
                    tma.load_3d(base + s * BLOCK, q_map, h * D, m * 64, b, full)
                    tma.load_3d(base + DO_PLACE + s * BLOCK, do_map, h * D, m * 64, b, full)
                    at = ((np.int64(b) * KVH * G + h) * Tp + m * 64) * 4
                    columns = base + COLUMN_PLACE + s * (2 * COLUMNS)
                    tma.load_bytes(columns, lse2 + at, COLUMNS, full)
                    tma.load_bytes(columns + COLUMNS, delta + at, COLUMNS, full)
                    s, phase = advance(s, phase)


@device
def pass_over(base, s, phase, w):
    """An empty turn on a block that this warpgroup does not need."""
    bar.named_sync(TURN + w, 256)
    bar.named_arrive(TURN + 1 - w, 256)
    bar.mbarrier_wait(base + FULL + 8 * s, phase)
    bar.mbarrier_arrive(base + EMPTY + 8 * s)
    return advance(s, phase)


@device
def write(dK, dV, base, dk_map, dv_map, b, kvh, row, w, t):
    """A warpgroup's 64 rows of both through shared memory."""
    if t == 0:
        wait_stores()
    bar.named_sync(1 + w, 128)  # the last item's store has read the buffer
    lane = t & 31
    # stmatrix: lanes 0-15 hold the rows of the left 8 columns, lanes 16-31 of the right
    staged = 16 * (t >> 5) + (lane & 15)
    out = base + OUT_PLACE + w * (2 * BLOCK)
    mine = out + staged * 128 + (((lane >> 4) ^ (staged & 7)) << 4)
    stage(dK, 0, mine)
    stage(dV, 0, mine + BLOCK)
    bar.fence_async_shared()
    bar.named_sync(1 + w, 128)  # all rows stand
    if t == 0:
        tma.store_3d(dk_map, out, kvh * D, row, b)
        tma.store_3d(dv_map, out + BLOCK, kvh * D, row, b)
        tma.commit_stores()


@device
def write_part(dK, dV, sums, part, b, kvh, row, T, B, KVH, t):
    """A warpgroup's 64 rows of both to their place in sums (parts, B, T, 2 KVH, D) float32."""
    pitch = np.int64(2 * KVH * D * 4)
    column = kvh * D + 2 * (t & 3)
    at = sums + ((np.int64(part) * B + b) * T + row) * pitch + column * 4
    store(dK, at, pitch, T - row, D - 2 * (t & 3))
    store(dV, at + KVH * D * 4, pitch, T - row, D - 2 * (t & 3))


@kernel("p p p p p p n p p p i i i i i i f f", registers=168, threads=THREADS,
        shared=EMPTY + BARRIERS + ALIGNED, architectures=("sm_90a",), overlap=True,
        name="attention_key_gradient_64")
def key_gradient_kernel(q_map, do_map, dk_map, dv_map, k, v, pitch, lse2, delta, sums, B, T, Tp,
                        KVH, G, parts, c, scale):
    """Maps of Q, dO, dK, dV (boxes of 64 x 64 rows), each over (heads * 64, T, B); K and V of the
    first position and the bytes between positions; lse2, delta (B, H, Tp) as the kernel of the
    query gradients pads them; sums (parts, B, T, 2 KVH, D) float32, written in place of dK and dV
    if parts > 1; B, T, Tp, KVH, query heads a key head, parts, log2(e) / sqrt(D), 1 / sqrt(D)."""
    tid = cuda.threadIdx.x
    base = (shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00
    warpgroup = uniform(tid // 128)
    if tid == 0:
        tma.prefetch_map(q_map)
        tma.prefetch_map(do_map)
        open_ring(base + FULL, SLOTS, 1)
        open_ring(base + EMPTY, SLOTS, 256)
        bar.mbarrier_fence_init()
    bar.let_next_start()
    cuda.syncthreads()  # the barriers stand before anyone waits on them
    bar.wait_for_previous()

    if warpgroup == 0:
        release_registers()
        if tid == 0:
            feed(base, q_map, do_map, lse2, delta, T, Tp, B, KVH, G, parts)
    else:
        take_registers()
        w = i32(i32(warpgroup) - 1)
        t = i32(i32(tid) & 127)
        lane = i32(t & 31)
        in_tile = i32(16 * (t >> 5) + (lane >> 2))
        columns = i32(base + COLUMN_PLACE + 8 * (lane & 3))
        s, phase = i32(0), i32(0)
        end = quotient(T + 63, 64)
        dK = zeros()
        dV = zeros()
        if w == 1:
            bar.named_arrive(TURN, 256)  # the first turn is warpgroup 0's
        items = key_items(T, B, KVH, parts)
        for r in range(rounds_of(items)):
            i = dealt(r)
            if i < items:
                m0, b, kvh, _, _, heads = key_item(i, B, KVH, G, parts)
                row = m0 * 64 + w * 64 + in_tile
                at = (np.int64(b) * T + row) * pitch + (kvh * D + 2 * (lane & 3)) * 2
                K = load_operand(k + at, pitch, T - row)
                V = load_operand(v + at, pitch, T - row)
                S = zeros()
                dP = zeros()
                done = i32(0)  # blocks worked on
                last = s
                m = i32(end)
                for block in range(i32(heads * (end - m0 - w))):
                    if m == end:  # the next head
                        m = i32(m0)
                        if w == 1:  # its first block is left of the diagonal
                            s, phase = pass_over(base, s, phase, w)
                            m = i32(m + 1)
                    bar.mbarrier_wait(base + FULL + 8 * s, phase)
                    if done == 0:
                        last = s  # the first time: zero times anything finite
                    # one batch: this block's S^T and dP^T, the last block's dV and dK; the other
                    # warpgroup's exponentials run under it
                    P = to_bf16(S)
                    dS = to_bf16(dP)
                    bar.named_sync(TURN + w, 256)
                    S = product_t(K, base + s * BLOCK)
                    dP = product_t(V, base + DO_PLACE + s * BLOCK)
                    dV = product_g(dV, P, base + DO_PLACE + last * BLOCK, done > 0)
                    dK = product_g(dK, dS, base + last * BLOCK, done > 0)
                    bar.named_arrive(TURN + 1 - w, 256)
                    S = wait(S)
                    dP = wait(dP)
                    dV = wait(dV)
                    dK = wait(dK)
                    if done > 0:
                        bar.mbarrier_arrive(base + EMPTY + 8 * last)
                    if m == m0 + w:
                        S = causal(S, in_tile - 2 * (lane & 3))
                    S = exp2_columns(S, c, columns + s * (2 * COLUMNS))
                    dP = gradient_columns(S, dP, columns + s * (2 * COLUMNS) + COLUMNS)
                    done = i32(done + 1)
                    last = s
                    m = i32(m + 1)
                    s, phase = advance(s, phase)
                if end - m0 - w == 0:  # no key of this warpgroup exists
                    for head in range(heads):
                        s, phase = pass_over(base, s, phase, w)
                dV = product_g(dV, to_bf16(S), base + DO_PLACE + last * BLOCK, done > 0)
                dK = product_g(dK, to_bf16(dP), base + last * BLOCK, done > 0)
                dV = wait(dV)
                dK = wait(dK)
                dK = scale_rows(dK, (scale, scale))
                # found anew, not kept: the walk leaves no registers
                m0, b, kvh, part, _, _ = key_item(i32(uniform(i)), B, KVH, G, parts)
                row = m0 * 64 + w * 64 + in_tile
                if done > 0:
                    bar.mbarrier_arrive(base + EMPTY + 8 * last)
                if parts > 1:
                    write_part(dK, dV, sums, part, b, kvh, row, T, B, KVH, t)
                else:
                    write(dK, dV, base, dk_map, dv_map, b, kvh, m0 * 64 + w * 64, w, t)
        if t == 0:
            wait_stores()  # shared memory must outlive the last store's reads
