"""Causal grouped-query attention by tiles; no T x T matrix exists.

    s[t,u]  = q[t] . k[u] / sqrt(D)     u <= t          Vaswani et al. 2017, eq. 1, causal
    p[t,u]  = exp(s[t,u] - lse[t])                      lse[t] = log sum_u exp s[t,u]
    o[t]    = sum_u p[t,u] v[u]
    dv[u]   = sum_t p[t,u] do[t]
    ds[t,u] = p[t,u] * (do[t] . v[u] - delta[t])        delta[t] = do[t] . o[t]
    dq[t]   = sum_u ds[t,u] k[u] / sqrt(D)              dk[u] = sum_t ds[t,u] q[t] / sqrt(D)

Forward: a block keeps a tile of queries and walks over the keys before them with a running maximum
and sum (Dao et al. 2022, algorithm 1). Backward recomputes p from the saved log-sum-exp: one kernel
keeps queries and sums dq, one keeps keys and sums dk and dv over all query heads that share them,
so every element is written by one block, in a fixed order, without atomics. Query head h reads
key/value head h // (H / KVH) (Ainslie et al. 2023). q, k, v lie side by side: heads 0..H-1 of qkv
are queries, the next KVH keys, the last KVH values. Head dimension: any up to 256. Storage
bfloat16 or float32, arithmetic float32.
"""
import math

import numpy as np

from ..errors import ShapeError
from .attention_tiles import FORMS, SIDE, THREADS, tile_functions, work_of
from .block import threads_for
from .cast import narrow, widen
from .cuda import ALIGNMENT, cuda, float32, kernel
from .shapes import MOST_BLOCKS, ceil_div, expect, key_heads


def _make_forward_kernel(form):
    tile, per, columns = form.tile, form.per, form.columns
    rows_shape, square_shape, partial_shape = form.rows_shape, form.square_shape, (tile, SIDE + 1)
    scores_shape, sums_shape = (per, per), (per, columns)
    load, dots, accumulate, column = tile_functions(form)

    @kernel("s4 f3 s4 f", registers=form.registers[0], threads=THREADS,
            name=f"attention_forward_{form.width}")
    def attention_forward_kernel(o, lse, qkv, scale):
        """One block per (query tile, head, sequence). Thread (tx, ty) owns query rows
        per*ty + i, in the scores keys tx + SIDE*j, in the output columns column(tx, c)."""
        q = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        k = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        v = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        p_shared = cuda.shared.array(square_shape, float32, alignment=ALIGNMENT)
        partial = cuda.shared.array(partial_shape, float32)
        s = cuda.local.array(scores_shape, float32)
        sums = cuda.local.array(sums_shape, float32)
        top = cuda.local.array(per, float32)
        total = cuda.local.array(per, float32)
        T, H, D = o.shape[1], o.shape[2], o.shape[3]
        KVH = (qkv.shape[2] - H) // 2
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        tiles = (T + tile - 1) // tile
        from_last, h, b = work_of(cuda.blockIdx.x, tiles, H)
        key = H + h // (H // KVH)
        t0 = (tiles - 1 - from_last) * tile  # the longest walks start first

        for i in range(per):
            top[i] = float32(-math.inf)
            total[i] = float32(0.0)
            for c in range(columns):
                sums[i, c] = float32(0.0)
        load(q, qkv, b, t0, h)
        for u0 in range(0, min(t0 + tile, T), tile):
            load(k, qkv, b, u0, key)
            load(v, qkv, b, u0, key + KVH)
            cuda.syncthreads()  # q, k, v stand before anyone multiplies
            dots(s, q, k, D)
            for i in range(per):
                t = t0 + per * ty + i
                largest = float32(-math.inf)
                for j in range(per):
                    s[i, j] = s[i, j] * scale if u0 + tx + SIDE * j <= t else float32(-math.inf)
                    largest = max(largest, s[i, j])
                partial[per * ty + i, tx] = largest
            cuda.syncthreads()  # the maxima of all eight threads of a row stand
            for i in range(per):
                old = top[i]
                for x in range(SIDE):
                    top[i] = max(top[i], partial[per * ty + i, x])
                # finite: every row sees key 0 in its first tile
                shrink = float32(math.exp(old - top[i]))
                total[i] *= shrink
                for c in range(columns):
                    sums[i, c] *= shrink
                for j in range(per):
                    p = float32(math.exp(s[i, j] - top[i]))
                    total[i] += p
                    p_shared[tx + SIDE * j, per * ty + i] = p
            cuda.syncthreads()  # p stands before anyone sums over keys
            accumulate(sums, p_shared, v)
            cuda.syncthreads()  # k, v, p and the maxima are read before they are overwritten

        for i in range(per):
            partial[per * ty + i, tx] = total[i]
        cuda.syncthreads()  # the sums of all eight threads of a row stand
        for i in range(per):
            t = t0 + per * ty + i
            row_sum = float32(0.0)
            for x in range(SIDE):
                row_sum += partial[per * ty + i, x]
            if t < T:
                if tx == 0:
                    lse[b, h, t] = top[i] + float32(math.log(row_sum))
                for c in range(columns):
                    d = column(tx, c)
                    if d < D:
                        o[b, t, h, d] = narrow(o, sums[i, c] / row_sum)
    return attention_forward_kernel


@kernel("f3 s4 s4", registers=64, threads=256)
def delta_kernel(delta, do, o):
    """One block per position of a sequence; a thread owns every blockDim-th head."""
    b, t = cuda.blockIdx.x // o.shape[1], cuda.blockIdx.x % o.shape[1]
    for h in range(cuda.threadIdx.x, o.shape[2], cuda.blockDim.x):
        total = float32(0.0)
        for d in range(o.shape[3]):
            total += widen(do[b, t, h, d]) * widen(o[b, t, h, d])
        delta[b, h, t] = total


def _make_query_gradient_kernel(form):
    tile, per, columns = form.tile, form.per, form.columns
    rows_shape, square_shape = form.rows_shape, form.square_shape
    scores_shape, sums_shape = (per, per), (per, columns)
    load, dots, accumulate, column = tile_functions(form)

    @kernel("s4 f3 s4 s4 f3 f", registers=form.registers[1], threads=THREADS,
            name=f"attention_query_gradient_{form.width}")
    def query_gradient_kernel(dqkv, delta, do, qkv, lse, scale):
        """One block per (query tile, head, sequence); threads own what they own in forward."""
        q = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        k = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        v = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        dout = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        ds = cuda.shared.array(square_shape, float32, alignment=ALIGNMENT)
        s = cuda.local.array(scores_shape, float32)
        dp = cuda.local.array(scores_shape, float32)
        sums = cuda.local.array(sums_shape, float32)
        T, H, D = do.shape[1], do.shape[2], do.shape[3]
        KVH = (qkv.shape[2] - H) // 2
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        tiles = (T + tile - 1) // tile
        from_last, h, b = work_of(cuda.blockIdx.x, tiles, H)
        key = H + h // (H // KVH)
        t0 = (tiles - 1 - from_last) * tile  # the longest walks start first

        for i in range(per):
            for c in range(columns):
                sums[i, c] = float32(0.0)
        load(q, qkv, b, t0, h)
        load(dout, do, b, t0, h)
        for u0 in range(0, min(t0 + tile, T), tile):
            load(k, qkv, b, u0, key)
            load(v, qkv, b, u0, key + KVH)
            cuda.syncthreads()  # all four tiles stand before anyone multiplies
            dots(s, q, k, D)
            dots(dp, dout, v, D)
            for i in range(per):
                t = min(t0 + per * ty + i, T - 1)  # rows beyond the last are not written
                for j in range(per):
                    slope = float32(0.0)
                    if u0 + tx + SIDE * j <= t:
                        p = float32(math.exp(s[i, j] * scale - lse[b, h, t]))
                        slope = p * (dp[i, j] - delta[b, h, t])
                    ds[tx + SIDE * j, per * ty + i] = slope
            cuda.syncthreads()  # ds stands before anyone sums over keys
            accumulate(sums, ds, k)
            cuda.syncthreads()  # k, v and ds are read before they are overwritten

        for i in range(per):
            t = t0 + per * ty + i
            if t < T:
                for c in range(columns):
                    d = column(tx, c)
                    if d < D:
                        dqkv[b, t, h, d] = narrow(dqkv, sums[i, c] * scale)
    return query_gradient_kernel


def _make_key_gradient_kernel(form):
    tile, per, columns = form.tile, form.per, form.columns
    rows_shape, square_shape = form.rows_shape, form.square_shape
    scores_shape, sums_shape = (per, per), (per, columns)
    load, dots, accumulate, column = tile_functions(form)

    @kernel("s4 f3 s4 s4 f3 f", registers=form.registers[2], threads=THREADS,
            name=f"attention_key_gradient_{form.width}")
    def key_gradient_kernel(dqkv, delta, do, qkv, lse, scale):
        """One block per (key tile, key head, sequence). Thread (tx, ty) owns keys per*ty + i, in
        the scores queries tx + SIDE*j, in the gradients columns column(tx, c)."""
        q = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        k = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        v = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        dout = cuda.shared.array(rows_shape, float32, alignment=ALIGNMENT)
        p_shared = cuda.shared.array(square_shape, float32, alignment=ALIGNMENT)
        ds = cuda.shared.array(square_shape, float32, alignment=ALIGNMENT)
        s = cuda.local.array(scores_shape, float32)
        dp = cuda.local.array(scores_shape, float32)
        dk = cuda.local.array(sums_shape, float32)
        dv = cuda.local.array(sums_shape, float32)
        T, H, D = do.shape[1], do.shape[2], do.shape[3]
        KVH = (qkv.shape[2] - H) // 2
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        first, kvh, b = work_of(cuda.blockIdx.x, (T + tile - 1) // tile, KVH)
        u0 = first * tile

        for i in range(per):
            for c in range(columns):
                dk[i, c] = float32(0.0)
                dv[i, c] = float32(0.0)
        load(k, qkv, b, u0, H + kvh)
        load(v, qkv, b, u0, H + KVH + kvh)
        for h in range(kvh * (H // KVH), (kvh + 1) * (H // KVH)):
            for t0 in range(u0, T, tile):
                load(q, qkv, b, t0, h)
                load(dout, do, b, t0, h)
                cuda.syncthreads()  # all four tiles stand before anyone multiplies
                dots(s, k, q, D)
                dots(dp, v, dout, D)
                for j in range(per):
                    t = t0 + tx + SIDE * j
                    for i in range(per):
                        p = float32(0.0)
                        slope = float32(0.0)
                        if u0 + per * ty + i <= t and t < T:
                            p = float32(math.exp(s[i, j] * scale - lse[b, h, t]))
                            slope = p * (dp[i, j] - delta[b, h, t])
                        p_shared[tx + SIDE * j, per * ty + i] = p
                        ds[tx + SIDE * j, per * ty + i] = slope
                cuda.syncthreads()  # p and ds stand before anyone sums over queries
                accumulate(dv, p_shared, dout)
                accumulate(dk, ds, q)
                cuda.syncthreads()  # q, do, p and ds are read before they are overwritten

        for i in range(per):
            u = u0 + per * ty + i
            if u < T:
                for c in range(columns):
                    d = column(tx, c)
                    if d < D:
                        dqkv[b, u, H + kvh, d] = narrow(dqkv, dk[i, c] * scale)
                        dqkv[b, u, H + KVH + kvh, d] = narrow(dqkv, dv[i, c])
    return key_gradient_kernel


KERNELS = tuple((form, _make_forward_kernel(form), _make_query_gradient_kernel(form),
                 _make_key_gradient_kernel(form)) for form in FORMS)
WIDEST = FORMS[-1].width


def attention_forward(o, lse, qkv, stream):
    """Shapes:  o (B, T, H, D) out;  lse (B, H, T) f32 out;  qkv (B, T, H + 2 KVH, D)

    Errors:  ShapeError if the heads do not group or D exceeds 256.
    """
    B, T, H, D = o.shape
    KVH = key_heads("attention_forward", o, qkv)
    expect("attention_forward", lse=(lse, (B, H, T)), qkv=(qkv, (B, T, H + 2 * KVH, D)))
    form, forward, _, _ = _kernels("attention_forward", D)
    forward[ceil_div(T, form.tile) * H * B, (SIDE, SIDE), stream](
        o, lse, qkv, np.float32(D ** -0.5))


def attention_backward(dqkv, delta, do, qkv, o, lse, stream):
    """Shapes:  dqkv (B, T, H + 2 KVH, D) out;  delta (B, H, T) f32 scratch;
                do, o (B, T, H, D);  qkv as forward;  lse (B, H, T) f32

    Errors:  ShapeError if the heads do not group or D exceeds 256.
    """
    B, T, H, D = o.shape
    KVH = key_heads("attention_backward", o, qkv)
    packed, rows = (B, T, H + 2 * KVH, D), (B, H, T)
    expect("attention_backward", dqkv=(dqkv, packed), delta=(delta, rows), do=(do, o.shape),
           qkv=(qkv, packed), lse=(lse, rows))
    form, _, query_gradient, key_gradient = _kernels("attention_backward", D)
    tiles, block, scale = ceil_div(T, form.tile), (SIDE, SIDE), np.float32(D ** -0.5)
    delta_kernel[T * B, threads_for(H), stream](delta, do, o)
    query_gradient[tiles * H * B, block, stream](dqkv, delta, do, qkv, lse, scale)
    key_gradient[tiles * KVH * B, block, stream](dqkv, delta, do, qkv, lse, scale)


def misfit(*arguments):
    """Why an op cannot be served with these arguments, or None."""
    B, T, H, D = arguments[0 if len(arguments) == 3 else 2].shape  # of o, of do
    if D > WIDEST:
        return f"head_dim {D}, the kernels hold {WIDEST} at most"
    blocks = ceil_div(T, _kernels("attention", D)[0].tile) * H * B
    return None if blocks <= MOST_BLOCKS else f"{blocks:,} tiles, a grid holds {MOST_BLOCKS:,}"


def _kernels(op, D):
    for row in KERNELS:
        if D <= row[0].width:
            return row
    raise ShapeError(f"{op}: head dimension {D} exceeds {WIDEST}")
