"""The activation table: every buffer of a forward and backward pass, planned before step 0.

`saved` buffers are read again by the backward pass, so training keeps one per layer; evaluation
lets all layers share one, and so does training for what the backward pass computes anew.
`scratch` buffers live within one op list and are shared by all layers.
"""
from dataclasses import dataclass
from math import prod

import numpy as np

from ..dtypes import F32

RECOMPUTED = {  # --recompute -> what of a layer the backward pass computes anew
    "none": (),
    "ffn": ("gate_up", "act"),
    "block": ("y_attn", "rstd_attn", "qkv", "o", "lse", "s_mlp", "y_mlp", "rstd_mlp", "gate_up",
              "act"),
}
ANSWER_ROWS = 64  # rows of logits that a decoder hands out at a time


@dataclass(frozen=True)
class Buffer:
    """One named activation: shape, storage type and what part it plays."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    part: str
    """"saved" for the backward pass; "scratch"; "loss" while the head works; "layer" while the
    backward pass of a layer does, which is later: the two share memory."""

    @property
    def nbytes(self):
        return prod(self.shape) * self.dtype.itemsize


def activation_table(config, batch, length, dtype, logits, training, recompute="none",
                     residual=None):
    """Name -> Buffer for a pass over `batch` sequences of `length` positions.

    logits: how the device wants the chunk of logits (backend.Logits); recompute: a key of
    RECOMPUTED; residual: the storage type of the residual stream and its gradient, if not dtype.
    Shapes: R = batch * length rows; per layer names carry the layer's number in front,
    those of a buffer that all layers share "all".
    """
    c, B, T, R = config, batch, length, batch * length
    heads = c.num_heads + 2 * c.num_kv_heads
    hidden, residual = (R, c.hidden_size), residual or dtype
    rows = [Buffer("losses", (R,), F32, "scratch")]
    saved = (
        ("s_attn", hidden, residual),  # residual stream at the attention norm
        ("y_attn", hidden, dtype),  # its normalised form
        ("rstd_attn", (R,), F32),
        ("qkv", (B, T, heads, c.head_dim), dtype),  # after RoPE
        ("o", (B, T, c.num_heads, c.head_dim), dtype),
        ("lse", (B, c.num_heads, T), F32),
        ("s_mlp", hidden, residual),
        ("y_mlp", hidden, dtype),
        ("rstd_mlp", (R,), F32),
        ("gate_up", (R, 2 * c.intermediate_size), dtype),
        ("act", (R, c.intermediate_size), dtype),
    )
    for name, shape, kind in saved:
        shared = not training or name in RECOMPUTED[recompute]
        for layer in ["all"] if shared else range(c.num_layers):
            rows.append(Buffer(f"{layer}.{name}", shape, kind, "saved"))
    rows += [Buffer("s_final", hidden, residual, "saved"),
             Buffer("y_final", hidden, dtype, "saved"),
             Buffer("rstd_final", (R,), F32, "saved"), Buffer("branch", hidden, dtype, "scratch"),
             Buffer("logits", logits_shape(R, c.vocab_size, logits), logits.dtype, "loss"),
             Buffer("answers", (min(R, ANSWER_ROWS), c.vocab_size), F32, "loss")]
    if training:
        rows += [Buffer("d_residual", hidden, residual, "scratch"),
                 Buffer("d_hidden", hidden, dtype, "scratch")]
        if residual != dtype:  # d_residual as the products of a layer read it
            rows.append(Buffer("d_branch", hidden, dtype, "layer"))
        rows += [Buffer(name, shape, kind, "layer") for name, shape, kind in (
            ("d_o", (B, T, c.num_heads, c.head_dim), dtype),
            ("d_qkv", (B, T, heads, c.head_dim), dtype),
            ("delta", (B, c.num_heads, T), F32),
            ("d_gate_up", (R, 2 * c.intermediate_size), dtype),
            ("d_act", (R, c.intermediate_size), dtype),
        )]
    return {b.name: b for b in rows}


def logits_shape(rows, vocab_size, logits):
    """(rows, columns) of logits that exist at a time; the full matrix is never stored.

    The chunks of a pass are of one size, in whole tiles of products, and rows are padded.
    """
    columns = -(-vocab_size // logits.align) * logits.align
    most = max(logits.rows, logits.nbytes // (columns * logits.dtype.itemsize))
    chunks = -(-rows // most)
    return min(rows, -(-rows // (chunks * 128)) * 128 if chunks > 1 else rows), columns
