"""The persistent, warp-specialised product kernel: bfloat16 operands, float32 sums.

One block per multiprocessor, 384 threads. Warpgroup 0 feeds a ring of shared-memory stages through
TMA and runs ahead into the next tile; warpgroups 1 and 2 each own 64 of the 128 rows of a tile of
128 x `columns`. The two are not synchronised with each other: one drifts ahead by as much as its
epilogue lasts, so that its epilogue runs under the other's products. Results go through shared
memory (stmatrix) and leave by TMA (bfloat16) or from registers (float32).

The tiles of an incomplete last wave are cut along K into `parts`, so that every block works to the
end. Equal parts of all tiles run side by side and share their operands in L2. The parts of a tile
meet in scratch memory; each then sums and stores its share of the columns, always in the same
order: the same bits in every run. Blocks of a cut variant wait for one another, so the grid must
not exceed the multiprocessors.

What was tried, and what lost: evidence/log.md.
"""
from types import SimpleNamespace

import numpy as np

from ..cuda import cuda, device, kernel
from ..ptx import barrier as bar
from ..ptx import tma
from ..ptx.scalar import shared_address, uniform
from ..ptx.wgmma import K_MAJOR, make_accumulator, make_product, mn_major, wait_1
from .matmul_epilogues import make_courier, make_part_writer, make_writer

ROWS, DEPTH, THREADS = 128, 64, 384  # of a tile; of a stage along K; of a block
SHARED_MAX = 232448  # bytes a block can have
BLOCK_BYTES = 64 * 64 * 2  # a block of 64 x 64 bfloat16, the unit of an MN-major operand
MAJOR = {"nt": (False, False), "nt_f32": (False, False), "nn": (False, True), "tn": (True, True)}
"""layout -> whether a and b are MN-major"""
release_registers, take_registers = bar.setmaxnreg("dec", 40), bar.setmaxnreg("inc", 232)


def geometry(layout, columns, f32, epilogue="plain"):
    """Sizes in bytes and places in shared memory of one variant."""
    width = columns // 2 if epilogue == "swiglu" else columns
    g = SimpleNamespace(chunk_columns=next(n for n in (64, 32, 16) if width % n == 0))
    g.chunks = columns // g.chunk_columns
    g.b_blocks = -(-columns // 64)
    g.a_bytes = ROWS * DEPTH * 2
    g.stage_bytes = g.a_bytes + (g.b_blocks * 64 if MAJOR[layout][1] else columns) * DEPTH * 2
    g.chunk_bytes = 64 * g.chunk_columns * 2  # one staged chunk of one warpgroup
    room = SHARED_MAX - 2048
    # staging buffers of a warpgroup: two at least, and what a gated tile writes at once
    least, most = {"swiglu": (6, 6), "swiglu_gradient": (4, 4)}.get(epilogue, (2, g.chunks))
    g.stages = min(7, (room - (0 if f32 else 2 * least * g.chunk_bytes)) // g.stage_bytes)
    g.buffers = 0 if f32 else min(most, (room - g.stages * g.stage_bytes) // (2 * g.chunk_bytes))
    g.out = g.stages * g.stage_bytes
    g.barriers = g.out + 2 * g.buffers * g.chunk_bytes
    g.shared = g.barriers + 16 * g.stages + 32 + 1024
    g.part_bytes = 64 * columns * 4  # one warpgroup's partial sums
    return g


def make_matmul(layout, columns, epilogue="plain", cluster=1, parts=1):
    """The kernel of one variant, with its `geometry` as attribute `g`.

    layout "nt" | "nn" | "tn" (float32 result) | "nt_f32" as in kernels/matmul.py; columns:
    multiple of 16 up to 256; epilogue: see matmul_epilogues.py; cluster: blocks that share B by
    multicast; parts: pieces along K of a tile of the last, incomplete wave.
    Kernel arguments: maps of A and B; left and right: with "swiglu" the up projection's half of B
    and the activation, with "swiglu_gradient" gate and up; maps of C and of its up half; addresses
    of C and of the bias; M, N, K, bytes between rows of C, tiles of M in a raster group, scratch,
    counters. What a variant does not use is 0.
    """
    f32 = layout in ("tn", "nt_f32")
    g = geometry(layout, columns, f32, epilogue)
    assert f32 or g.chunks <= 9, "the writers unroll nine chunks: further columns would be lost"
    # with "swiglu" a tile is as many columns of the gate and the same ones of the up projection
    corner, item = _make_work(columns // 2 if epilogue == "swiglu" else columns, cluster, parts)
    feed = _make_producer(layout, columns, epilogue, cluster, g, corner, item)
    multiply = _make_products(layout, columns, cluster, g)
    courier = make_courier(columns, epilogue, g, item, corner)
    couriers = epilogue == "swiglu_gradient"
    write = make_writer(columns, epilogue, f32, g)
    write_part = make_part_writer(columns, epilogue, f32, parts, cluster, g)
    zeros = make_accumulator(columns // 2)[0]
    stages, bar_offset = g.stages, g.barriers
    chunk_row = g.chunk_columns * 2  # bytes; as many as the swizzle's period of columns
    swizzle_rows = 128 // chunk_row
    wait_all = tma.wait_stores_read(0)

    @kernel("p p p p p p p p i i i n i p p", registers=168, threads=THREADS, shared=g.shared,
            cluster=cluster, architectures=("sm_90a",), overlap=True,
            spills=_spills(epilogue, cluster, parts),
            name=f"matmul_{layout}_{epilogue}_{columns}_c{cluster}_p{parts}")
    def matmul_kernel(a_map, b_map, left_map, right_map, c_map, c_up_map, c, read, M, N, K, pitch,
                      group, scratch, counters):
        tid = cuda.threadIdx.x
        base = (shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00
        full = base + bar_offset
        empty = full + 8 * stages
        brought = empty + 8 * stages  # of each warpgroup, and behind these what it staged
        warpgroup = uniform(tid // 128)
        if tid == 0:
            tma.prefetch_map(a_map)
            tma.prefetch_map(b_map)
            for s in range(stages):
                bar.mbarrier_init(full + 8 * s, 1)
                bar.mbarrier_init(empty + 8 * s, 2 * cluster)
            if couriers:
                for s in range(2):
                    bar.mbarrier_init(brought + 8 * s, 1)
                    bar.mbarrier_init(brought + 16 + 8 * s, 128)
            bar.mbarrier_fence_init()
        bar.let_next_start()
        rank = np.int32(0)
        if cluster > 1:
            bar.cluster_sync()
            rank = np.int32(bar.cluster_rank())
        else:
            cuda.syncthreads()  # the barriers stand before anyone waits on them
        bar.wait_for_previous()

        # a cluster's blocks are neighbours along M; this one's work is every `clusters`-th tile
        first = np.int32(cuda.blockIdx.x) // cluster
        clusters = np.int32(cuda.gridDim.x) // cluster
        tiles_m = (M + (ROWS * cluster - 1)) // (ROWS * cluster)
        tiles_n = (N + (width - 1)) // width
        steps = (K + (DEPTH - 1)) // DEPTH
        whole, loose, extra = tiles_m * tiles_n, 1, 0
        if parts > 1:
            rest = whole % clusters
            if rest != 0 and rest * parts <= clusters and steps >= parts:
                whole, loose, extra = whole - rest, rest, rest * parts

        if warpgroup == 0:
            release_registers()
            if tid == 0:
                feed(a_map, b_map, left_map, base, full, empty, first, clusters, whole, loose,
                     extra, steps, group, tiles_m, tiles_n, rank)
            if couriers and (tid == 32 or tid == 64):
                w = np.int32(tid >> 5) - 1
                courier(left_map, right_map, c_map, c_up_map,
                        base + g_out + w * (buffers * chunk_bytes), brought + 8 * w,
                        brought + 16 + 8 * w, w, first, clusters, whole, extra, loose, steps, group,
                        tiles_m, tiles_n, rank)
        else:
            take_registers()
            w = np.int32(warpgroup) - 1
            t = np.int32(tid) & 127
            # stmatrix: lanes 0-15 hold the rows of the left 8 columns, lanes 16-31 of the right
            row = 16 * (t >> 5) + (t & 15)
            out = base + g_out + w * (buffers * chunk_bytes)
            swizzle = (row // swizzle_rows) & (chunk_row // 16 - 1)
            mine = out + row * chunk_row + ((((t & 31) >> 4) ^ swizzle) << 4)
            acc = zeros()
            n, s, phase, turn = first, 0, 0, 0
            while n < whole + extra:
                tile, k0, k1, part = item(n, whole, loose, steps)
                n += clusters
                m0, n0 = corner(tile, group, tiles_m, tiles_n, rank)
                acc, s, phase = multiply(acc, base, full, empty, s, phase, k0, k1, w, t)
                if parts > 1 and part >= 0:
                    who = ((tile - whole) * cluster + rank) * 2 + w
                    write_part(acc, c, scratch, counters, pitch, M, N, m0 + 64 * w, n0, t, w, who,
                               part, loose)
                else:
                    write(acc, turn, c_map, c_up_map, right_map, c, read, pitch, M, N, m0 + 64 * w,
                          n0, t, w, out, mine, brought + 8 * w)
                    turn ^= 1
            if not f32 and not couriers and t == 0:
                wait_all()  # shared memory must outlive the last stores' reads
        if cluster > 1:
            bar.cluster_sync()  # a block may still arrive on its neighbour's barriers

    width = columns // 2 if epilogue == "swiglu" else columns
    g_out, buffers, chunk_bytes = g.out, g.buffers, g.chunk_bytes
    matmul_kernel.g = g
    return matmul_kernel


def _spills(epilogue, cluster, parts):
    """Local memory outside the inner loop: adding to C alternates loads and stores in one piece of
    assembly; with a cluster or a courier the producer's 40 registers do not hold its constants."""
    return 1280 if epilogue in ("add", "swiglu_gradient") or cluster > 1 or parts > 1 else 0


def _make_work(columns, cluster, parts):
    @device
    def corner(tile, group, tiles_m, tiles_n, rank):
        """First row and column of a tile; tiles run down `group` rows of tiles, then right."""
        stripe = tile // (group * tiles_n)
        offset = tile - stripe * group * tiles_n
        height = min(tiles_m - stripe * group, group)
        right = offset // height
        down = stripe * group + offset - right * height
        return (down * cluster + rank) * ROWS, right * columns

    @device
    def item(n, whole, loose, steps):
        """Work item n: (tile, first and last step along K, which part or -1)."""
        tile, k0, k1, part = n, 0, steps, -1
        if parts > 1:
            if n >= whole:
                part = (n - whole) // loose
                tile = n - part * loose
                k0 = part * steps // parts
                k1 = (part + 1) * steps // parts
        return tile, k0, k1, part
    return corner, item


def _make_producer(layout, columns, epilogue, cluster, g, corner, item):
    a_mn, b_mn = MAJOR[layout]
    stages, stage_bytes, a_bytes, b_blocks = g.stages, g.stage_bytes, g.a_bytes, g.b_blocks
    share = columns // cluster  # rows of B that this block loads for its cluster
    everyone = (1 << cluster) - 1
    gated, half = epilogue == "swiglu", columns // 2

    @device
    def load_b(b_map, up_map, target, n0, k, full, rank):
        if gated:
            tma.load_2d(target, b_map, k, n0, full)
            tma.load_2d(target + half * 128, up_map, k, n0, full)
        elif b_mn:
            for j in range(rank, b_blocks, cluster):
                if cluster > 1:
                    tma.load_2d_multicast(target + j * BLOCK_BYTES, b_map, n0 + 64 * j, k, full,
                                          everyone)
                else:
                    tma.load_2d(target + j * BLOCK_BYTES, b_map, n0 + 64 * j, k, full)
        elif cluster > 1:
            tma.load_2d_multicast(target + rank * (share * 128), b_map, k, n0 + rank * share, full,
                                  everyone)
        else:
            tma.load_2d(target, b_map, k, n0, full)

    @device
    def feed(a_map, b_map, up_map, base, full, empty, first, clusters, whole, loose, extra, steps,
             group, tiles_m, tiles_n, rank):
        """Fill stage after stage of every tile, as far ahead as the ring allows."""
        n, s, phase = first, 0, 0
        while n < whole + extra:
            tile, k0, k1, _ = item(n, whole, loose, steps)
            n += clusters
            m0, n0 = corner(tile, group, tiles_m, tiles_n, rank)
            for step in range(k0, k1):
                k = step * DEPTH
                bar.mbarrier_wait(empty + 8 * s, phase ^ 1)
                ready, target = full + 8 * s, base + s * stage_bytes
                bar.mbarrier_expect(ready, stage_bytes)
                if a_mn:
                    tma.load_2d(target, a_map, m0, k, ready)
                    tma.load_2d(target + BLOCK_BYTES, a_map, m0 + 64, k, ready)
                else:
                    tma.load_2d(target, a_map, k, m0, ready)
                load_b(b_map, up_map, target + a_bytes, n0, k, ready, rank)
                s += 1
                if s == stages:
                    s = 0
                    phase ^= 1
    return feed


def _make_products(layout, columns, cluster, g):
    a, b = (mn_major(BLOCK_BYTES) if mn else K_MAJOR for mn in MAJOR[layout])
    product = make_product(columns, a=a, b=b)
    wait_0 = make_accumulator(columns // 2)[1]
    stages, stage_bytes, a_bytes = g.stages, g.stage_bytes, g.a_bytes

    @device
    def release(slot, t):
        if cluster > 1:
            if t < cluster:
                bar.mbarrier_arrive_remote(slot, t)
        elif t == 0:
            bar.mbarrier_arrive(slot)

    @device
    def multiply(acc, base, full, empty, s, phase, k0, k1, w, t):
        """The sums of one tile.  Returns (acc, stage, phase)."""
        last = empty + 0
        for k in range(k0, k1):
            bar.mbarrier_wait(full + 8 * s, phase)
            stage = base + s * stage_bytes
            acc = product(acc, stage + w * BLOCK_BYTES, stage + a_bytes, k != k0)
            wait_1()  # one group stays in flight; the stage before it has been read
            if k != k0:
                release(last, t)
            last = empty + 8 * s
            s += 1
            if s == stages:
                s = 0
                phase ^= 1
        acc = wait_0(acc)
        release(last, t)
        return acc, s, phase
    return multiply
