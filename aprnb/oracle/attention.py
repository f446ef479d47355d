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


def attention_forward(o, lse, qkv):
    """Shapes:  o (B, T, H, D) out;  lse (B, H, T) f32 out;  qkv (B, T, H + 2 KVH, D)"""
    run_cuts(lambda group: _group_forward(o, lse, qkv, *group), _groups(o, qkv))


def attention_backward(dqkv, delta, do, qkv, o, lse):
    """Shapes:  dqkv (B, T, H + 2 KVH, D) out;  delta (B, H, T) f32 scratch;
                do, o (B, T, H, D);  qkv as forward;  lse (B, H, T) f32
    """
    run_cuts(lambda group: _group_backward(dqkv, delta, do, qkv, o, lse, *group), _groups(o, qkv))


def _groups(o, qkv):
    """(sequence, key head) pairs: the query heads of one share its keys and nothing else."""
    KVH = (qkv.shape[2] - o.shape[2]) // 2
    return [(b, h) for b in range(len(o)) for h in range(KVH)]


def _group_forward(o, lse, qkv, b, h):
    T, D = o.shape[1], o.shape[3]
    heads, q, k, v, *_ = _operands(o, qkv, b, h)
    for rows in _tiles(T):
        s = _scores(q[rows], k, rows)
        top = s.max(axis=1, keepdims=True)
        p = np.exp(np.subtract(s, top, out=s), out=s)
        total = p.sum(axis=1, keepdims=True)
        out = p @ v[:rows.stop]
        out /= total
        o[b, rows, heads] = out.reshape(-1, q.shape[1], D)
        lse[b, heads, rows] = (top + np.log(total)).reshape(-1, q.shape[1]).T


def _group_backward(dqkv, delta, do, qkv, o, lse, b, h):
    T, D = o.shape[1], o.shape[3]
    heads, q, k, v, key, value = _operands(o, qkv, b, h)
    delta[b, heads] = (wide(do[b, :, heads]) * wide(o[b, :, heads])).sum(axis=2).T
    dk, dv = np.zeros_like(k), np.zeros_like(v)
    for rows in _tiles(T):
        dot = wide(do[b, rows, heads]).reshape(-1, D)
        s = _scores(q[rows], k, rows)
        s -= _column(lse[b, heads, rows])
        p = np.exp(s, out=s)
        dv[:rows.stop] += p.T @ dot
        ds = dot @ v[:rows.stop].T
        ds -= _column(delta[b, heads, rows])
        ds *= p
        ds *= k.dtype.type(1 / np.sqrt(D))
        dqkv[b, rows, heads] = (ds @ k[:rows.stop]).reshape(-1, q.shape[1], D)
        dk[:rows.stop] += ds.T @ q[rows].reshape(-1, D)
    dqkv[b, :, key] = dk
    dqkv[b, :, value] = dv


def _operands(o, qkv, b, h):
    """Query heads of key head h, q (T, G, D), k (T, D), v (T, D), and where k and v stand."""
    H = o.shape[2]
    KVH = (qkv.shape[2] - H) // 2
    G = H // KVH
    heads, key, value = slice(h * G, (h + 1) * G), H + h, H + KVH + h
    return heads, *(wide(qkv[b, :, part]) for part in (heads, key, value)), key, value


def _tiles(T):
    for start in range(0, T, TILE):
        yield slice(start, min(start + TILE, T))


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
