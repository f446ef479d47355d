"""Attention on Hopper's tensor cores: ragged lengths, every head mapping, no look at the future.

p and ds are rounded to bfloat16 before they are multiplied, which the oracle does not do: up and
down alike, so that sums of them stay within the error of storing the result. What the tensor cores
cut is allowed, and to lse the approximate exp2 and log2.
"""
import numpy as np
import pytest

from judge import blank, judge, normal, run_kernel
from test_attention import forward, one_by_one, packed
from tolerance import BF16, F32, FUNCTION, gamma, truncations

# (B, T, H, KVH, D): one row; whole tiles; an upper warpgroup alone, a lower one with few rows; a
# last key tile with an empty lower half; sums over 1, 2, 3, 7 query heads, cut into parts; more
# tiles than multiprocessors, whose heads stay together
SHAPES_64 = [(1, 1, 1, 1, 64), (2, 128, 14, 2, 64), (1, 150, 4, 2, 64), (2, 333, 14, 2, 64),
             (1, 320, 6, 2, 64), (1, 1000, 7, 1, 64), (4, 512, 14, 2, 64), (3, 257, 5, 5, 64),
             (40, 140, 4, 2, 64)]
SHAPES_128 = [(1, 1, 1, 1, 128), (1, 256, 12, 12, 128), (1, 333, 6, 2, 128), (2, 200, 4, 1, 128),
              (1, 1000, 3, 3, 128), (20, 140, 12, 2, 128)]


def shapes(*groups):
    return pytest.mark.parametrize("shape", [s for group in groups for s in group],
                                   ids=lambda s: "x".join(map(str, s)))


def on_device(qkv, H):
    """(o, lse) of the kernel."""
    B, T, _, D = qkv.shape
    got = run_kernel("attention", "attention_forward", {
        "o": blank((B, T, H, D), BF16), "lse": blank((B, H, T), F32), "qkv": qkv}, room="sm90")
    return got["o"], got["lse"]


def judge_forward(shape, qkv):
    B, T, H, _, D = shape
    arguments = {"o": blank((B, T, H, D), BF16), "lse": blank((B, H, T), F32), "qkv": qkv}
    # row t of o sums to the oracle's o of |v|: the size of what may cancel in it
    sizes = qkv.copy()
    values = slice((qkv.shape[2] + H) // 2, None)
    sizes[:, :, values] = np.abs(sizes[:, :, values])
    scale = float(forward(sizes, H)[0].astype(F32).max())
    judge("attention", "attention_forward", arguments, ("o",), free=("lse",), room="sm90",
          scales={"o": scale}, allowances={"o": truncations(T)})
    # a score is a sum of D products that may cancel: their size is that of |q| . |k|
    size = float(forward(np.abs(qkv), H)[1].max())
    judge("attention", "attention_forward", arguments, ("lse",), free=("o",), room="sm90",
          scales={"lse": size}, allowances={"lse": truncations(D) + gamma(FUNCTION, F32)})


@pytest.mark.gpu
@shapes(SHAPES_64, SHAPES_128)
def test_forward(shape):
    judge_forward(shape, packed(shape, BF16))


@pytest.mark.gpu
@shapes([(1, 300, 14, 2, 64), (1, 300, 4, 2, 128)])
def test_forward_of_large_scores(shape):
    """Scores beyond the range of exp2: the running maximum has to be taken off first."""
    judge_forward(shape, packed(shape, BF16, 12.0))


@pytest.mark.gpu
@shapes(SHAPES_64, SHAPES_128)
def test_backward(shape):
    B, T, H, KVH, D = shape
    qkv = packed(shape, BF16)
    o, lse = forward(qkv, H)
    do = normal(1, o.shape, BF16)
    own = one_by_one(do, qkv, o, lse).astype(BF16)
    cancelling = np.abs(do.astype(F32) * o.astype(F32)).sum(axis=3)
    arguments = {"dqkv": blank(qkv.shape, BF16), "delta": blank(lse.shape, F32), "do": do,
                 "qkv": qkv, "o": o, "lse": lse}
    judge("attention", "attention_backward", arguments, ("dqkv",), free=("delta",), room="sm90",
          peer={"dqkv": own}, allowances={"dqkv": truncations(T * H // KVH)})
    judge("attention", "attention_backward", arguments, ("delta",), free=("dqkv",), room="sm90",
          scales={"delta": float(cancelling.max())})


@pytest.mark.gpu
@shapes([(2, 300, 14, 2, 64), (2, 300, 4, 2, 128)])
def test_the_future_is_not_seen(shape):
    """A changed token leaves everything before it bit for bit."""
    H, at = shape[2], shape[1] // 2
    qkv = packed(shape, BF16)
    before = on_device(qkv, H)
    qkv[:, at:] += BF16.type(3)
    after = on_device(qkv, H)
    assert before[0][:, :at].tobytes() == after[0][:, :at].tobytes()
    assert before[1][:, :, :at].tobytes() == after[1][:, :, :at].tobytes()
    assert (before[0][:, at:] != after[0][:, at:]).any()


@pytest.mark.gpu
@shapes([(1, 70, 14, 2, 64), (1, 140, 6, 3, 128)])
def test_head_mapping(shape):
    """The last key head changed: the query heads of its group change, and no other."""
    H, KVH = shape[2:4]
    qkv = packed(shape, BF16)
    before = on_device(qkv, H)[0]
    qkv[:, :, H + KVH - 1] *= BF16.type(-1)
    changed = (before != on_device(qkv, H)[0]).any(axis=(0, 1, 3))
    assert changed.tolist() == [h // (H // KVH) == KVH - 1 for h in range(H)]


@pytest.mark.ptx
@pytest.mark.parametrize("D, dtype, backward, reason", [
    (64, F32, False, "float32 storage"), (32, BF16, False, "head dimension 32"),
    (96, BF16, True, "head dimension 96"), (64, BF16, False, None), (128, BF16, True, None)])
def test_what_does_not_fit(D, dtype, backward, reason):
    from aprnb.kernels.sm90.attention import misfit
    o, qkv, lse = np.empty((1, 2, 2, D), dtype), np.empty((1, 2, 4, D), dtype), np.empty(2, F32)
    said = misfit(qkv, lse, o, qkv, o, lse) if backward else misfit(o, lse, qkv)
    assert said is None if reason is None else reason in said


@pytest.mark.ptx
def test_query_heads_are_cut_where_items_are_few():
    """4 x 512 has 32 key tiles for 132 multiprocessors, 16 x 1024 has 256."""
    from aprnb.kernels.sm90.attention_parts import choose_parts, longest_us
    assert choose_parts(4, 512, 14, 2, 64, 132) == 7
    assert choose_parts(16, 1024, 14, 2, 64, 132) == 1
    # two query blocks for each head, parts of 2 and 1 heads; two key tiles of 4 and 2 blocks
    assert longest_us(1, 128, 3, 1, 2, 2) == 1.5 + 2 * 2
    assert longest_us(1, 256, 1, 1, 1, 1) == 2 * 1.5 + 4 + 2
