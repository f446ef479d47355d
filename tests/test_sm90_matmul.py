"""Products on Hopper's tensor cores: every variant, ragged sizes, every layout and epilogue."""
import numpy as np
import pytest

from judge import blank, judge, normal
from tolerance import BF16, F32, assert_agrees, truncations

pytestmark = pytest.mark.gpu
# (M, N, K): less than a tile, ragged everywhere, cut last waves, a long K
SIZES = [(8, 8, 8), (136, 72, 40), (264, 520, 1032), (1000, 1000, 1000), (1152, 896, 2048),
         (2056, 4864, 896), (896, 896, 16384)]


def cases():
    from aprnb.kernels.cuda import SIMULATOR
    if SIMULATOR:
        return []
    from aprnb.kernels.sm90.matmul import KERNELS
    return [pytest.param(*key, id=f"{key[0]}-{key[1]}-{key[2].columns}-{key[2].cluster}-"
                                  f"{key[2].parts}") for key in KERNELS]


@pytest.mark.parametrize("layout, epilogue, variant", cases())
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "x".join(map(str, s)))
def test_variant(layout, epilogue, variant, size):
    M, N, K = size
    a = normal(0, (K, M) if layout == "tn" else (M, K), BF16)
    b = normal(1, (N, K) if layout[:2] == "nt" else (K, N), BF16)
    bias = normal(2, N, BF16) if epilogue == "bias" else None
    start = normal(3, (M, N), F32) if epilogue == "add" else None
    peer = ((a.T if layout == "tn" else a).astype(F32)
            @ (b.T if layout[:2] == "nt" else b).astype(F32))
    peer += 0 if bias is None else bias.astype(F32)
    peer += 0 if start is None else start
    got = [product(layout, epilogue, variant, size, a, b, bias, start) for _ in range(2)]
    assert got[0].tobytes() == got[1].tobytes(), "two calls, two results"
    # NumPy's float32 product is exact to a few units in the last place: far below the allowance
    assert_agrees(f"{layout} {epilogue}", got[0], peer.astype(np.float64),
                  peer.astype(got[0].dtype), allowance=truncations(K))


def product(layout, epilogue, variant, size, a, b, bias, start):
    """The result on the device, in an array with a NaN border that must stand afterwards."""
    from aprnb.kernels.cuda import copy_in, copy_out, cuda
    from aprnb.kernels.sm90.matmul import matmul, misfit
    M, N, _ = size
    stream, dtype = cuda.stream(), F32 if layout in ("tn", "nt_f32") else BF16
    layout = layout[:2]
    host = np.full((M + 2, N + 8), np.nan, dtype)
    if start is not None:
        host[1:M + 1, :N] = start
    frame, (da, db) = cuda.device_array(host.shape, dtype), (cuda.device_array(x.shape, BF16)
                                                             for x in (a, b))
    for target, source in ((frame, host), (da, a), (db, b)):
        copy_in(target, source, stream)
    d_bias = None
    if bias is not None:
        d_bias = cuda.device_array(bias.shape, BF16)
        copy_in(d_bias, bias, stream)
    c = frame[1:M + 1, :N]  # rows padded by 8: the pitch is not the width
    assert misfit(layout, c, da, db) is None
    matmul(layout, epilogue, c, da, db, d_bias, stream, variant)
    got = copy_out(frame, stream)
    border = got.copy()
    border[1:M + 1, :N] = np.nan
    assert np.isnan(border.astype(F32)).all(), "wrote outside the result"
    return got[1:M + 1, :N].copy()


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(72, 64, 64), (136, 72, 40)], ids=["square", "oblong"])
def test_linear_layer(shape, biased):
    """(R, K, N). A square weight fits transposed too."""
    R, K, N = shape
    judge("linear", "linear_forward",
          {"y": blank((R, N), BF16), "x": normal(0, (R, K), BF16),
           "w": normal(1, (N, K), BF16, K ** -0.5), "b": normal(2, N, BF16) if biased else None},
          ("y",), room="sm90", allowances={"y": truncations(K)})


@pytest.mark.parametrize("accumulate", [False, True])
def test_linear_layer_backward(accumulate):
    R, K, N = 136, 72, 40
    dw, db = (normal(seed, shape, F32) if accumulate else blank(shape, F32)
              for seed, shape in ((0, (N, K)), (1, N)))
    judge("linear", "linear_backward",
          {"dx": blank((R, K), BF16), "dw": dw, "db": db, "dy": normal(2, (R, N), BF16),
           "x": normal(3, (R, K), BF16), "w": normal(4, (N, K), BF16), "accumulate": accumulate},
          ("dx", "dw", "db"), room="sm90",
          allowances={"dx": truncations(N), "dw": truncations(R)})


def test_what_does_not_fit_is_said():
    from aprnb.kernels.cuda import cuda
    from aprnb.kernels.sm90.matmul import misfit
    a, b, c = (cuda.device_array(s, BF16) for s in ((16, 1001), (8, 1001), (16, 8)))
    assert misfit("nt", c, a, b) == "rows of 2002 bytes in a: need multiples of 16"
