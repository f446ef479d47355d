"""Products on warp-level tensor cores: the kernel's source lane by lane on the CPU, and the kernel
against the oracle on a GPU, in every layout and epilogue, ragged everywhere."""
import numpy as np
import pytest

from judge import blank, judge, normal
from machine import Machine, install
from tolerance import BF16, F32, assert_agrees, in_order, truncations

SQUARE, WIDE, DEEP = (128, 128, 32, 4, 2), (128, 256, 32, 4, 1), (128, 128, 64, 3, 2)


# ---------------------------------------------------------------- the source, on the CPU

@pytest.fixture
def machine(monkeypatch):
    from aprnb.kernels.sm80 import matmul_kernel
    machine = Machine()
    install(machine, matmul_kernel, monkeypatch)
    return machine


def simulate(machine, form, tile, size, padding=0, whole=None, parts=1, order=1, values=None):
    """C as the kernel's source computes it, as it should be (float64), and as float32 gives it;
    operands are small integers, so that all are exact before they are stored, or `values`;
    `padding` elements of NaN behind every row."""
    from aprnb.kernels.sm80.matmul_kernel import make_matmul
    (layout, epilogue, f32), (M, N, K) = form, size
    kernel = make_matmul(layout, epilogue, f32, *tile)
    rng = np.random.default_rng(7)
    draw = values or (lambda shape: rng.integers(-3, 4, shape))
    a = draw((K, M) if layout == "tn" else (M, K)).astype(BF16)
    b = draw((N, K) if layout == "nt" else (K, N)).astype(BF16)
    bias, start = draw(N).astype(BF16), draw((M, N)).astype(F32)
    c = np.full((M, N + padding), np.nan, F32 if f32 else BF16)
    c[:, :N] = start if epilogue == "add" else np.nan
    g = kernel.g
    tiles = -(-M // g.rows) * -(-N // g.columns)
    whole = tiles if whole is None else whole
    scratch = np.full((tiles - whole) * parts * g.part_bytes // 4 + 1, np.nan, F32)
    counters = np.zeros(tiles, np.uint32)
    place, (pa, pb) = machine.memory.place, (padded(x) for x in (a, b))
    blocks = range(whole + (tiles - whole) * parts)[::order]
    machine.run(kernel, blocks, place(c), place(pa), place(pb), place(bias), M, N, K, c.strides[0],
                pa.strides[0], pb.strides[0], 2, whole, parts, place(scratch), place(counters))
    assert not counters.any(), "counters are not as they were found"
    assert np.isnan(c[:, N:].astype(F32)).all(), "wrote behind a row's end"
    a, b = (a.T if layout == "tn" else a), (b if layout == "nt" else b.T)
    added = bias.astype(F32) if epilogue == "bias" else start if epilogue == "add" else 0
    return c[:, :N], a.astype(np.float64) @ b.T.astype(np.float64) + added, in_order(a, b) + added


def padded(x):
    """Rows of a multiple of 16 bytes, NaN behind the last element."""
    out = np.full((x.shape[0], -(-x.shape[1] // 8) * 8), np.nan, x.dtype)
    out[:, :x.shape[1]] = x
    return out


@pytest.mark.parametrize("form, tile, size, padding", [
    (("nt", "plain", False), SQUARE, (8, 8, 8), 0),
    (("nt", "bias", False), SQUARE, (136, 72, 40), 0),
    (("nt", "plain", True), SQUARE, (17, 130, 45), 3),
    (("nt", "plain", False), WIDE, (65, 257, 104), 8),
    (("nt", "bias", False), DEEP, (16, 121, 200), 7),
    (("nn", "plain", False), SQUARE, (130, 136, 77), 1),
    (("nn", "plain", False), WIDE, (9, 264, 33), 0),
    (("nn", "plain", False), DEEP, (70, 64, 200), 0),
    (("tn", "plain", True), SQUARE, (129, 72, 200), 0),
    (("tn", "add", True), WIDE, (40, 263, 37), 1),
    (("tn", "plain", True), DEEP, (16, 120, 130), 4),
], ids=lambda x: "x".join(map(str, x)) if isinstance(x, tuple) else f"+{x}")
def test_every_index(machine, form, tile, size, padding):
    got, want, _ = simulate(machine, form, tile, size, padding)
    assert got.tobytes() == want.astype(got.dtype).tobytes()


@pytest.mark.numeric
def test_parts_of_a_tile_are_added_in_their_order(machine):
    """Whichever part arrives last: the same bytes."""
    def once(order):
        rng = np.random.default_rng(3)
        return simulate(machine, ("tn", "add", True), SQUARE, (136, 72, 330), whole=1, parts=3,
                        order=order, values=rng.standard_normal)
    got, want, peer = once(1)
    assert got.tobytes() == once(-1)[0].tobytes()
    assert_agrees("three parts", got, want, peer)


def test_how_tiles_are_cut():
    from aprnb.kernels.sm80.matmul import parts_of
    assert parts_of(loose=49, steps=512, slots=264) == 5   # 896 x 896 x 16384
    assert parts_of(loose=4, steps=512, slots=264) == 8    # few tiles: one block adds the parts
    assert parts_of(loose=104, steps=28, slots=264) == 1   # short: the sums would cost more
    assert parts_of(loose=0, steps=512, slots=264) == 1


# ---------------------------------------------------------------- the kernel, on a GPU

SHAPES = pytest.mark.parametrize(
    "shape", [(8, 8, 8), (3, 16, 8), (136, 72, 40), (129, 264, 136), (1000, 1000, 1000),
              (1001, 904, 1160), (2048, 896, 1152), (16384, 128, 136)],
    ids=lambda s: "x".join(map(str, s)))  # (R, K, N)


@pytest.mark.gpu
@SHAPES
@pytest.mark.parametrize("types", [(BF16, True), (BF16, False), (F32, False)],
                         ids=["bias", "plain", "f32"])
def test_forward(shape, types):
    (R, K, N), (out, biased) = shape, types
    judge("linear", "linear_forward",
          {"y": blank((R, N), out), "x": normal(0, (R, K), BF16),
           "w": normal(1, (N, K), BF16, K ** -0.5), "b": normal(2, N, BF16) if biased else None},
          ("y",), room="sm80", allowances={"y": truncations(K)})


@pytest.mark.gpu
@pytest.mark.parametrize("out", [BF16, F32], ids=["bf16", "f32"])
def test_rows_of_any_length_in_the_result(out):
    R, K, N = 150, 72, 1001
    judge("linear", "linear_forward",
          {"y": blank((R, N), out), "x": normal(0, (R, K), BF16),
           "w": normal(1, (N, K), BF16, K ** -0.5), "b": None}, ("y",), room="sm80",
          allowances={"y": truncations(K)})


@pytest.mark.gpu
@SHAPES
@pytest.mark.parametrize("accumulate", [False, True])
def test_backward(shape, accumulate):
    R, K, N = shape

    def start(seed, shape):
        return normal(seed, shape, F32) if accumulate else blank(shape, F32)
    judge("linear", "linear_backward",
          {"dx": blank((R, K), BF16), "dw": start(0, (N, K)), "db": start(1, N),
           "dy": normal(2, (R, N), BF16), "x": normal(3, (R, K), BF16),
           "w": normal(4, (N, K), BF16), "accumulate": accumulate},
          ("dx", "dw", "db"), room="sm80",
          allowances={"dx": truncations(N), "dw": truncations(R)})


@pytest.mark.gpu
@pytest.mark.parametrize("form", ["nt", "nn", "tn"])
def test_padded_rows(form):
    """Rows longer than what belongs to the product, NaN behind them, every size ragged."""
    from aprnb.kernels.cuda import copy_in, copy_out, cuda
    from aprnb.kernels.sm80.matmul import matmul, misfit
    M, N, K = 203, 333, 1001
    a = normal(0, (K, M) if form == "tn" else (M, K), BF16)
    b = normal(1, (N, K) if form == "nt" else (K, N), BF16)
    c = np.full((M + 2, N + 3), np.nan, F32 if form == "tn" else BF16)
    stream, placed = cuda.stream(), []
    for x in (c, padded(a), padded(b)):
        placed.append(cuda.device_array(x.shape, x.dtype))
        copy_in(placed[-1], x, stream)
    frame, da, db = placed
    target, da, db = frame[1:M + 1, :N], da[:, :a.shape[1]], db[:, :b.shape[1]]
    assert misfit(form, target, da, db) is None
    matmul(form, "plain", target, da, db, None, stream)
    got = copy_out(frame, stream)
    inside = got[1:M + 1, :N].copy()
    got[1:M + 1, :N] = np.nan
    assert np.isnan(got.astype(F32)).all(), "wrote outside the result"
    a, b = (a.T if form == "tn" else a), (b.T if form == "nt" else b)
    truth = a.astype(np.float64) @ b.astype(np.float64)
    peer = (a.astype(F32) @ b.astype(F32)).astype(c.dtype)
    assert_agrees(form, inside, truth, peer, allowance=truncations(K))


@pytest.mark.gpu
def test_what_does_not_fit_is_said():
    from aprnb.kernels.cuda import cuda
    from aprnb.kernels.sm80.linear import misfit
    y, x, w = (cuda.device_array(s, BF16) for s in ((16, 8), (16, 1001), (8, 1001)))
    assert misfit(y, x, w, None) == "rows of 2002 bytes in a, need multiples of 16"
    y, x, w = (cuda.device_array(s, t) for s, t in (((16, 8), F32), ((16, 8), F32), ((8, 8), F32)))
    assert misfit(y, x, w, None) == "float32 operands, these kernels have bfloat16"
