"""Grouped-query causal attention: oracle gradients, meaning, kernels against the oracle."""
import numpy as np
import pytest

from aprnb.errors import ShapeError
from aprnb.oracle.attention import attention_backward, attention_forward
from judge import DTYPES, assert_gradient, blank, judge, lanes, normal, run_kernel
from tolerance import F32, FUNCTION, allowed, gamma

pytestmark = pytest.mark.numeric

# (B, T, H, KVH, D): one element, every class of head dimension, around the tile edges of 32, 16, 8
SHAPES = lanes([(1, 1, 1, 1, 2), (2, 5, 4, 2, 8), (1, 33, 2, 1, 4), (1, 7, 1, 1, 32),
                (1, 17, 1, 1, 128), (1, 9, 1, 1, 256), (1, 3, 2, 1, 134)],
               [(1, 31, 2, 1, 6), (1, 32, 14, 2, 64), (3, 127, 3, 1, 66), (1, 65, 6, 3, 128),
                (2, 67, 4, 2, 256), (1, 512, 14, 2, 64)])


def packed(shape, dtype, scale=1.0):
    B, T, H, KVH, D = shape
    return normal(0, (B, T, H + 2 * KVH, D), dtype, scale)


def forward(qkv, H, kernel=False):
    B, T, _, D = qkv.shape
    o, lse = blank((B, T, H, D), qkv.dtype), blank((B, H, T), np.promote_types(F32, qkv.dtype))
    if kernel:
        got = run_kernel("attention", "attention_forward", {"o": o, "lse": lse, "qkv": qkv})
        return got["o"], got["lse"]
    attention_forward(o, lse, qkv)
    return o, lse


def naive(qkv, H):
    """softmax(mask(q k / sqrt(D))) v by the book, query head h with key head h // (H / KVH)."""
    KVH, D = (qkv.shape[2] - H) // 2, qkv.shape[3]
    T, o = qkv.shape[1], np.empty((qkv.shape[0], qkv.shape[1], H, qkv.shape[3]))
    for b in range(len(qkv)):
        for h in range(H):
            key = H + h // (H // KVH)
            s = qkv[b, :, h] @ qkv[b, :, key].T / np.sqrt(D)
            s[np.triu_indices(T, 1)] = -np.inf
            p = np.exp(s - s.max(axis=1, keepdims=True))
            o[b, :, h] = p / p.sum(axis=1, keepdims=True) @ qkv[b, :, key + KVH]
    return o


@pytest.mark.parametrize("shape", [(2, 9, 4, 2, 6), (1, 131, 14, 2, 4), (1, 5, 3, 3, 2)])
def test_oracle_against_the_definition(shape):
    qkv, (_, T, H, _, D) = packed(shape, np.float64), shape
    largest = np.abs(qkv).max()
    score = largest ** 2 * np.sqrt(D)  # what a score is rounded at; exp makes that a relative error
    np.testing.assert_allclose(forward(qkv, H)[0], naive(qkv, H), rtol=0,
                               atol=2 * gamma(T + D + 2 * FUNCTION) * (1 + score) * largest)


def test_large_scores_in_the_oracle():
    """Scores of hundreds, beyond the range of exp: the largest is taken off first."""
    qkv = packed((1, 70, 2, 1, 4), F32, 12.0)
    truth, peer = naive(qkv.astype(np.float64), 2), naive(qkv, 2)
    np.testing.assert_allclose(forward(qkv, 2)[0], truth, rtol=0,
                               atol=allowed(np.abs(peer - truth).max(), np.abs(qkv).max()))


def test_gradients_against_central_differences():
    shape = (2, 7, 4, 2, 6)
    qkv, do = packed(shape, np.float64), normal(1, (2, 7, 4, 6), np.float64)
    o, lse = forward(qkv, 4)
    dqkv, delta = np.empty_like(qkv), np.empty_like(lse)
    attention_backward(dqkv, delta, do, qkv, o, lse)
    assert_gradient("dqkv", lambda: forward(qkv, 4)[0] * do, qkv, dqkv)


def check_future(shape, kernel):
    """A changed token leaves everything before it bit for bit."""
    H, at = shape[2], shape[1] // 2
    qkv = packed(shape, F32)
    before = forward(qkv, H, kernel)
    qkv[:, at:] += 3
    after = forward(qkv, H, kernel)
    assert before[0][:, :at].tobytes() == after[0][:, :at].tobytes()
    assert before[1][:, :, :at].tobytes() == after[1][:, :, :at].tobytes()
    assert (before[0][:, at:] != after[0][:, at:]).any()


def test_the_oracle_does_not_see_the_future():
    check_future((1, 150, 2, 1, 8), kernel=False)


@lanes([(1, 34, 2, 1, 4)], [(2, 300, 14, 2, 64)])
def test_the_kernel_does_not_see_the_future(shape):
    check_future(shape, kernel=True)


def check_head_mapping(shape, kernel):
    """Key head 1 changed: of 14 query heads on 2 key heads, the last seven change."""
    H, KVH = shape[2:4]
    qkv = packed(shape, F32)
    before = forward(qkv, H, kernel)[0]
    qkv[:, :, H + 1] *= -1
    changed = (before != forward(qkv, H, kernel)[0]).any(axis=(0, 1, 3))
    assert changed.tolist() == [h // (H // KVH) == 1 for h in range(H)]


def test_head_mapping_of_the_oracle():
    check_head_mapping((1, 5, 14, 2, 4), kernel=False)


@lanes([(1, 3, 14, 2, 2)], [(1, 70, 14, 2, 64)])
def test_head_mapping_of_the_kernel(shape):
    check_head_mapping(shape, kernel=True)


def products(a, b):
    """a @ b.T in float32. Of more than 128 terms in the kernels' order, one after the other: the
    oracle's product sums such rows in blocks, and rounds less."""
    if a.shape[1] <= 128:
        return a @ b.T
    return np.cumsum(a[:, None] * b[None], axis=2, dtype=F32)[..., -1]


def forward_one_by_one(qkv, H):
    """(o, lse) in float32, with the scores' sums as in the kernels."""
    B, T, heads, D = qkv.shape
    KVH, root = (heads - H) // 2, F32.type(D ** -0.5)
    o, lse, x = np.empty((B, T, H, D), F32), np.empty((B, H, T), F32), qkv.astype(F32)
    for b, h in np.ndindex(B, H):
        key = H + h // (H // KVH)
        s = products(x[b, :, h], x[b, :, key]) * root
        s[np.triu_indices(T, 1)] = -np.inf
        top = s.max(axis=1, keepdims=True)
        p = np.exp(s - top)
        total = p.sum(axis=1, keepdims=True)
        o[b, :, h], lse[b, h] = p @ x[b, :, key + KVH] / total, (top + np.log(total))[:, 0]
    return o, lse


@SHAPES
@DTYPES
def test_forward(shape, dtype):
    B, T, H, _, D = shape
    qkv, peer = packed(shape, dtype), None
    if D > 128:
        o, lse = forward_one_by_one(qkv, H)
        peer = {"o": o.astype(dtype), "lse": lse}
    judge("attention", "attention_forward", {
        "o": blank((B, T, H, D), dtype), "lse": blank((B, H, T), F32), "qkv": qkv},
        ("o", "lse"), peer=peer)


@lanes([], [(70_000, 1, 2, 1, 2)])
def test_more_sequences_than_the_second_dimension_of_a_grid(shape):
    B, T, H, _, D = shape
    judge("attention", "attention_forward", {
        "o": blank((B, T, H, D), F32), "lse": blank((B, H, T), F32),
        "qkv": packed(shape, F32)}, ("o", "lse"))


@lanes([(1, 33, 2, 1, 4)], [(1, 129, 14, 2, 64)])
def test_forward_of_large_scores(shape):
    """Scores beyond the range of exp: the running maximum has to be taken off first."""
    B, T, H, _, D = shape
    judge("attention", "attention_forward", {
        "o": blank((B, T, H, D), F32), "lse": blank((B, H, T), F32),
        "qkv": packed(shape, F32, 12.0)}, ("o", "lse"))


def one_by_one(do, qkv, o, lse):
    """dqkv in float32, every sum taken term after term as in the kernels: a key's gradient has
    G * T of them, which NumPy's product would sum in blocks."""
    do, qkv, o = (x.astype(F32) for x in (do, qkv, o))
    T, H, D = o.shape[1:]
    KVH, dqkv, root = (qkv.shape[2] - H) // 2, np.zeros_like(qkv), F32.type(D ** -0.5)
    for b, h in np.ndindex(len(o), H):
        key = H + h // (H // KVH)
        q, k, v, dout = qkv[b, :, h], qkv[b, :, key], qkv[b, :, key + KVH], do[b, :, h]
        p = np.tril(np.exp(np.tril(products(q, k) * root - lse[b, h, :, None])))
        ds = p * (products(dout, v) - (dout * o[b, :, h]).sum(axis=1)[:, None])
        for t in range(T):
            dqkv[b, :, h] += np.outer(ds[:, t], k[t])
            dqkv[b, :, key] += np.outer(ds[t], q[t])
            dqkv[b, :, key + KVH] += np.outer(p[t], dout[t])
    dqkv[:, :, :H + KVH] *= root
    return dqkv


@SHAPES
@DTYPES
def test_backward(shape, dtype):
    B, T, H, _, D = shape
    qkv = packed(shape, dtype)
    o, lse = forward(qkv, H)
    do = normal(1, o.shape, dtype)
    own = one_by_one(do, qkv, o, lse).astype(dtype)
    cancelling = np.abs(do.astype(F32) * o.astype(F32)).sum(axis=3)
    judge("attention", "attention_backward", {
        "dqkv": blank(qkv.shape, dtype), "delta": blank(lse.shape, F32), "do": do, "qkv": qkv,
        "o": o, "lse": lse}, ("dqkv", "delta"), peer={"dqkv": own},
        scales={"delta": float(cancelling.max())})


@lanes([(1, 3, 2, 1, 4)])
@pytest.mark.parametrize("H, heads, D, message", [
    (3, 7, 4, "do not hold 3 query heads"), (2, 3, 4, "do not hold 2 query heads"),
    (2, 4, 258, "head dimension 258 exceeds 256")])
def test_heads_that_do_not_fit(shape, H, heads, D, message):
    arguments = {"o": blank((1, 3, H, D), F32), "lse": blank((1, H, 3), F32),
                 "qkv": normal(0, (1, 3, heads, D), F32)}
    with pytest.raises(ShapeError, match=message):
        run_kernel("attention", "attention_forward", arguments)
