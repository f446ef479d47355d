"""Causal grouped-query attention, a tile of query rows at a time.

    s[t,u]  = q[t] . k[u] / sqrt(D)     u <= t          Vaswani et al. 2017, eq. 1, causal
    p[t,u]  = exp(s[t,u] - lse[t])                      lse[t] = log sum_u exp s[t,u]
    o[t]    = sum_u p[t,u] v[u]
    dv[u]   = sum_t p[t,u] do[t]
    ds[t,u] = p[t,u] * (do[t] . v[u] - delta[t])        delta[t] = do[t] . o[t]
    dq[t]   = sum_u ds[t,u] k[u] / sqrt(D)              dk[u] = sum_t ds[t,u] q[t] / sqrt(D)

The backward pass recomputes p from the saved log-sum-exp (Dao et al. 2022, algorithm 4); no T x T
matrix exists, at most TILE rows of one. Query head h reads key/value head h // (H / KVH)
(Ainslie et al. 2023). q, k, v lie side by side: heads 0..H-1 of qkv are queries, the next KVH keys,
the last KVH values.
"""
import numpy as np

from .parallel import run_cuts
from .wide import wide

TILE = 64  # query positions at a time
TASK_BYTES = 1 << 18  # of scores that one thread works on: calls long enough to be worth a thread


def attention_forward(o, lse, qkv):
    """Shapes:  o (B, T, H, D) out;  lse (B, H, T) f32 out;  qkv (B, T, H + 2 KVH, D)"""
    KVH = _key_heads(o, qkv)
    q, k, v = _grouped(qkv, KVH)
    out, total = np.empty_like(q), np.empty(q.shape[:2], q.dtype)

    def task(groups):
        for t, rows in _tiles(k.shape[1], q.shape[1] // k.shape[1]):
            s = _scores(q[groups, rows], k[groups], t)
            top = s.max(axis=2, keepdims=True)
            p = np.exp(np.subtract(s, top, out=s), out=s)
            denominator = p.sum(axis=2, keepdims=True)
            out[groups, rows] = p @ v[groups, :t.stop] / denominator
            total[groups, rows] = (top + np.log(denominator))[:, :, 0]
    run_cuts(task, _tasks(q, k))
    o[...] = _ungrouped(out, o.shape)
    lse[...] = _ungrouped(total[:, :, None], (*o.shape[:3], 1))[..., 0].transpose(0, 2, 1)


def attention_backward(dqkv, delta, do, qkv, o, lse):
    """Shapes:  dqkv (B, T, H + 2 KVH, D) out;  delta (B, H, T) f32 scratch;
                do, o (B, T, H, D);  qkv as forward;  lse (B, H, T) f32
    """
    H, KVH = o.shape[2], _key_heads(o, qkv)
    q, k, v = _grouped(qkv, KVH)
    delta[...] = (wide(do) * wide(o)).sum(axis=3).transpose(0, 2, 1)
    dot = _group(do, KVH)
    lse_g, delta_g = (_group(x.transpose(0, 2, 1)[..., None], KVH) for x in (lse, delta))
    dq, dk, dv = np.empty_like(q), np.zeros_like(k), np.zeros_like(v)

    def task(groups):
        for t, rows in _tiles(k.shape[1], q.shape[1] // k.shape[1]):
            s = _scores(q[groups, rows], k[groups], t)
            s -= lse_g[groups, rows]
            p = np.exp(s, out=s)
            dv[groups, :t.stop] += p.swapaxes(1, 2) @ dot[groups, rows]
            ds = dot[groups, rows] @ v[groups, :t.stop].swapaxes(1, 2)
            ds -= delta_g[groups, rows]
            ds *= p
            dq[groups, rows] = ds @ k[groups, :t.stop]
            dk[groups, :t.stop] += ds.swapaxes(1, 2) @ q[groups, rows]  # q holds 1 / sqrt(D)
    run_cuts(task, _tasks(q, k))
    B, T, D = o.shape[0], o.shape[1], o.shape[3]
    dqkv[:, :, :H] = _ungrouped(dq, o.shape) * q.dtype.type(1 / np.sqrt(D))
    dqkv[:, :, H:H + KVH] = _ungrouped(dk, (B, T, KVH, D))
    dqkv[:, :, H + KVH:] = _ungrouped(dv, (B, T, KVH, D))


# A group is one sequence and one key head with its G query heads; groups share nothing. Row
# t * G + g of a group is its query head g at position t.

def _key_heads(o, qkv):
    return (qkv.shape[2] - o.shape[2]) // 2


def _grouped(qkv, KVH):
    """q / sqrt(D) (groups, T * G, D), k and v (groups, T, D), contiguous copies."""
    H = qkv.shape[2] - 2 * KVH
    q, k, v = (_group(qkv[:, :, part], KVH)
               for part in (slice(0, H), slice(H, H + KVH), slice(H + KVH, None)))
    return q * q.dtype.type(1 / np.sqrt(q.shape[2])), k, v


def _group(x, KVH):
    """(B, T, heads, n) -> (B * KVH, T * heads / KVH, n)"""
    B, T, heads, n = x.shape
    x = wide(x).reshape(B, T, KVH, heads // KVH, n).swapaxes(1, 2)
    return x.reshape(B * KVH, T * (heads // KVH), n)


def _ungrouped(x, shape):
    """The way back: (B * KVH, T * G, n) -> shape (B, T, heads, n)"""
    B, T, heads, n = shape
    KVH = len(x) // B
    return x.reshape(B, KVH, T, heads // KVH, n).swapaxes(1, 2).reshape(shape)


def _tiles(T, G):
    """Slices of positions and of the rows of a group that belong to them."""
    for start in range(0, T, TILE):
        stop = min(start + TILE, T)
        yield slice(start, stop), slice(start * G, stop * G)


def _tasks(q, k):
    """Groups that one thread takes at a time."""
    score_bytes = TILE * (q.shape[1] // k.shape[1]) * k.shape[1] * q.itemsize
    step = max(1, TASK_BYTES // score_bytes)
    return [slice(at, min(at + step, len(q))) for at in range(0, len(q), step)]


def _scores(q, k, t):
    """Masked scores (groups, len(t) * G, t.stop) of the queries of positions t."""
    n = t.stop - t.start
    s = q @ k[:, :t.stop].swapaxes(1, 2)
    future = np.triu(np.ones((n, n), bool), 1)
    own = s.reshape(len(s), n, -1, t.stop)[..., t.start:]
    np.copyto(own, -np.inf, where=future[:, None, :])
    return s
