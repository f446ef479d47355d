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

from .wide import wide

TILE = 128  # query positions at a time


def attention_forward(o, lse, qkv):
    """Shapes:  o (B, T, H, D) out;  lse (B, H, T) f32 out;  qkv (B, T, H + 2 KVH, D)"""
    B, T, H, D = o.shape
    for b, group, q, k, v in _groups(qkv, H):
        for t in range(0, T, TILE):
            rows = slice(t, min(t + TILE, T))
            s = _scores(q[rows], k, rows)
            top = s.max(axis=1, keepdims=True)
            p = np.exp(np.subtract(s, top, out=s), out=s)
            total = p.sum(axis=1, keepdims=True)
            out = p @ v[:rows.stop]
            out /= total
            o[b, rows, group] = out.reshape(-1, q.shape[1], D)
            lse[b, group, rows] = (top + np.log(total)).reshape(-1, q.shape[1]).T


def attention_backward(dqkv, delta, do, qkv, o, lse):
    """Shapes:  dqkv (B, T, H + 2 KVH, D) out;  delta (B, H, T) f32 scratch;
                do, o (B, T, H, D);  qkv as forward;  lse (B, H, T) f32
    """
    B, T, H, D = o.shape
    scale = 1 / np.sqrt(D)
    delta[...] = np.einsum("bthd,bthd->bht", wide(do), wide(o))
    for b, group, q, k, v in _groups(qkv, H):
        kvh = group.start // q.shape[1]
        dk, dv = np.zeros_like(k), np.zeros_like(v)
        for t in range(0, T, TILE):
            rows = slice(t, min(t + TILE, T))
            dot = wide(do[b, rows, group]).reshape(-1, D)
            s = _scores(q[rows], k, rows)
            s -= _column(lse[b, group, rows])
            p = np.exp(s, out=s)
            dv[:rows.stop] += p.T @ dot
            ds = dot @ v[:rows.stop].T
            ds -= _column(delta[b, group, rows])
            ds *= p
            ds *= s.dtype.type(scale)
            dqkv[b, rows, group] = (ds @ k[:rows.stop]).reshape(-1, q.shape[1], D)
            dk[:rows.stop] += ds.T @ q[rows].reshape(-1, D)
        KVH = (qkv.shape[2] - H) // 2
        dqkv[b, :, H + kvh] = dk
        dqkv[b, :, H + KVH + kvh] = dv


def _groups(qkv, H):
    """For each sequence and key head: b, its query heads, q (T, G, D), k (T, D), v (T, D)."""
    B, _, N, _ = qkv.shape
    KVH = (N - H) // 2
    G = H // KVH
    for b in range(B):
        for h in range(KVH):
            group = slice(h * G, (h + 1) * G)
            yield (b, group, wide(qkv[b, :, group]), wide(qkv[b, :, H + h]),
                   wide(qkv[b, :, H + KVH + h]))


def _scores(q, k, rows):
    """Masked scores (len(rows) * G, rows.stop) of query positions `rows` against keys 0..stop-1."""
    n, G, D = q.shape
    s = (q * q.dtype.type(1 / np.sqrt(D))).reshape(-1, D) @ k[:rows.stop].T
    future = np.triu(np.ones((n, n), bool), 1)
    np.copyto(s.reshape(n, G, -1)[:, :, rows], -np.inf, where=future[:, None, :])
    return s


def _column(per_head):
    """(G, n) statistics as the (n * G, 1) column that matches the rows of _scores."""
    return per_head.T.reshape(-1, 1)
