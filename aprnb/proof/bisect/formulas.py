"""What every stage should hold, in plain NumPy, computed from the stages before it.

A third opinion beside oracle and kernels, which may both be wrong: it shares no code with either.
Every formula takes a Place, so it computes from the numbers of whichever side is judged; its
keyword arguments are what hypotheses.py turns. Element-wise work is in float64, products in
float32. Equations and sources stand in aprnb/oracle.
"""
import math
from dataclasses import dataclass
from typing import Callable

import numpy as np

from ...config import ModelConfig
from ...formats.names import EMBEDDING, HEAD
from .substages import path_of, stages

NORMS = {"attn_norm": ("stream", "input_layernorm.weight"),
         "mlp_norm": ("attn_residual", "post_attention_layernorm.weight"),
         "final_norm": ("stream", "model.norm.weight")}
PRODUCTS = {**{f"{p}_proj": ("attn_norm", f"self_attn.{p}_proj.weight") for p in "qkv"},
            "attn_out": ("attn_heads", "self_attn.o_proj.weight"),
            "gate": ("mlp_norm", "mlp.gate_proj.weight"), "up": ("mlp_norm", "mlp.up_proj.weight"),
            "mlp_out": ("swiglu", "mlp.down_proj.weight"), "logits": ("final_norm", HEAD)}
RESIDUALS = {"attn_residual": ("stream", "attn_out"), "mlp_residual": ("attn_residual", "mlp_out")}


@dataclass(frozen=True)
class Place:
    """One layer of one side: the stages that its formulas may read, and the file's weights."""

    config: ModelConfig
    ids: np.ndarray
    """(B, T) i32"""
    targets: np.ndarray
    """(B, T) i32, negative where there is none"""
    layer: int
    """config.num_layers for the final norm, the head and the losses."""
    values: dict
    """Path of a stage -> (R, width)."""
    weight: Callable
    """Tensor name -> array in the file's type."""
    head: np.ndarray | None = None
    """(V, C): what this side took for the head, in its storage type; None: nobody says."""

    def __call__(self, key):
        return np.asarray(self.values[path_of(key, self.layer, self.config.num_layers)], np.float64)

    def w(self, name):
        """A weight by its short name within the layer, or by its whole name."""
        if name == HEAD and self.config.tied:
            name = EMBEDDING
        whole = name.startswith(("model.", "lm_head."))
        return self.weight(name if whole else f"model.layers.{self.layer}.{name}")

    def heads(self, key):
        """q, k, v or the attention's output as (B, T, heads, D)."""
        return self(key).reshape(*self.ids.shape, -1, self.config.head_dim)


def formula(at, key):
    """What the stage `key` should be at a Place, (R, width) float64."""
    if key in NORMS:
        return norm(at, key)
    if key in PRODUCTS:
        return project(at, key)
    if key in RESIDUALS:
        return sum(map(at, RESIDUALS[key]))
    return REST[key](at, key)


def embedding(at, key):
    return f64(at.w(EMBEDDING)[at.ids.reshape(-1)])


def norm(at, key, eps=None, weight=None):
    """x / sqrt(mean x^2 + eps) * weight"""
    source, name = NORMS[key]
    x, eps = at(source), at.config.rms_norm_eps if eps is None else eps
    weight = f64(at.w(name)) if weight is None else weight
    return x / np.sqrt((x * x).mean(axis=1, keepdims=True) + eps) * weight


def project(at, key):
    source, name = PRODUCTS[key]
    return product(at(source), at.w(name))


def product(x, w):
    """x @ w.T.  Shapes: x (R, K);  w (N, K)"""
    return f64(x.astype(np.float32) @ np.asarray(w, np.float32).T)


def bias(at, key):
    x = at(f"{key[0]}_proj")
    return x + f64(at.w(f"self_attn.{key[0]}_proj.bias")) if at.config.qkv_bias else x


def rope(at, key):
    if key == "v_rope":  # values are not turned
        return at("v_bias")
    return turned(at, key, angles(at.config, at.ids.shape[1]))


def turned(at, key, angle, adjacent=False):
    """The heads before RoPE, pairs turned by `angle`, (R, width).

    Shapes:  angle (T, D/2) or (B, T, D/2).  adjacent: pairs (2i, 2i+1), not (i, i + D/2).
    """
    x = at.heads(f"{key[0]}_bias")
    half = x.shape[3] // 2
    low, high = (np.s_[..., ::2], np.s_[..., 1::2]) if adjacent else (np.s_[..., :half],
                                                                      np.s_[..., half:])
    cos, sin = np.cos(angle)[..., None, :], np.sin(angle)[..., None, :]
    out = np.empty_like(x)
    out[low] = x[low] * cos - x[high] * sin
    out[high] = x[high] * cos + x[low] * sin
    return rows(at, out)


def angles(config, length, theta=None, first=0, scaled=True):
    """Radians of positions first .. first + length - 1, (length, D/2)."""
    half = config.head_dim // 2
    turn = (theta or config.rope_theta) ** (-np.arange(half) / half)
    if config.rope_scaling and scaled:
        turn = _llama3(turn, config.rope_scaling)
    return (first + np.arange(length))[:, None] * turn


def _llama3(turn, s):
    """Slow turns divided by the factor, fast ones kept, in between a blend of both."""
    turns = s.original_max_position_embeddings * turn / (2 * math.pi)
    share = (turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor)
    share = np.clip(share, 0, 1)
    return share * turn + (1 - share) * turn / s.factor


def attention(at, key, scale=None, sees=None, key_head=None, qkv=None):
    """softmax(q k^T scale) v, (R, H * D).

    sees: (T, T) bool, what each position looks at;  key_head: (H,) of each query head;
    qkv: other queries, keys and values than those after RoPE, each (B, T, heads, D).
    """
    q, k, v = qkv or (at.heads(f"{p}_rope") for p in "qkv")
    H, T = q.shape[2], q.shape[1]
    key_head = np.arange(H) // (H // k.shape[2]) if key_head is None else key_head
    sees = np.tri(T, dtype=bool) if sees is None else sees
    scale = q.shape[3] ** -0.5 if scale is None else scale
    s = np.einsum("bthd,buhd->bhtu", q, k[:, :, key_head], optimize=True) * scale
    s = np.where(sees, s, -np.inf)
    p = np.exp(s - s.max(axis=3, keepdims=True))
    p /= p.sum(axis=3, keepdims=True)
    return rows(at, np.einsum("bhtu,buhd->bthd", p, v[:, :, key_head], optimize=True))


def swiglu(at, key):
    return silu(at("gate")) * at("up")


def silu(x):
    return x / (1 + np.exp(-np.maximum(x, -700)))


def losses(at, key, targets=None, logits=None):
    """Nats of every row; 0 where there is no target."""
    z = at("logits") if logits is None else logits
    targets = (at.targets if targets is None else targets).reshape(-1)
    top = z.max(axis=1)
    lse = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    return np.where(targets < 0, 0, lse - z[np.arange(len(z)), np.maximum(targets, 0)])


def ignored(at, key):
    """Rows without a target have no loss."""
    return np.zeros(at.ids.size)


def mean_loss(at, key):
    return at("losses").sum(keepdims=True) / max(1, (at.targets >= 0).sum())


REST = {"embedding": embedding, "attn_heads": attention, "swiglu": swiglu, "losses": losses,
        "ignored": ignored, "mean_loss": mean_loss, **{f"{p}_bias": bias for p in "qkv"},
        **{f"{p}_rope": rope for p in "qkv"}}


def chain(config, weight, ids, targets, known=(), instead=formula, until="mean_loss"):
    """Path -> value of every stage up to `until`, each computed from those before it.

    known: values that stand already;  instead: what is computed at (Place, key).
    """
    values = dict(known)
    for stage in stages(config):
        if stage.path not in values:
            at = place(config, weight, ids, targets, values, stage)
            values[stage.path] = instead(at, stage.key)
            if not config.qkv_bias and stage.key.endswith("_proj"):
                values[stage.path.replace("_proj", "_bias")] = values[stage.path]
        if stage.path == until:
            break
    return values


def place(config, weight, ids, targets, values, stage, head=None):
    """The Place of a stage."""
    layer = config.num_layers if stage.layer is None else stage.layer
    return Place(config, ids, targets, layer, values, weight, head)


def f64(x):
    return np.asarray(x, np.float64)


def rows(at, x):
    """(B, T, ...) -> (R, width)"""
    return x.reshape(at.ids.size, -1)
