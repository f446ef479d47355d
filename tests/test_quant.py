"""Decoding of quantised payloads, against scalar decoders written from the format's description."""
import math
import struct

import numpy as np
import pytest
from shared import GOLDEN
from tolerance import F32, assert_within, gamma

from aprnb.formats.apr import read_apr
from aprnb.formats.apr_layout import payload_sizes
from aprnb.formats.quant import DECODERS
from aprnb.formats.safetensors import read_safetensors

QUANTISED = GOLDEN / "reference" / "quantised"


def half(raw):
    return struct.unpack("<e", raw)[0]


def q4_k_block(b):
    """256 values of one Q4_K block, one after the other: (what is added, what is taken off)."""
    d, dmin, s, out = half(b[0:2]), half(b[2:4]), b[4:16], []
    for i in range(256):
        j = i // 32
        if j < 4:
            scale, low = s[j] & 63, s[j + 4] & 63
        else:
            scale = (s[j + 4] & 15) | (s[j - 4] >> 6) << 4
            low = (s[j + 4] >> 4) | (s[j] >> 6) << 4
        byte = b[16 + 32 * (i // 64) + i % 32]
        out.append((d * scale * (byte >> 4 if i % 64 >= 32 else byte & 15), dmin * low))
    return out


def q6_k_block(b):
    """256 values of one Q6_K block; position i of a half lies in quarter i // 32."""
    d, out = half(b[208:210]), []
    for i in range(256):
        h, quarter, lane = i // 128, i % 128 // 32, i % 32
        low = b[64 * h + 32 * (quarter % 2) + lane]
        low = low >> 4 if quarter >= 2 else low & 15
        high = b[128 + 32 * h + lane] >> (2 * quarter) & 3
        scale = struct.unpack("b", b[192 + i // 16:193 + i // 16])[0]
        out.append((d * scale * ((low | high << 4) - 32), 0))
    return out


@pytest.mark.parametrize("dtype, block, decode", [("Q4_K", 144, q4_k_block),
                                                  ("Q6_K", 210, q6_k_block)])
@pytest.mark.parametrize("shape", [(256,), (2, 512), (3, 300), (5, 100), (2, 3, 300), ()])
def test_super_blocks_equal_a_scalar_decoder(dtype, block, decode, shape):
    rng = np.random.default_rng(2)
    for nbytes in payload_sizes(dtype, shape):  # row-aligned, and flat where it differs
        raw = rng.integers(0, 256, nbytes, dtype=np.uint8)
        raw = raw.reshape(-1, block)
        for column in (0, 2) if dtype == "Q4_K" else (208,):
            raw[:, column:column + 2] = rng.uniform(0.001, 0.1, len(raw)).astype("<f2").view(
                np.uint8).reshape(-1, 2)
        terms = np.array([decode(bytes(b)) for b in raw])
        columns, rows = shape[-1] if shape else 1, math.prod(shape[:-1])
        if nbytes == payload_sizes(dtype, shape)[0]:
            terms = terms.reshape(rows, -1, 2)[:, :columns]
        terms = terms.reshape(-1, 2)[:rows * columns].reshape(*shape, 2)
        got = DECODERS[dtype](raw.reshape(-1), shape)
        assert got.dtype == np.float32 and got.shape == shape
        assert_within(dtype, got, terms[..., 0] - terms[..., 1],
                      gamma(4, F32) * np.abs(terms).sum(axis=-1))


def test_apr_blocks_equal_their_definition():
    raw = struct.pack("<f4b", 0.5, 1, -2, 3, -127)
    got = DECODERS["AprQ8"](np.frombuffer(raw, np.uint8), (2, 2))
    assert got.tolist() == [[0.5, -1], [1.5, -63.5]]
    raw = (struct.pack("<e", 2) + bytes([0x91]) + bytes([0x88] * 15)
           + struct.pack("<e", 1) + bytes([0x0F] + [0] * 15))
    got = DECODERS["AprQ4"](np.frombuffer(raw, np.uint8), (34,))
    assert got.tolist() == [-14, 2] + [0] * 30 + [7, -8]
    assert DECODERS["AprQ8"](np.zeros(0, np.uint8), (0, 3)).shape == (0, 3)


@pytest.mark.parametrize("stem, limit", [("q4_k", 0.085), ("int4", 0.15), ("int8", 0.02)])
def test_reference_files_decode_close_to_their_source(stem, limit):
    """Relative RMS error of every quantised tensor; 0.079 was measured for Q4_K elsewhere."""
    source = read_safetensors(QUANTISED / "source.safetensors")
    with read_apr(QUANTISED / f"{stem}.apr") as file:
        worst = 0.0
        for name, entry in file.tensors.items():
            if name in source.tensors and entry.dtype != "F32":
                truth = source.array(name).astype(np.float64)
                error = file.values(name) - truth
                worst = max(worst, math.sqrt((error**2).mean() / (truth**2).mean()))
    assert 0 < worst < limit
