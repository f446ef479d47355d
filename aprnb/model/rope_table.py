"""The rotation angles of RoPE as cosine and sine tables, made once on the host in float64.

    angle[t, k] = t * f[k]              f[k] = theta^(-2k/D)                 Su et al. 2021, eq. 15

Llama-3 scaling (transformers, rope type "llama3") divides low frequencies by `factor`, leaves high
ones, and blends linearly in between, where "low" and "high" are counted in turns over the original
context length.
"""
import numpy as np


def rope_table(config, length):
    """(cos, sin), each (length, head_dim / 2) float32."""
    f = frequencies(config)
    angle = np.arange(length, dtype=np.float64)[:, None] * f
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


def frequencies(config):
    """Radians per position of every rotated pair, (head_dim / 2,) float64."""
    half = config.head_dim // 2
    f = config.rope_theta ** (-np.arange(half, dtype=np.float64) / half)
    if config.rope_scaling:
        f = _llama3(f, config.rope_scaling)
    return f


def _llama3(f, scaling):
    turns = scaling.original_max_position_embeddings * f / (2 * np.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    keep = np.clip((turns - low) / (high - low), 0, 1)  # 0: divided by factor, 1: left alone
    return f * (keep + (1 - keep) / scaling.factor)
