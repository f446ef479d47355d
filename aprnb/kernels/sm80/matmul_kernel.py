"""The product kernel for warp-level tensor cores: bfloat16 operands, float32 sums.

A block computes one tile of `rows` x `columns` of C, a warp 64 x 64 of it. Operands come through a
ring of shared-memory stages, filled by asynchronous copies that run `stages` - 1 ahead; a warp
loads the fragments of the next 16 of k while it multiplies the present ones.

A stage holds an operand as it lies in memory. Its lines run along k ("K-major": A of nt and nn, B
of nt) or, one line for each k, along m or n ("MN-major": ldmatrix then transposes). In either,
chunk c of line l, 16 bytes, lies at place c ^ s(l), so that the eight rows of a matrix, and the
chunks that eight threads copy, fall into different banks.

What lies outside M, N and K is zero in shared memory, also what the ring fetches behind the last
step: the loop has no special cases. Results go through shared memory, so that lanes write 16 bytes
and a warp whole runs of C.

The tiles of an incomplete last wave are cut along K into parts. Each leaves its sums in scratch
memory; the block that arrives last adds all of them, in their order, and writes the tile: the same
bits in every run, and nobody waits.

From the floor: mma.sync reaches at most 62 % of wgmma's rate on Hopper, about 610 TFLOP/s or 1,270
multiply-adds a clock and multiprocessor. For 16 of k a warp reads 4 KB of fragments for 32 products
of 16 x 8 x 16, so at that rate shared memory is busy 83 % of the time with tiles of 128 x 256; with
128 x 128 it is 93 %, but two of them share a multiprocessor and overlap start and end. Predicted:
400 to 480 TFLOP/s, 0.6 to 0.7 ms for 16,384 x 9,728 x 896 (286 GFLOP; its 366 MB take 0.09 ms).
"""
from types import SimpleNamespace

import numpy as np

from ..cuda import cuda, device, kernel
from ..ptx import vector
from ..ptx.mma import (commit_copies, make_copy, make_load, make_partials, make_product,
                       make_staging, wait_copies)
from ..ptx.scalar import (increment, load_bf16, load_f32, load_shared_f32, quotient,
                          shared_address, store_bf16, store_f32, store_release)
from ..ptx.share import make_zeros

WARP = 64  # rows and columns of a warp's part of the tile
FLOATS = WARP * WARP // 32  # of an accumulator
ALIGNMENT = 256  # bytes: inside them the swizzles exchange places
STAGED = 32 * WARP * 4  # bytes of shared memory in which a warp turns its results round
MN_MAJOR = {"nt": (False, False), "nn": (False, True), "tn": (True, True)}  # A, B


def make_matmul(layout, epilogue, f32, rows, columns, depth, stages, blocks):
    """The kernel of one variant, with its sizes as attribute `g`.

    layout "nt" | "nn" | "tn" as in kernels/matmul.py; epilogue "plain" | "bias" | "add"; f32: type
    of C; rows, columns: of a tile, together a multiple of 4 warps; depth: of a stage along K, 32 or
    64; blocks: that a multiprocessor holds at the same time.
    Kernel arguments: addresses of C, A, B and the bias; M, N, K; bytes between lines of C, A and B;
    rows of tiles in a raster group; tiles that are not cut; parts of the others; scratch; counters.
    """
    warps = rows * columns // WARP ** 2
    threads, a_bytes, stage_bytes = 32 * warps, rows * depth * 2, (rows + columns) * depth * 2
    mn_a, mn_b = MN_MAJOR[layout]
    begin_a, fetch_a, own_a, load_a = _make_operand(rows, depth, threads, mn_a, mn_a)
    begin_b, fetch_b, own_b, load_b = _make_operand(columns, depth, threads, mn_b, not mn_b)
    item = _make_work(rows, columns, depth)
    leave, gather = _make_parts(rows * columns * 4)
    write = _make_writer(epilogue, f32)
    zeros, product = make_zeros(FLOATS), make_product(WARP, WARP)
    wait_next, wait_all = wait_copies(stages - 2), wait_copies(0)
    warps_m, ring, ahead, deep = rows // WARP, stages * stage_bytes, stages - 1, depth == 64
    shared = ALIGNMENT + max(ring, warps * STAGED)

    @kernel("p p p p i i i n n n i i i p p", registers=255, threads=threads, blocks=blocks,
            shared=shared, name=f"matmul_{layout}_{epilogue}_{'f32' if f32 else 'bf16'}_"
                                f"{rows}x{columns}x{depth}_{stages}")
    def matmul_kernel(c, a, b, bias, M, N, K, c_pitch, a_pitch, b_pitch, group, whole, parts,
                      scratch, counters):
        t = np.int32(cuda.threadIdx.x)
        lane, warp = t & 31, t >> 5
        warp_m, warp_n = WARP * (warp % warps_m), WARP * (warp // warps_m)
        base = np.uint32((shared_address(cuda.shared.array(0, np.uint8)) + 255) & 0xFFFFFF00)
        m0, n0, cut, part, k0, k1, steps = item(cuda.blockIdx.x, M, N, K, group, whole, parts)
        a_at, a_to, a_stride, a_step, a_fixed, a_left = begin_a(t, a, a_pitch, m0, M, k0, k1)
        b_at, b_to, b_stride, b_step, b_fixed, b_left = begin_b(t, b, b_pitch, n0, N, k0, k1)
        a_to, b_to = np.uint32(base + a_to), np.uint32(base + a_bytes + b_to)
        a_own = np.uint32(base + own_a(lane, warp_m))
        b_own = np.uint32(base + a_bytes + own_b(lane, warp_n))

        free = np.uint32(0)  # the stage that is filled next
        for _ in range(ahead):
            a_at, a_left = fetch_a(a_to + free, a_at, a_stride, a_step, a_fixed, a_left)
            b_at, b_left = fetch_b(b_to + free, b_at, b_stride, b_step, b_fixed, b_left)
            commit_copies()
            free = np.uint32(free + stage_bytes)
        wait_next()
        cuda.syncthreads()  # every thread's copies of the first stage have arrived
        full = np.uint32(0)  # the stage that is multiplied
        acc = zeros()
        a_even, b_even = load_a(a_own, 0), load_b(b_own, 0)
        while True:
            a_odd, b_odd = load_a(a_own + full, 1), load_b(b_own + full, 1)
            a_at, a_left = fetch_a(a_to + free, a_at, a_stride, a_step, a_fixed, a_left)
            b_at, b_left = fetch_b(b_to + free, b_at, b_stride, b_step, b_fixed, b_left)
            commit_copies()
            acc = product(acc, a_even, b_even)
            if deep:
                a_even, b_even = load_a(a_own + full, 2), load_b(b_own + full, 2)
                acc = product(acc, a_odd, b_odd)
                a_odd, b_odd = load_a(a_own + full, 3), load_b(b_own + full, 3)
                acc = product(acc, a_even, b_even)
            steps = np.int32(steps - 1)
            if steps == 0:
                break
            free = full
            full = np.uint32(full + stage_bytes)
            if full == ring:
                full = np.uint32(0)
            wait_next()
            cuda.syncthreads()  # the next stage stands; everyone has read the present one
            a_even, b_even = load_a(a_own + full, 0), load_b(b_own + full, 0)
            acc = product(acc, a_odd, b_odd)
        acc = product(acc, a_odd, b_odd)

        wait_all()
        cuda.syncthreads()  # nobody reads or writes the ring any more: results take its place
        if part >= 0:
            if not leave(acc, scratch, counters, cut, part, parts, t):
                return
            acc = gather(zeros(), scratch, cut, parts, t)
        write(acc, base + warp * STAGED, lane, c, bias, c_pitch, m0 + warp_m, n0 + warp_n, M, N)

    matmul_kernel.g = SimpleNamespace(rows=rows, columns=columns, depth=depth, threads=threads,
                                      blocks=blocks, part_bytes=rows * columns * 4)
    return matmul_kernel


def _make_work(rows, columns, depth):
    @device
    def item(block, M, N, K, group, whole, parts):
        """What a block computes: first row and column of its tile; which cut tile and which part
        of it this is, or part -1; first k and the one behind its last; steps along K.

        Tiles run down `group` rows of tiles, then right, so that those in flight share operands.
        """
        tiles_m, tiles_n = (M + (rows - 1)) // rows, (N + (columns - 1)) // columns
        every = (K + (depth - 1)) // depth
        tile, part, first, behind = np.int32(block), np.int32(-1), np.int32(0), np.int32(every)
        if block >= whole:
            loose = tiles_m * tiles_n - whole
            part = quotient(np.int32(block - whole), np.int32(loose))
            tile = np.int32(block - part * loose)
            first = quotient(np.int32(part * every), parts)
            behind = quotient(np.int32((part + 1) * every), parts)
        span = group * tiles_n
        stripe = quotient(tile, np.int32(span))
        inside = tile - stripe * span
        high = min(tiles_m - stripe * group, group)
        column = quotient(np.int32(inside), np.int32(high))
        row = stripe * group + inside - column * high
        return (np.int32(row * rows), np.int32(column * columns), tile - whole, part,
                np.int32(first * depth), min(K, np.int32(behind * depth)), behind - first)
    return item


def _make_operand(width, depth, threads, mn_major, line_second):
    """Device functions (begin, fetch, own, load) of an operand: `width` of m or n, `depth` of k.

    line_second: the second matrix of a fragment lies in the next 8 columns of the same lines,
    not in the next 8 lines.
    """
    line_bytes = 2 * (width if mn_major else depth)
    chunks = line_bytes // 16
    lines_apart = threads // chunks  # of a thread's copies, one below the other
    count = (depth if mn_major else width) // lines_apart
    copy = make_copy(count, lines_apart, lines_apart * line_bytes)
    fragments = make_load(WARP // 16, 16 * line_bytes, transposed=mn_major)
    spread, places = max(1, 128 // line_bytes), min(8, chunks)
    assert lines_apart % (8 * spread) == 0, "a thread's copies must agree in their swizzle"

    @device
    def place(line, chunk):
        """Where a chunk lies in the stage, in bytes."""
        return line * line_bytes + ((chunk ^ (line // spread % places)) << 4)

    @device
    def begin(t, x, pitch, first, size, k0, k1):
        """Of a thread's copies: source, target in the stage, bytes between the lines of two, bytes
        to the next step; of lines left and bytes left, what stays and what the steps consume."""
        line, chunk = t // chunks, t % chunks
        stride = np.int64(lines_apart) * pitch
        if mn_major:
            return (x + np.int64(k0 + line) * pitch + np.int64(2 * first + 16 * chunk),
                    place(line, chunk), stride, np.int64(depth) * pitch,
                    clamp(np.int32(2 * (size - first) - 16 * chunk)), np.int32(k1 - k0 - line))
        return (x + np.int64(first + line) * pitch + np.int64(2 * k0 + 16 * chunk),
                place(line, chunk), stride, np.int64(2 * depth),
                np.int32(size - first - line), np.int32(2 * (k1 - k0) - 16 * chunk))

    @device
    def fetch(target, source, stride, step, fixed, left):
        """One stage; returns source and what is left for the next."""
        if mn_major:
            copy(target, source, stride, left, fixed)
            return source + step, np.int32(left - depth)
        copy(target, source, stride, fixed, clamp(left))
        return source + step, np.int32(left - 2 * depth)

    @device
    def own(lane, first):
        """Where the warp's fragments begin in the stage, for the address that this lane gives."""
        if line_second:
            line, chunk = (lane & 7) + 8 * (lane >> 4), (lane >> 3) & 1
        else:
            line, chunk = lane & 15, lane >> 4
        if mn_major:
            return place(line, first // 8 + chunk)
        return place(first + line, chunk)

    @device
    def load(address, step):
        """Fragments of the step-th 16 of k."""
        if mn_major:
            return fragments(np.uint32(address + step * 16 * line_bytes))
        return fragments(np.uint32(address ^ (32 * step)))
    return begin, fetch, own, load


@device
def clamp(size):
    """Bytes of a copy that exist."""
    return min(max(size, np.int32(0)), np.int32(16))


def _make_parts(part_bytes):
    put, add = make_partials(FLOATS)

    @device
    def place(scratch, cut, parts, t):
        return (scratch + np.int64(cut * parts) * part_bytes
                + np.int64((t >> 7) * (128 * 4 * FLOATS) + (t & 127) * 16))

    @device
    def leave(acc, scratch, counters, cut, part, parts, t):
        """Leave a part's sums; returns whether all parts of the tile now lie there. The counter
        is left at zero, as it was found."""
        put(acc, place(scratch, cut, parts, t) + np.int64(part) * part_bytes)
        cuda.syncthreads()  # all of this part stands before its arrival is counted
        last = np.int32(0)
        if t == 0:
            counter = counters + np.int64(cut) * 4
            if np.int32(increment(counter)) == parts - 1:
                store_release(counter, np.uint32(0))
                last = np.int32(1)
        return cuda.syncthreads_or(last) != 0

    @device
    def gather(acc, scratch, cut, parts, t):
        """The sum of all parts, in their order."""
        source = place(scratch, cut, parts, t)
        for _ in range(parts):
            acc = add(acc, source)
            source += part_bytes
        return acc
    return leave, gather


def _make_writer(epilogue, f32):
    """write(acc, staging, lane, ...): a warp's 64 x 64 of C, 32 rows at a time.

    A lane owns `width` neighbouring columns, 16 bytes of C, in every `below`-th row.
    """
    put = make_staging(WARP, WARP)
    width, size = (4, 4) if f32 else (8, 2)  # elements of 16 bytes, bytes of one
    lanes = WARP // width  # that share a row
    below = 32 // lanes
    biased, adds, no_shift = epilogue == "bias", epilogue == "add", make_zeros(8)

    @device
    def whole_chunk(at, address, shift):
        values = vector.load_shared_f32x4(at)
        if f32:
            if adds:
                values = add_four(values, vector.load_f32x4(address))
            vector.store_f32x4(address, values)
        else:
            values = values + vector.load_shared_f32x4(np.uint32(at ^ 16))
            if biased:
                values = (add_four(values[:4], shift[:4]) + add_four(values[4:], shift[4:]))
            vector.store_bf16x8(address, values)

    @device
    def elements(at, address, bias, count):
        """The first `count` columns of a chunk at the right edge, or in lines that are no multiples
        of 16 bytes."""
        for e in range(count):
            value = load_shared_f32(np.uint32((at ^ ((e >> 2) << 4)) + ((e & 3) << 2)))
            if biased:
                value += load_bf16(bias + e * 2)
            if f32:
                if adds:
                    value += load_f32(address + e * 4)
                store_f32(address + e * 4, value)
            else:
                store_bf16(address + e * 2, value)

    @device
    def copy_out(staging, lane, c, bias, pitch, m, n, M, N, shift, aligned):
        """32 staged rows to row m and column n of C, the lane's first column."""
        count = min(np.int32(N - n), np.int32(width))
        chunk = lane % lanes * (width // 4)
        for i in range(32 // below):
            row = lane // lanes + i * below
            if m + row < M:
                at = np.uint32(staging + row * 256
                               + ((chunk ^ (chunk >> 3) ^ ((row & 3) << 1)) << 4))
                address = c + np.int64(m + row) * pitch + np.int64(n) * size
                if count == width and aligned:
                    whole_chunk(at, address, shift)
                else:
                    elements(at, address, bias, count)

    @device
    def write(acc, staging, lane, c, bias, pitch, m, n, M, N):
        g, q = lane >> 2, lane & 3
        mine = np.uint32(staging + g * 256 + (((q >> 1) ^ ((g & 3) << 1)) << 4) + ((q & 1) << 3))
        column = np.int32(n + lane % lanes * width)
        bias += np.int64(column) * 2
        shift = no_shift()
        if biased:
            shift = load_eight(bias, N - column)
        aligned = ((c | pitch) & 15) == 0
        put(acc, 0, mine)
        cuda.syncwarp()  # the rows stand
        copy_out(staging, lane, c, bias, pitch, m, column, M, N, shift, aligned)
        cuda.syncwarp()  # and have been read
        put(acc, 1, mine)
        cuda.syncwarp()
        copy_out(staging, lane, c, bias, pitch, m + 32, column, M, N, shift, aligned)
    return write


@device
def add_four(x, y):
    return x[0] + y[0], x[1] + y[1], x[2] + y[2], x[3] + y[3]


@device
def load_eight(address, count):
    """Eight bfloat16, widened; zero behind the first `count`."""
    return (_element(address, 0, count), _element(address, 1, count), _element(address, 2, count),
            _element(address, 3, count), _element(address, 4, count), _element(address, 5, count),
            _element(address, 6, count), _element(address, 7, count))


@device
def _element(address, e, count):
    value = np.float32(0.0)
    if e < count:
        value = load_bf16(address + e * 2)
    return value
