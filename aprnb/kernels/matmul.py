"""Matrix products on shared-memory tiles with register micro-tiles: out (+)= A B (+ bias).

    layout   A(m,k)     B(k,n)     serves
    "nt"     a[m,k]     b[n,k]     y  = x @ w.T + bias
    "nn"     a[m,k]     b[k,n]     dx = dy @ w
    "tn"     a[k,m]     b[k,n]     dw (+)= dy.T @ x

A block computes one TILE x TILE square of out, SIDE x SIDE threads hold PER x PER sums each. It
walks over k in slices of DEPTH: while the slice in shared memory is multiplied, the next one is on
its way from global memory into registers. Slices lie as [k][row], so that a thread reads four
neighbours in one load; the row is padded by four floats against bank conflicts. Every size of M, N
and K works: what lies outside is read as zero and not written. Sums run over ascending k in
float32, whatever the tile; indices are 64-bit.
"""
from .cast import narrow, widen
from .cuda import ALIGNMENT, cuda, device, float32, kernel
from .shapes import ceil_div

PAD = 4  # floats
ENOUGH_BLOCKS = 128  # about one for each multiprocessor of a large GPU
# (TILE, PER, DEPTH), registers, blocks a multiprocessor: the first that gives ENOUGH_BLOCKS is used
TILES = (((128, 8, 8), 128, 2), ((64, 4, 16), 80, 3), ((32, 4, 16), 128, 8))
TRANSPOSED = {"nt": (False, True), "nn": (False, False), "tn": (True, False)}


def _loader(tile, depth, threads, along_k):
    """Device functions that move a (depth, tile) slice: global memory -> registers -> shared."""
    loads = tile * depth // threads
    step = threads // (depth if along_k else tile)  # distance of a thread's elements

    @device
    def fetch(stage, x, row0, k0, rows, K, t):
        # neighbours in t are neighbours in memory; a row beyond the last reads the last one
        # again (its sums are not written), a k beyond the last must be zero
        for i in range(loads):
            if along_k:
                k, row = k0 + t % depth, min(row0 + t // depth + i * step, rows - 1)
            else:
                k, row = k0 + t // tile + i * step, min(row0 + t % tile, rows - 1)
            stage[i] = float32(0.0)
            if k < K:
                stage[i] = widen(x[row, k]) if along_k else widen(x[k, row])

    @device
    def store(shared, stage, t):
        for i in range(loads):
            if along_k:
                shared[t % depth, t // depth + i * step] = stage[i]
            else:
                shared[t // tile + i * step, t % tile] = stage[i]
    return fetch, store


def _make_matmul_kernel(layout, epilogue, sizes, registers, blocks):
    """The kernel of one layout, tile and epilogue."""
    tile, per, depth = sizes
    side = tile // per
    threads = side * side
    a_transposed, b_transposed = TRANSPOSED[layout]
    biased, adds = epilogue == "bias", epilogue == "add"
    fetch_a, store_a = _loader(tile, depth, threads, not a_transposed)
    fetch_b, store_b = _loader(tile, depth, threads, b_transposed)
    slice_shape, loads = (depth, tile + PAD), tile * depth // threads
    square = (per, per)
    group = 4 * side  # a thread's rows and columns come in groups of four, `group` apart

    @kernel(*SIGNATURES[layout, epilogue], registers=registers, threads=threads, blocks=blocks,
            name=f"matmul_{layout}_{epilogue}_{tile}")
    def matmul_kernel(out, a, b, bias):
        """Thread (tx, ty) owns rows 4*ty + group*(i//4) + i%4 of the square, columns alike."""
        M, N = out.shape
        K = a.shape[0] if a_transposed else a.shape[1]
        shared_a = cuda.shared.array(slice_shape, float32, alignment=ALIGNMENT)
        shared_b = cuda.shared.array(slice_shape, float32, alignment=ALIGNMENT)
        sums = cuda.local.array(square, float32)
        left = cuda.local.array(per, float32)
        right = cuda.local.array(per, float32)
        stage_a = cuda.local.array(loads, float32)
        stage_b = cuda.local.array(loads, float32)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        t = ty * side + tx
        tiles_n = (N + tile - 1) // tile
        m0, n0 = cuda.blockIdx.x // tiles_n * tile, cuda.blockIdx.x % tiles_n * tile

        for i in range(per):
            for j in range(per):
                sums[i, j] = float32(0.0)
        fetch_a(stage_a, a, m0, 0, M, K, t)
        fetch_b(stage_b, b, n0, 0, N, K, t)
        for k0 in range(0, K, depth):
            store_a(shared_a, stage_a, t)
            store_b(shared_b, stage_b, t)
            cuda.syncthreads()  # both slices stand before anyone multiplies
            fetch_a(stage_a, a, m0, k0 + depth, M, K, t)
            fetch_b(stage_b, b, n0, k0 + depth, N, K, t)
            for k in range(depth):
                for i in range(per):
                    left[i] = shared_a[k, 4 * ty + group * (i // 4) + i % 4]
                for j in range(per):
                    right[j] = shared_b[k, 4 * tx + group * (j // 4) + j % 4]
                for i in range(per):
                    for j in range(per):
                        sums[i, j] += left[i] * right[j]
            cuda.syncthreads()  # everyone is done with the slices before they are overwritten

        for i in range(per):
            m = m0 + 4 * ty + group * (i // 4) + i % 4
            if m < M:
                for j in range(per):
                    n = n0 + 4 * tx + group * (j // 4) + j % 4
                    if n < N:
                        v = sums[i, j]
                        if biased:
                            v += widen(bias[n])
                        if adds:
                            v += out[m, n]
                        out[m, n] = narrow(out, v)
    return matmul_kernel


# (layout, epilogue) -> argument types out, a, b, bias; without a bias b stands in its place
SIGNATURES = {
    ("nt", "plain"): ("s2 s2 s2 s2", "f2 h2 h2 h2"),
    ("nt", "bias"): ("s2 s2 s2 s1",),
    ("nn", "plain"): ("s2 s2 s2 s2", "h2 f2 h2 h2"),
    ("tn", "plain"): ("f2 s2 s2 s2", "f2 f2 h2 h2"),
    ("tn", "add"): ("f2 s2 s2 s2", "f2 f2 h2 h2"),
}
KERNELS = {(*form, sizes[0]): _make_matmul_kernel(*form, sizes, registers, blocks)
           for sizes, registers, blocks in TILES for form in SIGNATURES}


def matmul(layout, epilogue, out, a, b, bias, stream):
    """out = A B ("plain"), A B + bias of every column ("bias") or out + A B ("add").

    Shapes:  out (M, N);  a, b as the layout says;  bias (N,), or None. The caller checks them.
    """
    M, N = out.shape
    for (tile, per, _), _, _ in TILES:
        tiles = ceil_div(N, tile) * ceil_div(M, tile)
        if tiles >= ENOUGH_BLOCKS:
            break
    KERNELS[layout, epilogue, tile][tiles, (tile // per, tile // per), stream](
        out, a, b, b if bias is None else bias)
