"""The backward pass at head dimension 128, in all its variants.

On the CPU the kernels' own source walks through a model of the machine (warpgroups.py): every item,
address, barrier and phase, at lengths around every tile edge. On a GPU the op is judged like that
of head dimension 64 (test_sm90_attention.py).
"""
from functools import cache, partial

import numpy as np
import pytest

from judge import blank, judge, normal
from test_attention import forward, one_by_one, packed
from tolerance import BF16, F32, FUNCTION, gamma, truncations

D, TILE = 128, 8192  # bytes of 64 x 64 bfloat16
VARIANTS = pytest.mark.parametrize("keep", [True, False], ids=["kept", "recomputed"])


def shapes(*found):
    return pytest.mark.parametrize("B, T, H, KVH", found, ids=lambda x: str(x))


# ---------------------------------------------------------------- on the CPU

def walk(monkeypatch, shape, blocks, seed=0, kept_bytes=1 << 30, **variant):
    """(dqkv of the kernels in the model, dqkv of the oracle in float64, the limits on the error of
    dq, dk and dv); bfloat16 inputs."""
    from aprnb.kernels.sm90 import attention_backward_128 as op
    from aprnb.oracle.attention import attention_backward
    from warpgroups import Launcher, Memory, TensorMap
    B, T, H, KVH = shape
    memory, rng = Memory(), np.random.default_rng(seed)
    qkv = rng.standard_normal((B, T, H + 2 * KVH, D)).astype(BF16)
    do = rng.standard_normal((B, T, H, D)).astype(BF16)
    o, lse = forward(qkv.astype(float), H)
    truth, delta = np.empty(qkv.shape), np.empty((B, H, T))
    attention_backward(truth, delta, do.astype(float), qkv.astype(float), o, lse)
    rows = np.zeros((2, B, H, -(-T // 128) * 128), F32)
    rows[1] = np.inf
    rows[:, :, :, :T] = delta, lse / np.log(2)
    dqkv, maps = blank(qkv.shape, BF16), {}

    def launcher(kernel, keys_are_rows=False):
        return Launcher(kernel, memory, keys_are_rows, seed)

    def sum_parts(target, pitch, sums, count, R, C, stream):
        if count > 1:
            parts = memory.bytes(sums, 4 * count * R * C).view(F32).reshape(count, R, C)
            dqkv.reshape(R, -1)[:, H * D:] = parts.sum(axis=0)
    for name, stand_in in {
            "address": lambda array: 0, "multiprocessors": lambda: blocks, "KEPT_BYTES": kept_bytes,
            "workspace": lambda name, nbytes, stream: memory.place(np.full(nbytes, 0xFF, np.uint8)),
            "parts_scratch": lambda count, R, C, stream: (
                memory.place(blank((count, R, C), F32)) if count > 1 else None),
            "sum_parts": sum_parts, "_map": lambda x: maps.setdefault(id(x), TensorMap(x)),
            "query_gradients": launcher(op.query_gradients),
            "query_gradients_recomputed": launcher(op.query_gradients_recomputed),
            "KEY_GRADIENTS": {k: launcher(v, True) for k, v in op.KEY_GRADIENTS.items()},
            "choose_plan": op.choose_plan.__wrapped__}.items():
        monkeypatch.setattr(op, name, stand_in)
    op.backward_128(dqkv, memory.place(rows[0]), memory.place(rows[1]), do, qkv, 0, **variant)
    inputs = do.astype(float), qkv.astype(float), delta, lse
    return dqkv.astype(float), truth, limits(*inputs)


def limits(do, qkv, delta, lse):
    """Of the norms: twice what rounding p and ds, which are multiplied in bfloat16, and dqkv costs;
    and what float32 does to p and ds at the size of what cancels in them. With one token ds is 0,
    and nothing but that is left."""
    H = do.shape[2]
    exact = by_equations(do, qkv, delta, lse)
    stored = by_equations(do, qkv, delta, lse, lambda x: x.astype(BF16).astype(float))
    size = by_equations(np.abs(do), np.abs(qkv), -np.abs(delta), lse, p_of=qkv)
    return [2 * np.linalg.norm(stored[at] - exact[at])
            + gamma(D + FUNCTION, F32) * np.linalg.norm(size[at]) for at in parts(qkv, H)]


def parts(dqkv, H):
    """Where dq, dk and dv stand."""
    KVH = (dqkv.shape[2] - H) // 2
    return np.s_[:, :, :H], np.s_[:, :, H:H + KVH], np.s_[:, :, H + KVH:]


def by_equations(do, qkv, delta, lse, stored=lambda x: x, p_of=None):
    """dqkv, float64, with p, ds and dqkv as `stored` leaves them; p is that of other q and k if
    `p_of` is given."""
    H, root = do.shape[2], D ** -0.5
    KVH = (qkv.shape[2] - H) // 2
    dqkv, seen = np.zeros(qkv.shape), qkv if p_of is None else p_of
    for b, h in np.ndindex(len(do), H):
        key = H + h // (H // KVH)
        q, k, v, dout = qkv[b, :, h], qkv[b, :, key], qkv[b, :, key + KVH], do[b, :, h]
        score = seen[b, :, h] @ seen[b, :, key].T * root - lse[b, h, :, None]
        p = np.tril(np.exp(np.tril(score)))
        ds = stored(p * (dout @ v.T - delta[b, h, :, None]))
        dqkv[b, :, h] += ds @ k * root
        dqkv[b, :, key] += ds.T @ q * root
        dqkv[b, :, key + KVH] += stored(p).T @ dout
    return stored(dqkv)


def assert_close(got, truth, limits, H):
    for name, at, limit in zip(("dq", "dk", "dv"), parts(truth, H), limits):
        error, size = np.linalg.norm(got[at] - truth[at]), np.linalg.norm(truth[at])
        assert error <= limit, f"{name}: error {error:.1e} of {size:.1e}, limit {limit:.1e}"


@pytest.mark.numeric
@pytest.mark.ptx
@VARIANTS
@shapes((1, 1, 1, 1), (1, 64, 2, 1), (1, 65, 4, 2), (2, 128, 2, 2), (2, 150, 3, 1), (1, 333, 6, 2))
def test_walk(B, T, H, KVH, keep, monkeypatch):
    assert_close(*walk(monkeypatch, (B, T, H, KVH), 3, keep=keep), H)


@pytest.mark.ptx
@pytest.mark.parametrize("seed", range(4))
def test_the_order_in_which_warpgroups_go_on_does_not_matter(seed, monkeypatch):
    first = walk(monkeypatch, (1, 200, 4, 2), 2, seed=0)[0]
    monkeypatch.undo()
    from warpgroups import Block
    draw = Block.__init__

    def other(self, launcher, *rest):
        launcher.seed = 7 + seed
        draw(self, launcher, *rest)
    monkeypatch.setattr(Block, "__init__", other)
    assert first.tobytes() == walk(monkeypatch, (1, 200, 4, 2), 2, seed=0)[0].tobytes()


@pytest.mark.ptx
@pytest.mark.parametrize("shape, blocks, kept_bytes", [
    ((1, 1024, 1, 1), 4, 1 << 30),            # a long walk
    ((1, 320, 7, 1), 8, 1 << 30),             # heads cut into unequal parts
    ((2, 150, 4, 2), 3, 3 * 2 * 6 * TILE),    # rounds of two groups
    ((3, 150, 2, 1), 3, 2 * 2 * 6 * TILE),    # the last round is shorter
    ((1, 200, 2, 1), 2, TILE)], ids=["long", "parts", "rounds", "last-round", "does-not-fit"])
def test_walk_of(shape, blocks, kept_bytes, monkeypatch):
    assert_close(*walk(monkeypatch, shape, blocks, kept_bytes=kept_bytes), shape[2])


@pytest.mark.ptx
@pytest.mark.parametrize("shape, plan", [
    ((16, 1024, 12, 2), (32, 32 * 6 * 136 * TILE, 1)),
    ((4, 4096, 12, 2), (8, 8 * 6 * 2080 * TILE, 1)),
    ((4, 4096, 28, 4), (8, 8 * 7 * 2080 * TILE, 1)), ((1, 32768, 28, 4), (4, 0, 1)),
    ((4, 512, 12, 2), (8, 8 * 6 * 36 * TILE, 6))])
def test_plan(shape, plan):
    from aprnb.kernels.sm90.attention_backward_128 import choose_plan
    assert choose_plan(*shape, 132) == plan


@pytest.mark.ptx
def test_what_is_put_is_got_transposed():
    """Lane by lane: where the pairs of an accumulator go, and what ldmatrix makes of them."""
    from aprnb.kernels.ptx import layouts, transposed
    values, place = np.arange(64 * 64).reshape(64, 64), np.full(TILE // 2, -1)
    pairs = values[layouts.wgmma_accumulator(64)].reshape(128, 16, 2)
    for t in range(128):
        for i in range(16):
            at = transposed.put_place.py_func(t) + 128 * (i // 2) + 1024 * (i % 2)
            place[at // 2:at // 2 + 2] = pairs[t, i]
    row, column = np.divmod(values, 64)
    assert (place[512 * (row // 8) + 64 * (column // 8) + 8 * (row % 8) + column % 8]
            == values).all()
    wanted = values.T[layouts.wgmma_a(4)]
    for warp in range(4):
        for k in range(4):
            starts = [transposed.get_place.py_func(32 * warp + lane) + 2048 * k
                      for lane in range(32)]
            assert len({s // 16 % 8 for s in starts[:8]}) == 8, "bank conflicts"
            blocks = np.stack([place[s // 2:s // 2 + 8] for s in starts]).reshape(4, 8, 8)
            got = blocks[layouts.eight_by_eight(True)]
            assert (got == wanted[32 * warp:32 * warp + 32, 4 * k:4 * k + 4]).all()


# ---------------------------------------------------------------- on a GPU

@cache
def arguments(shape):
    """The op's arguments, and dqkv as the kernels' order of sums gives it in float32."""
    B, T, H, KVH = shape
    qkv = packed((*shape, D), BF16)
    o, lse = forward(qkv, H)
    do = normal(1, o.shape, BF16)
    return ({"dqkv": blank(qkv.shape, BF16), "delta": blank(lse.shape, F32), "do": do, "qkv": qkv,
             "o": o, "lse": lse}, one_by_one(do, qkv, o, lse).astype(BF16))


def judge_backward(monkeypatch, shape, **variant):
    from aprnb.kernels.sm90 import attention
    monkeypatch.setattr(attention, "backward_128", partial(attention.backward_128, **variant))
    given, own = arguments(shape)
    _, T, H, KVH = shape
    judge("attention", "attention_backward", given, ("dqkv",), free=("delta",), room="sm90",
          peer={"dqkv": own}, allowances={"dqkv": truncations(T * H // KVH)})


@pytest.mark.gpu
@VARIANTS
@shapes((1, 1, 1, 1), (2, 64, 2, 1), (1, 128, 2, 2), (2, 150, 3, 1), (2, 333, 6, 2),
        (1, 1000, 4, 1), (1, 320, 7, 1), (3, 257, 5, 5), (4, 512, 6, 2))
def test_backward(B, T, H, KVH, keep, monkeypatch):
    judge_backward(monkeypatch, (B, T, H, KVH), keep=keep)


@pytest.mark.gpu
def test_backward_in_rounds(monkeypatch):
    from aprnb.kernels.sm90 import attention_backward_128 as op
    monkeypatch.setattr(op, "KEPT_BYTES", 2 * 3 * 21 * TILE)
    monkeypatch.setattr(op, "choose_plan", op.choose_plan.__wrapped__)
    assert op.choose_plan(2, 333, 6, 2, 132).groups == 2
    judge_backward(monkeypatch, (2, 333, 6, 2))
