"""What happens to a tile of sums on its way to memory.

    plain             stored, as bfloat16 through shared memory or as float32 from registers
    bias              a bfloat16 a column added first, in float32
    add               added to what is there (float32)
    swiglu            the tile is half columns of the gate, half the same ones of the up
                      projection: both are stored, and silu(gate) * up beside them
    swiglu_gradient   the tile is the gradient of silu(gate) * up; gate and up, brought while the
                      products ran, turn it into the gradients of both, which take their place in
                      shared memory and leave instead

The fused ones save what the op alone would read again: 0.32 and 0.32 GB a layer at 16,384 rows of
the Qwen2.5-0.5B shape, and run under the other warpgroup's products.
"""
import numpy as np

from ..cuda import device
from ..ptx import barrier as bar
from ..ptx import tma
from ..ptx.scalar import fence_gpu, increment_cyclic, load_acquire
from ..ptx.swiglu import make_shared_pairs, make_stage_pairs, make_swiglu
from ..ptx.tiles import make_add_columns, make_partials, make_stage, make_store


def make_courier(columns, epilogue, g, item, corner):
    """courier(...): one thread that brings gate and up of a warpgroup's tiles through the copy
    engine, and takes the gradients that replace them away again; for "swiglu_gradient" alone."""
    chunk_bytes, area = g.chunk_bytes, g.buffers * g.chunk_bytes
    count = columns // g.chunk_columns
    wait_all = tma.wait_stores_read(0)

    @device
    def courier(gate_map, up_map, c_map, c_up_map, out, brought, staged, w, first, clusters, whole,
                extra, loose, steps, group, tiles_m, tiles_n, rank):
        n, phase = first, 0
        while n < whole + extra:
            tile, _, _, _ = item(n, whole, loose, steps)
            n += clusters
            m0, n0 = corner(tile, group, tiles_m, tiles_n, rank)
            row = m0 + 64 * w
            bar.mbarrier_expect(brought, area)
            for c in range(count):
                tma.load_2d(out + c * chunk_bytes, gate_map, n0 + 64 * c, row, brought)
                tma.load_2d(out + (count + c) * chunk_bytes, up_map, n0 + 64 * c, row, brought)
            bar.mbarrier_wait(staged, phase)  # the warpgroup has put the gradients in their place
            for c in range(count):
                tma.store_2d(c_map, out + c * chunk_bytes, n0 + 64 * c, row)
                tma.store_2d(c_up_map, out + (count + c) * chunk_bytes, n0 + 64 * c, row)
            tma.commit_stores()
            wait_all()  # they are read: the next tile's gate and up may come
            phase ^= 1
    return courier


def make_writer(columns, epilogue, f32, g):
    """The writer of one variant, for whole tiles:

    write(acc, turn, c_map, c_up_map, act_map, c, read, pitch, M, N, m0, n0, t, w, out, mine,
    brought): a warpgroup's 64 rows from row m0 and column n0; turn: 0 and 1 from tile to tile;
    t, w: thread and warpgroup; out, mine: staging buffers in shared memory, and this lane's place
    in the first of them; brought: barrier of the courier, the one it waits for 16 bytes behind it.
    """
    if epilogue in ("swiglu", "swiglu_gradient"):
        return _make_gated_writer(columns, epilogue, g)
    add_bias = make_add_columns(columns)
    store, stage = make_store(columns, epilogue == "add"), make_stage(columns, g.chunk_columns)
    biased, width, chunks = epilogue == "bias", g.chunk_columns, g.chunks
    buffers, chunk_bytes = g.buffers, g.chunk_bytes
    wait_all, wait_one = tma.wait_stores_read(0), tma.wait_stores_read(max(g.buffers - 1, 0))

    @device
    def through_one_buffer(acc, chunk, c_map, m0, n0, t, w, out, mine):
        """One chunk of the columns, when buffers are fewer than chunks: they take turns."""
        if chunk < chunks:
            if t == 0:
                if chunk == 0:
                    wait_all()  # of the last tile, which may have ended on any buffer
                else:
                    wait_one()
            bar.named_sync(1 + w, 128)  # the buffer is free for all
            stage(acc, chunk, mine + chunk % buffers * chunk_bytes)
            bar.fence_async_shared()
            bar.named_sync(1 + w, 128)  # all rows of the chunk stand
            if t == 0:
                tma.store_2d(c_map, out + chunk % buffers * chunk_bytes, n0 + chunk * width, m0)
                tma.commit_stores()

    @device
    def at_once(acc, c_map, m0, n0, t, w, out, mine):
        """Every chunk has a buffer: one round of barriers."""
        if t == 0:
            wait_all()
        bar.named_sync(1 + w, 128)  # the buffers are free for all
        stage(acc, 0, mine)
        stage(acc, 1, mine + chunk_bytes)
        stage(acc, 2, mine + 2 * chunk_bytes)
        stage(acc, 3, mine + 3 * chunk_bytes)
        stage(acc, 4, mine + 4 * chunk_bytes)
        stage(acc, 5, mine + 5 * chunk_bytes)
        stage(acc, 6, mine + 6 * chunk_bytes)
        stage(acc, 7, mine + 7 * chunk_bytes)
        stage(acc, 8, mine + 8 * chunk_bytes)
        bar.fence_async_shared()
        bar.named_sync(1 + w, 128)  # all rows stand
        if t == 0:
            for c in range(chunks):
                tma.store_2d(c_map, out + c * chunk_bytes, n0 + c * width, m0)
            tma.commit_stores()

    @device
    def write(acc, turn, c_map, c_up_map, act_map, c, read, pitch, M, N, m0, n0, t, w, out, mine,
              brought):
        row = m0 + 16 * (t >> 5) + ((t & 31) >> 2)
        column = n0 + 2 * (t & 3)
        if f32:
            store(acc, c + np.int64(row) * pitch + column * 4, pitch, M - row, N - column)
        else:
            if biased:
                acc = add_bias(acc, read + column * 2, N - column)
            if buffers == chunks:
                at_once(acc, c_map, m0, n0, t, w, out, mine)
            else:
                through_one_buffer(acc, 0, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 1, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 2, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 3, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 4, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 5, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 6, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 7, c_map, m0, n0, t, w, out, mine)
                through_one_buffer(acc, 8, c_map, m0, n0, t, w, out, mine)
    return write


def _make_gated_writer(columns, epilogue, g):
    """Writers of the gated tiles.

    swiglu: in rounds of one chunk each of gate, up and activation between two barriers; as many
    rounds are in flight as there are buffers. swiglu_gradient: in place, for the courier.
    """
    forward, width, chunk_bytes = epilogue == "swiglu", g.chunk_columns, g.chunk_bytes
    half = columns // 2 if forward else columns
    count = half // width  # chunks of one matrix
    ring = g.buffers // 3 if forward else 1  # rounds in flight
    stage, stage_up = make_stage(columns, width), make_stage(columns, width, half)
    stage_pairs = make_stage_pairs(width)
    swiglu, gradient = make_swiglu(half)
    load_pairs, store_pairs = make_shared_pairs(2 * half)
    wait_all, wait_older = tma.wait_stores_read(0), tma.wait_stores_read(max(ring - 1, 0))

    @device
    def sealed(w):
        bar.fence_async_shared()
        bar.named_sync(1 + w, 128)  # all rows of the round stand

    @device
    def one_round(acc, act, r, c_map, c_up_map, act_map, m0, n0, t, w, out, mine):
        if r < count:
            if t == 0:
                if r == 0:
                    wait_all()  # of the last tile; that was long ago
                else:
                    wait_older()
            bar.named_sync(1 + w, 128)  # the round's buffers are free for all
            slot = r % ring * 3 * chunk_bytes
            stage(acc, r, mine + slot)
            stage_up(acc, r, mine + slot + chunk_bytes)
            stage_pairs(act, r, mine + slot + 2 * chunk_bytes)
            sealed(w)
            if t == 0:
                tma.store_2d(c_map, out + slot, n0 + r * width, m0)
                tma.store_2d(c_up_map, out + slot + chunk_bytes, n0 + r * width, m0)
                tma.store_2d(act_map, out + slot + 2 * chunk_bytes, n0 + r * width, m0)
                tma.commit_stores()

    @device
    def write(acc, turn, c_map, c_up_map, act_map, c, read, pitch, M, N, m0, n0, t, w, out, mine,
              brought):
        if forward:
            act = swiglu(acc)
            one_round(acc, act, 0, c_map, c_up_map, act_map, m0, n0, t, w, out, mine)
            one_round(acc, act, 1, c_map, c_up_map, act_map, m0, n0, t, w, out, mine)
            one_round(acc, act, 2, c_map, c_up_map, act_map, m0, n0, t, w, out, mine)
        else:
            row = 16 * (t >> 5) + ((t & 31) >> 2)
            own = out + row * 128 + ((row & 7) << 4) + 4 * (t & 3)
            bar.mbarrier_wait(brought, turn)
            store_pairs(gradient(acc, load_pairs(own)), own)
            bar.fence_async_shared()
            bar.mbarrier_arrive(brought + 16)
    return write


def make_part_writer(columns, epilogue, f32, parts, cluster, g):
    put, gather = make_partials(columns // 2, parts)
    store = make_store(32, epilogue == "add", bfloat16=not f32)
    part_bytes, size = g.part_bytes, 4 if f32 else 2
    last = parts * (2 ** 31 // parts) - 1  # of a counter's values

    @device
    def write_part(acc, c, scratch, counters, pitch, M, N, m0, n0, t, w, who, part, loose):
        """Meet the other parts of warpgroup `who`'s tile half, then store every `parts`-th 32
        columns of the sum. Nobody resets a counter: it goes round, and the meeting is over when it
        enters the next `parts` of its values."""
        mine = scratch + who * part_bytes + t * 16
        step = loose * cluster * 2 * part_bytes
        put(acc, mine + part * step)
        fence_gpu()
        bar.named_sync(1 + w, 128)  # this part stands, all of it
        if t == 0:
            counter = counters + who * 4
            meeting = np.int64(increment_cyclic(counter, last)) // parts
            while np.int64(load_acquire(counter)) // parts == meeting:
                pass
        bar.named_sync(1 + w, 128)  # all parts stand
        row = m0 + 16 * (t >> 5) + ((t & 31) >> 2)
        for chunk in range(part, (columns + 31) // 32, parts):
            column = n0 + 32 * chunk + 2 * (t & 3)
            store(gather(mine + chunk * 8192, step),
                  c + np.int64(row) * pitch + column * size, pitch, M - row,
                  min(N, n0 + columns) - column)
    return write_part
