"""Preflight names the place where a device departs from the oracle, and passes where none does."""
import math

import numpy as np
import pytest

from aprnb.backend import open_backend
from aprnb.config import ModelConfig
from aprnb.errors import CheckError
from aprnb.model.instance import Model
from aprnb.train.preflight import preflight
from tolerance import BF16, EPS

pytestmark = pytest.mark.numeric

CONFIG = ModelConfig("qwen2", 16, 3, 4, 2, 8, 24, 61, 64, 1e4, 1e-6, True, initializer_range=0.3)
WINDOW = np.random.default_rng(0).integers(0, 61, 41).astype(np.int32)


def model_with(precision="fp32", **faults):
    """A model on the CPU some of whose ops are replaced: (faulty op)(right op, *arguments)."""
    backend = open_backend("cpu", precision)
    for name, fault in faults.items():
        right = getattr(backend.ops, name)
        setattr(backend.ops, name, lambda *args, right=right, fault=fault: fault(right, *args))
    model = Model.random(CONFIG, backend, seed=0)
    for name, w in model.weights.items():
        if name.endswith(".bias"):
            w[...] = 1.0
    twin = model.twin

    def twin_with_biases(backend):
        other = twin(backend)
        for name, w in other.weights.items():
            if name.endswith(".bias"):
                w[...] = 1.0
        return other
    model.twin = twin_with_biases
    return model


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_right_device_passes(precision):
    report = preflight(model_with(precision), WINDOW)
    assert report.positions == 40
    assert report.ln_vocab_nats == math.log(61)
    # the device is a CPU: in float32 it is the oracle
    step = {"fp32": 0, "bf16": EPS[BF16]}[precision]
    assert abs(report.loss_nats_device / report.loss_nats_oracle - 1) <= step
    assert report.worst_departure <= 1


def adjacent_pairs(right, x, cos, sin, heads):
    """The reference's fault: pairs (2k, 2k+1) are rotated instead of (k, k + D/2)."""
    half = x.shape[3] // 2
    order = np.concatenate([np.arange(0, 2 * half, 2), np.arange(1, 2 * half, 2)])
    y = np.ascontiguousarray(x[..., order])
    right(y, cos, sin, heads)
    x[..., order] = y


def no_bias(right, y, x, w, b):
    right(y, x, w, None)


def no_mask(right, o, lse, qkv):
    """Attention that also sees the next token: shift keys and values by one."""
    H = o.shape[2]
    shifted = qkv.copy()
    shifted[:, :-1, H:] = qkv[:, 1:, H:]
    right(o, lse, shifted)


def eps_1e5(right, y, rstd, x, w, eps):
    right(y, rstd, x * 1e-3, w, 1e-5)


def swapped_halves(right, h, gu, x, w):
    """Gate and up taken for one another."""
    right(h, gu, x, np.roll(w, len(w) // 2, axis=0))


@pytest.mark.parametrize("op, fault, place", [
    ("rope_forward", adjacent_pairs, "layer 0, q, k, v after RoPE"),
    ("linear_forward", no_bias, "layer 0, q, k, v after RoPE"),
    ("attention_forward", no_mask, "layer 0, attention output"),
    ("rmsnorm_forward", eps_1e5, "layer 0, attention norm"),
    ("linear_swiglu_forward", swapped_halves, "layer 0, SwiGLU"),
])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_fault_is_named(op, fault, place, precision):
    with pytest.raises(CheckError, match=f"departs from the oracle first at {place}:") as caught:
        preflight(model_with(precision, **{op: fault}), WINDOW)
    assert caught.value.exit_code == 5


def test_a_wrong_upload_is_named():
    model = model_with()
    model.weights["model.embed_tokens.weight"][WINDOW[3]] *= 1.01
    with pytest.raises(CheckError, match="first at embedding"):
        preflight(model, WINDOW)


@pytest.mark.sim
def test_a_simulated_device_holds_and_computes_what_the_file_says(record_property):
    config = ModelConfig("qwen2", 12, 1, 2, 1, 4, 10, 19, 16, 1e4, 1e-6, True,
                         initializer_range=0.3)
    model = Model.random(config, open_backend("cuda", "fp32"), seed=0)
    report = preflight(model, np.arange(6))
    record_property("worst_departure", float(report.worst_departure))
    assert report.worst_departure <= 1 and report.positions == 5


def test_a_head_that_is_not_its_own_is_named():
    """Known fault 33: an untied head ignored, the embedding used in its place."""
    backend = open_backend("cpu", "fp32")
    model = Model.random(CONFIG.with_(tied=False), backend, seed=0)
    build = model.decoder

    def decoder(*args, **kwargs):
        out = build(*args, **kwargs)
        out.head = model.weights["model.embed_tokens.weight"]
        return out
    model.decoder = decoder
    with pytest.raises(CheckError, match="first at logits"):
        preflight(model, WINDOW)


def test_an_unwritten_buffer_is_seen():
    """A kernel that skips its last row leaves the poison, which is never within a limit."""
    def skip_last_row(right, h, gu, x, w):
        right(h[:-1], gu[:-1], x[:-1], w)
    with pytest.raises(CheckError, match="SwiGLU: inf"):
        preflight(model_with(linear_swiglu_forward=skip_last_row), WINDOW)
