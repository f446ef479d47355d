"""Small models, and sides of which an op or the upload is faulty, for tests of bisect."""
from pathlib import Path

import numpy as np
import pytest
from shared import DATA

from aprnb.backend import open_backend
from aprnb.formats.model_file import open_model
from aprnb.model.rope_table import rope_table
from aprnb.proof.bisect.walk import bisect_between

ROOT = Path(__file__).parents[1]
QWEN, LLAMA = DATA / "bisect" / "qwen2-bf16", DATA / "parity" / "llama-f16"
V = 61


@pytest.fixture(scope="module")
def qwen():
    """An untied Qwen2 with large biases, two query heads to a key head, theta 1e6, eps 1e-6."""
    with open_model(QWEN) as source:
        yield source


def with_faults(backend, faults):
    """A backend some of whose ops, or its upload, are (faulty op)(right op, *arguments)."""
    for name, fault in faults.items():
        home = backend if name == "upload" else backend.ops
        right = getattr(home, name)
        setattr(home, name, lambda *args, right=right, fault=fault: fault(right, *args))
    return backend


def between(source, faults, precision="fp32", tokens=40):
    sides = open_backend("cpu"), with_faults(open_backend("cpu", precision), faults)
    return bisect_between(source, *sides, tokens)


# ---------------------------------------------------------------- faulty ops and uploads

def adjacent_pairs(right, x, cos, sin, heads):
    half = x.shape[3] // 2
    order = np.concatenate([np.arange(0, 2 * half, 2), np.arange(1, 2 * half, 2)])
    y = np.ascontiguousarray(x[..., order])
    right(y, cos, sin, heads)
    x[..., order] = y


def other_theta(right, x, cos, sin, heads):
    with open_model(QWEN) as source:
        right(x, *rope_table(source.config.with_(rope_theta=1e4), x.shape[1]), heads)


def positions_run_on(right, x, cos, sin, heads):
    flat = x.reshape(1, -1, *x.shape[2:])
    with open_model(QWEN) as source:
        right(flat, *rope_table(source.config, flat.shape[1]), heads)


def no_bias(right, y, x, w, b):
    right(y, x, w, None)


def eps_1e5(right, *args):
    right(*args[:-1], 1e-5)


def weight_left_out(right, y, rstd, x, w, eps):
    right(y, rstd, x, np.ones_like(w), eps)


def attention(mask=True, scale=None, key_head=None):
    """Attention as a plain double loop over sequences and heads."""
    def fault(right, o, lse, qkv):
        B, T, H, D = o.shape
        KVH = (qkv.shape[2] - H) // 2
        wide = qkv.astype(np.float32)
        for b in range(B):
            for h in range(H):
                k = key_head(h, H, KVH) if key_head else h // (H // KVH)
                s = wide[b, :, h] @ wide[b, :, H + k].T * (scale or D ** -0.5)
                if mask:
                    s[np.triu_indices(T, 1)] = -np.inf
                p = np.exp(s - s.max(axis=1, keepdims=True))
                o[b, :, h] = p / p.sum(axis=1, keepdims=True) @ wide[b, :, H + KVH + k]
    return fault


def no_branch(right, s, y, rstd, x, r, w, eps):
    right(s, y, rstd, x, np.zeros_like(r), w, eps)


def no_stream(right, s, y, rstd, x, r, w, eps):
    right(s, y, rstd, np.zeros_like(x), r, w, eps)


def transposed_output_projection(right, y, x, w, b):
    right(y, x, w.reshape(w.shape[::-1]).T if w.shape == (16, 32) else w, b)


def last_columns_skipped(right, y, x, w, b):
    """A product of tiles of 16 that forgets the last eight of 24 terms."""
    K = x.shape[1] // 16 * 16
    right(y, x[:, :K], w[:, :K], b)


def last_row_skipped(right, h, gu, x, w):
    right(h[:-1], gu[:-1], x[:-1], w)


def gate_and_up_swapped(right, h, gu, x, w):
    right(h, gu, x, np.roll(w, len(w) // 2, axis=0))
    gu[...] = np.roll(gu, gu.shape[1] // 2, axis=1)


seen = {}  # what a fault remembers of an earlier op


def remember(right, y, table, ids):
    seen.update(table=table, ids=ids)
    right(y, table, ids)


def tied_logits(right, y, x, w, b):
    right(y, x, seen["table"] if len(w) == V else w, b)


def tied_losses(right, losses, logits, x, w, targets):
    right(losses, logits, x, seen["table"], targets)


def unshifted(right, losses, logits, x, w, targets):
    right(losses, logits, x, w, seen["ids"])


def scored_as_id_0(right, losses, logits, x, w, targets):
    right(losses, logits, x, w, np.maximum(targets, 0))


def bits(right, losses, *args):
    right(losses, *args)
    losses /= np.log(2)


def divided(right, losses, *args):
    right(losses, *args)
    losses /= 40


def read_as_f16(right, target, host):
    import ml_dtypes
    wrong = host.astype(ml_dtypes.bfloat16).view(np.float16).astype(np.float32)
    right(target, wrong if host.shape == (24, 16) else host)


def rows_for_columns(right, target, host):
    right(target, host.T.reshape(host.shape) if host.shape == (16, 32) else host)


def never_uploaded(right, target, host):
    if host.shape != (32,):
        right(target, host)
