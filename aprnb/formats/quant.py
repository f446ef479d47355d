"""Block-quantised payloads decoded to float32; this engine computes with them, never writes them.

    AprQ8   f32 scale, then n int8:             x = scale * q
    AprQ4   per 32 elements f16 scale, 16 bytes: x = scale * (nibble - 8), element 2k low, 2k+1 high
    Q4_K    per 256 elements 144 bytes:          x = d * scale_j * q - dmin * min_j, j = group of 32
    Q6_K    per 256 elements 210 bytes:          x = d * scale_j * (q - 32), j = group of 16

Source: apr-v2-format, section 6; Q4_K and Q6_K are GGML's super-blocks. Rows of the last two are
padded to whole super-blocks, unless the payload is exactly as long as the flat sequence.
Arithmetic is float32, as GGML's own decoder does it.
"""
import math

import numpy as np

from .apr_layout import SUPER_BLOCK, SUPER_BLOCK_NBYTES


def decode_aprq8(payload, shape):
    """Float32 values; one scale for the whole tensor."""
    n = math.prod(shape)
    if n == 0:
        return np.zeros(shape, np.float32)
    scale = payload[:4].view("<f4")[0]
    return (scale * payload[4:].view(np.int8).astype(np.float32)).reshape(shape)


def decode_aprq4(payload, shape):
    """Float32 values; blocks run across row ends and the last one may be part full."""
    blocks = payload.reshape(-1, 18)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)  # (blocks, 1)
    packed = blocks[:, 2:]
    q = np.empty((len(blocks), 32), np.float32)
    q[:, 0::2] = packed & 15
    q[:, 1::2] = packed >> 4
    return (scale * (q - 8)).reshape(-1)[:math.prod(shape)].reshape(shape)


def decode_q4_k(payload, shape):
    """Float32 values of GGML Q4_K: f16 d, f16 dmin, 12 bytes of 6-bit scales and mins, nibbles."""
    blocks = payload.reshape(-1, 144)
    d = blocks[:, 0:2].copy().view("<f2").astype(np.float32)
    dmin = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
    s = blocks[:, 4:16]
    low = np.concatenate([s[:, 0:4] & 63, (s[:, 8:] & 15) | (s[:, 0:4] >> 6 << 4)], axis=1)
    minimum = np.concatenate([s[:, 4:8] & 63, (s[:, 8:] >> 4) | (s[:, 4:8] >> 6 << 4)], axis=1)
    # each run of 32 bytes holds two groups: weights 0-31 in the low nibbles, 32-63 in the high
    runs = blocks[:, 16:].reshape(-1, 4, 32)
    q = np.stack([runs & 15, runs >> 4], axis=2).reshape(-1, 8, 32)
    values = (d * low)[:, :, None] * q - (dmin * minimum)[:, :, None]
    return _rows(values.astype(np.float32).reshape(-1, SUPER_BLOCK), "Q4_K", payload.size, shape)


def decode_q6_k(payload, shape):
    """Float32 values of GGML Q6_K: 128 low nibbles, 64 bytes of high bit pairs, 16 i8, f16 d."""
    blocks = payload.reshape(-1, 210)
    low = blocks[:, :128].reshape(-1, 2, 2, 32)  # two halves of 128 weights, two runs of 32 bytes
    high = blocks[:, 128:192].reshape(-1, 2, 1, 32)
    scale = blocks[:, 192:208].copy().view(np.int8).astype(np.float32)
    d = blocks[:, 208:].copy().view("<f2").astype(np.float32)
    # quarter k of a half: nibble k // 2 of run k % 2, and bits 2k, 2k+1 of the high byte
    nibbles = np.concatenate([low & 15, low >> 4], axis=2)  # (blocks, 2, 4, 32)
    pairs = high >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    q = (nibbles | pairs << 4).astype(np.float32).reshape(-1, 16, 16) - 32
    values = (d * scale)[:, :, None] * q
    return _rows(values.reshape(-1, SUPER_BLOCK), "Q6_K", payload.size, shape)


DECODERS = {"AprQ8": decode_aprq8, "AprQ4": decode_aprq4, "Q4_K": decode_q4_k,
            "Q6_K": decode_q6_k}


def _rows(values, dtype, nbytes, shape):
    """Cut the padding off: at the end of each row, or at the end of all for the flat layout."""
    columns = shape[-1] if shape else 1
    rows = math.prod(shape[:-1])
    if nbytes == rows * -(-columns // SUPER_BLOCK) * SUPER_BLOCK_NBYTES[dtype]:
        return values.reshape(rows, -1)[:, :columns].reshape(shape)
    return values.reshape(-1)[:rows * columns].reshape(shape)
