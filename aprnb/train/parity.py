"""Parity: the same model, computed here and by another framework, number by number.

A reference is an .npz with any of these keys (tools/make_reference.py writes them from a Hugging
Face folder with transformers in float32):

    input_ids (B, T), hidden_first8 (L+1, B, T, 8), hidden_mean, hidden_std (L+1,)
        residual stream after the embedding and layers 1..L-1, and after the final norm
    logits_last (B, n, V)                 logits of the last n positions
    heldout_tokens, heldout_losses (W,)   windows of WINDOW + 1 tokens, mean loss of each in nats
    grad_loss, gradnorm/<name>, grad/<name>    first 4 windows, their first 256 tokens
    traj_loss, traj_gradnorm (S,)         AdamW steps on two windows each, in turn
    greedy (1, P + 64)                    prompt and its greedy continuation
"""
import math

import numpy as np

from ..errors import CheckError
from ..generate.greedy import continue_greedy
from ..model.instance import Model
from ..model.stages import departure
from .evaluate import Evaluator
from .reference import NEW_TOKENS, WINDOW, check_reference, tensor_name
from .step import OptimiserSettings, Trainer

SHORT = 256  # tokens of a window that gradients and the trajectory use: 255 targets
TRAJECTORY = OptimiserSettings(beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, decay_on="all",
                               grad_clip=1.0)
TRAJECTORY_LR = 3e-4

# Departures allowed, by precision. Activations, logits and gradients: against their largest value.
# Held-out losses: relative. Trajectory in fp32: relative, every step. In bf16 the trajectory is
# held against its own largest loss and norm: it over-fits eight windows, and near zero loss the
# rounding of bf16 weights grows into any relative error (1.2 % and 11 % of scale on an H200).
LIMITS = {
    "fp32": {"scale": 1e-3, "heldout": 1e-4, "loss": 1e-3, "norm": 1e-3},
    "bf16": {"scale": 0.1, "heldout": 1e-2, "loss": 0.05, "norm": 0.2},
}


def compare_with_reference(source, backend, reference):
    """Rows {name, value, limit, ok} for everything that the reference holds, in data-flow order.

    source: an opened model; reference: mapping of the keys above to arrays.
    Errors: CheckError if the reference holds none of the keys, or is of another model.
    """
    check_reference(reference, source.config)
    model = Model.from_file(source, backend)
    limits = LIMITS[backend.precision]
    rows = []
    if "input_ids" in reference:
        rows += _activations(model, reference, limits)
    if "heldout_losses" in reference:
        rows += _heldout(model, reference, limits)
    if "grad_loss" in reference:
        rows += _gradients(model, reference, limits)
    if "greedy" in reference:
        rows += _greedy(model, reference)
    if "traj_loss" in reference:  # last: it changes the weights
        rows += _trajectory(model, reference, limits)
    if not rows:
        raise CheckError("the reference holds none of input_ids, heldout_losses, grad_loss, "
                         "traj_loss, greedy: nothing was compared")
    return rows


def compare_backends(source, first, second, batch=2, length=64, seed=0):
    """Rows for loss, gradient norm and every gradient tensor of one random batch, two backends."""
    rng = np.random.default_rng(seed)
    window = rng.integers(0, source.config.vocab_size, (batch, length + 1), np.int32)
    sides = [_loss_and_gradients(Model.from_file(source, b), window) for b in (first, second)]
    (loss_a, norm_a, grads_a), (loss_b, norm_b, grads_b) = sides
    limits = LIMITS["bf16" if "bf16" in (first.precision, second.precision) else "fp32"]
    rows = [_row("loss", _relative(loss_b, loss_a), limits["scale"]),
            _row("gradient norm", _relative(norm_b, norm_a), limits["scale"])]
    return rows + [_row(f"gradient {name}", departure(grads_b[name], grads_a[name]),
                        limits["scale"]) for name in grads_a]


# ---------------------------------------------------------------- one part of a reference each

def _activations(model, reference, limits):
    ids = np.asarray(reference["input_ids"], np.int32)
    batch, length = ids.shape
    decoder = model.decoder(batch, length, training=True)
    backend, layers = model.backend, model.config.num_layers
    decoder.forward(backend.array(ids.reshape(-1)))
    buffers = [f"{i}.s_attn" for i in range(layers)] + ["y_final"]
    names = ["embedding", *(f"layer {i}" for i in range(layers - 1)), "final norm"]
    rows = []
    for i, (name, buffer) in enumerate(zip(names, buffers)):
        hidden = backend.download(decoder.acts[buffer]).astype(np.float64)
        if "hidden_first8" in reference:
            want = reference["hidden_first8"][i]
            got = hidden.reshape(batch, length, -1)[..., :want.shape[-1]]
            rows.append(_row(f"activation after {name}", departure(got, want), limits["scale"]))
        for key, value in (("mean", hidden.mean()), ("std", hidden.std())):
            if f"hidden_{key}" in reference:
                error = _ratio(value - reference[f"hidden_{key}"][i], hidden.std())
                rows.append(_row(f"activation {key} after {name}", error, limits["scale"]))
    if "logits_last" in reference:
        want = reference["logits_last"]
        n = want.shape[1]
        got = [backend.download(decoder.logits((b + 1) * length - n, (b + 1) * length))
               for b in range(batch)]
        rows.append(_row("logits", departure(np.stack(got), want), limits["scale"]))
    return rows


def _heldout(model, reference, limits):
    want = reference["heldout_losses"]
    windows = _windows(reference, len(want))
    evaluator = Evaluator(model, 1, WINDOW)
    got = [evaluator.losses(w[None]).mean(dtype=np.float64) for w in windows]
    return [_row(f"held-out loss {i}", _relative(g, w), limits["heldout"])
            for i, (g, w) in enumerate(zip(got, want))]


def _gradients(model, reference, limits):
    loss, norm, grads = _loss_and_gradients(model, _windows(reference, 4)[:, :SHORT])
    rows = [_row("gradient loss", _relative(loss, reference["grad_loss"]), limits["scale"])]
    for key in reference:
        kind, _, short = key.partition("/")
        if kind == "gradnorm":
            got = np.linalg.norm(grads[tensor_name(short, grads)].astype(np.float64))
            rows.append(_row(f"gradient norm {short}", _relative(got, reference[key]),
                             limits["scale"]))
        elif kind == "grad":
            rows.append(_row(f"gradient {short}", departure(grads[tensor_name(short, grads)],
                                                            reference[key]), limits["scale"]))
    return rows


def _trajectory(model, reference, limits):
    series = {name: reference[key] for name, key in (("loss", "traj_loss"),
                                                     ("norm", "traj_gradnorm")) if key in reference}
    want = zip(*series.values())
    windows = _windows(reference, 8)[:, :SHORT]
    trainer = Trainer(model, 2, None, SHORT - 1, TRAJECTORY)
    relative = model.backend.precision == "fp32"
    rows = []
    for i, wanted in enumerate(want):
        pair = windows[i % 4 * 2:i % 4 * 2 + 2]
        got = trainer.gradients(pair[:, :-1].copy(), pair[:, 1:].copy())
        trainer.update(TRAJECTORY_LR)
        for name, value, truth in zip(series, got, wanted):
            scale = truth if relative else series[name].max()
            label = "gradient norm" if name == "norm" else name
            rows.append(_row(f"step {i} {label}", _ratio(value - truth, scale), limits[name]))
    return rows


def _greedy(model, reference):
    want = [int(t) for t in np.asarray(reference["greedy"]).reshape(-1)]
    prompt, want = want[:-NEW_TOKENS], want[-NEW_TOKENS:]
    got = continue_greedy(model, prompt, NEW_TOKENS).tokens
    differing = next((i for i, (g, w) in enumerate(zip(got, want)) if g != w), NEW_TOKENS)
    # bf16 may break near ties: its continuation is reported, its first token required
    need = NEW_TOKENS if model.backend.precision == "fp32" else 1
    return [{"name": "greedy continuation, equal tokens", "value": differing, "limit": need,
             "ok": differing >= need}]


# ---------------------------------------------------------------- helpers

def _loss_and_gradients(model, windows):
    inputs, targets = windows[:, :-1].copy(), windows[:, 1:].copy()
    trainer = Trainer(model, len(inputs), None, inputs.shape[1], TRAJECTORY)
    loss, norm = trainer.gradients(inputs, targets)
    host = model.backend.download(trainer.g)
    views = model.table.views(host)
    return loss, norm, {name: views[name] for name in model.table.tensors}


def _windows(reference, count):
    tokens = np.asarray(reference["heldout_tokens"])[:count * (WINDOW + 1)]
    return tokens.reshape(count, WINDOW + 1).astype(np.int32)


def _relative(got, want):
    return _ratio(got - want, want)


def _ratio(error, size):
    """|error| / |size|: 0 where there is no error, infinite where only the size is 0."""
    error, size = abs(float(error)), abs(float(size))
    return error and (error / size if size else math.inf)


def _row(name, value, limit):
    value = float(value)
    return {"name": name, "value": value, "limit": limit, "ok": bool(value <= limit)}
