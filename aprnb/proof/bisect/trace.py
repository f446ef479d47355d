"""One forward pass with every stage kept: what bisect compares.

The decoder runs as it is, with an `ops` object in place of the backend's that calls the same ops
and downloads what each of them wrote, in order. So the shipped path carries nothing of this, and
whatever the ops or the decoder do wrong is recorded as they do it. What no buffer ever holds, q, k
and v before their bias, is computed by the backend's own product from the same inputs.
"""
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from ...errors import CheckError, NonFiniteError
from ...model.stages import all_logits
from ...train.evaluate import Evaluator


@dataclass
class Trace:
    """Every stage of one side."""

    side: str
    """Who computed it: "cpu, fp32", "the reference"."""
    values: dict
    """Path of a stage (substages.py) -> (R, width) float."""
    cut: dict = field(default_factory=dict)
    """Path -> index into the whole stage, where only a sample of it is known."""
    head: np.ndarray | None = None
    """(V, C), in its storage type: what the final norm was multiplied with; None: nobody says."""


class Recorder:
    """The backend's ops, and beside them what each call of the forward pass wrote."""

    WROTE = {"embedding_forward": 1, "rmsnorm_forward": 2, "add_rmsnorm_forward": 2,
             "linear_forward": 1, "attention_forward": 1, "linear_swiglu_forward": 2}
    """Op -> how many of its first arguments are results that are a stage."""

    def __init__(self, backend):
        self.backend, self.calls = backend, defaultdict(list)

    def __getattr__(self, name):
        op = getattr(self.backend.ops, name)

        def recorded(*args):
            before = self._before(name, args)
            op(*args)
            written = [self._host(x) for x in args[:self.WROTE.get(name, 0)]]
            self.calls[name].append(before + written)
        return recorded

    def _before(self, name, args):
        """What an op reads and no other op leaves behind: q, k, v as the attention finds them, and
        a product without its bias."""
        if name == "attention_forward":
            return [self._host(args[2])]
        if name == "linear_forward" and args[3] is not None:
            y, x, w, _ = args
            alone = self.backend.poisoned(y.size, y.dtype).reshape(y.shape)
            self.backend.ops.linear_forward(alone, x, w, None)
            return [self._host(alone)]
        return []

    def _host(self, x):
        return self.backend.download(x).astype(np.float32)


def trace(model, ids, targets):
    """The Trace of a model over some sequences.  Shapes: ids, targets (B, T) i32

    Errors: CheckError if the decoder does not call the ops that its layers need.
    """
    backend, flat = model.backend, np.ascontiguousarray(ids).reshape(-1)
    decoder = model.decoder(*ids.shape, training=False)
    decoder.ops = recorder = Recorder(backend)
    decoder.forward(backend.array(flat))
    values = _named(recorder.calls, model.config)
    decoder.ops = backend.ops
    values["logits"] = all_logits(model, decoder)
    for key, wanted in (("losses", targets), ("ignored", np.full_like(targets, -1))):
        losses = decoder.losses(backend.array(np.ascontiguousarray(wanted).reshape(-1)))
        values[key] = backend.download(losses)
    windows = np.concatenate([ids, targets[:, -1:]], axis=1)
    if (windows[:, 1:] == targets).all() and targets.min() >= 0:
        values["mean_loss"] = _evaluated(model, windows)
    return Trace(f"{backend.name}, {backend.precision}", values,
                 head=backend.download(decoder.head))


def _evaluated(model, windows):
    """(1,) mean loss in nats as evaluation says it of these windows; NaN where it is not finite."""
    evaluator = Evaluator(model, len(windows), windows.shape[1] - 1)
    try:
        return np.array([evaluator.mean(windows, range(len(windows))).loss_nats])
    except NonFiniteError:
        return np.full(1, np.nan)


def _named(calls, config):
    """Path -> value of every stage up to the final norm, from what the ops wrote."""
    L = config.num_layers
    _check_count(calls, {"embedding_forward": 1, "rmsnorm_forward": 1, "linear_forward": 3 * L,
                         "attention_forward": L, "linear_swiglu_forward": L,
                         "add_rmsnorm_forward": 2 * L})
    out = {"embedding": calls["embedding_forward"][0][0]}
    norm = calls["rmsnorm_forward"][0][0]
    for layer in range(L):
        qkv, branch, mlp = calls["linear_forward"][3 * layer:3 * layer + 3]
        turned, heads = calls["attention_forward"][layer]
        middle, end = calls["add_rmsnorm_forward"][2 * layer:2 * layer + 2]
        act, gate_up = calls["linear_swiglu_forward"][layer]
        gate, up = np.split(gate_up, 2, axis=1)
        stages = {"attn_norm": norm, **_parts(qkv[0], config, "proj"),
                  **_parts(qkv[-1], config, "bias"), **_parts(turned, config, "rope"),
                  "attn_heads": heads, "attn_out": branch[-1], "attn_residual": middle[0],
                  "mlp_norm": middle[1], "gate": gate, "up": up, "swiglu": act, "mlp_out": mlp[-1],
                  "mlp_residual": end[0]}
        out |= {f"{layer}/{key}": value.reshape(len(act), -1) for key, value in stages.items()}
        norm = end[1]
    return out | {"final_norm": norm}


def _parts(qkv, config, step):
    """q, k and v of packed rows."""
    kv = config.num_kv_heads * config.head_dim
    rows = qkv.reshape(-1, config.num_heads * config.head_dim + 2 * kv)
    cuts = rows.shape[1] - 2 * kv, rows.shape[1] - kv
    return {f"{p}_{step}": x for p, x in zip("qkv", np.split(rows, cuts, axis=1))}


def _check_count(calls, need):
    for name, count in need.items():
        if len(calls[name]) != count:
            raise CheckError(f"bisect: the decoder calls {name} {len(calls[name])} times where "
                             f"its layers need {count}: the order of the ops itself departs")
