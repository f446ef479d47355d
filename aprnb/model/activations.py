"""The activation table: every buffer of a forward and backward pass, planned before step 0.

`saved` buffers are read again by the backward pass, so training keeps one per layer; evaluation
lets all layers share one. `scratch` buffers live within one op list and are shared by all layers.
"""
from dataclasses import dataclass
from math import prod

import numpy as np

from ..dtypes import F32

LOGIT_ELEMENTS = 1 << 21  # of one chunk of logits: 8 MiB in fp32, so that a CPU caches it
LOGIT_ROWS = 256  # a chunk has at least, however large the vocabulary: keeps products efficient


@dataclass(frozen=True)
class Buffer:
    """One named activation: shape, storage type and what part it plays."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    part: str
    """"saved", "scratch" or "logits"."""

    @property
    def nbytes(self):
        return prod(self.shape) * self.dtype.itemsize


def activation_table(config, batch, length, dtype, training):
    """Name -> Buffer for a pass over `batch` sequences of `length` positions.

    Shapes: R = batch * length rows; per layer names carry the layer's number in front.
    """
    c, B, T, R = config, batch, length, batch * length
    heads = c.num_heads + 2 * c.num_kv_heads
    hidden = (R, c.hidden_size)
    rows = [Buffer("losses", (R,), F32, "scratch")]
    for layer in range(c.num_layers if training else 1):
        rows += [Buffer(f"{layer}.{name}", shape, kind, "saved") for name, shape, kind in (
            ("s_attn", hidden, dtype),  # residual stream at the attention norm
            ("y_attn", hidden, dtype),  # its normalised form
            ("rstd_attn", (R,), F32),
            ("qkv", (B, T, heads, c.head_dim), dtype),  # after RoPE
            ("o", (B, T, c.num_heads, c.head_dim), dtype),
            ("lse", (B, c.num_heads, T), F32),
            ("s_mlp", hidden, dtype),
            ("y_mlp", hidden, dtype),
            ("rstd_mlp", (R,), F32),
            ("gate_up", (R, 2 * c.intermediate_size), dtype),
            ("act", (R, c.intermediate_size), dtype),
        )]
    rows += [Buffer("s_final", hidden, dtype, "saved"), Buffer("y_final", hidden, dtype, "saved"),
             Buffer("rstd_final", (R,), F32, "saved"), Buffer("branch", hidden, dtype, "scratch"),
             Buffer("logits", (logit_rows(R, c.vocab_size), c.vocab_size), F32, "logits")]
    if training:
        rows += [Buffer(name, shape, kind, "scratch") for name, shape, kind in (
            ("d_residual", hidden, dtype),
            ("d_hidden", hidden, dtype),
            ("d_o", (B, T, c.num_heads, c.head_dim), dtype),
            ("d_qkv", (B, T, heads, c.head_dim), dtype),
            ("delta", (B, c.num_heads, T), F32),
            ("d_gate_up", (R, 2 * c.intermediate_size), dtype),
            ("d_act", (R, c.intermediate_size), dtype),
        )]
    return {b.name: b for b in rows}


def logit_rows(rows, vocab_size):
    """Rows of logits that exist at a time; the full matrix is never stored."""
    return min(rows, max(LOGIT_ROWS, LOGIT_ELEMENTS // vocab_size))
