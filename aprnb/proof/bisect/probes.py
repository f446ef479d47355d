"""What a reference .npz lets bisect compare, from the finest to the coarsest.

    stage/<path> (B, T, ...)        every stage of substages.py, of stage/input_ids, stage/targets
                                    (B, T); tools/make_reference.py --stages writes them
    stage/tensors, stage/sha256     names of the tensors, digests of their float32 values
    input_ids, hidden_first8, logits_last, heldout_tokens, heldout_losses
                                    samples, as train/parity.py describes them

Every key is optional. A stage that only a sample of is known of is compared on the sample.
"""
from dataclasses import dataclass

import numpy as np

from ...errors import CheckError
from ...train.reference import WINDOW, check_reference
from .substages import stages
from .trace import Trace

REFERENCE = "the reference"


@dataclass(frozen=True)
class Probe:
    """Some sequences and what the reference says of them."""

    name: str
    ids: np.ndarray
    """(B, T) i32"""
    targets: np.ndarray
    """(B, T) i32, negative where there is none"""
    trace: Trace
    complete: bool
    """Whether every stage is known, so that each can be computed from those before it."""


def probes(reference, config):
    """Probes of a reference, finest first.

    Errors: CheckError if it holds nothing to compare, or is of another model.
    """
    check_reference(reference, config)
    for key in ("hidden_first8", "logits_last", "heldout_losses"):
        bad = ~np.isfinite(reference.get(key, 0.0))
        if bad.any():
            raise CheckError(f"reference key {key}: {bad.sum()} of {bad.size} values are not "
                             "finite: nothing can agree with them")
    found = [*_stages(reference, config), *_samples(reference, config),
             *_heldout(reference, config)]
    if not found:
        raise CheckError("the reference holds no stage with stage/input_ids, no hidden_first8 or "
                         "logits_last with input_ids, no heldout_losses: nothing was compared")
    return found


def digests(reference):
    """Tensor name -> SHA-256 of its float32 values, as far as the reference says."""
    names, sums = (np.atleast_1d(reference.get(f"stage/{k}", ())) for k in ("tensors", "sha256"))
    return dict(zip(map(str, names), map(str, sums)))


def widths(config):
    """Key of a stage -> its number of columns."""
    hidden, ffn = config.hidden_size, config.intermediate_size
    q, kv = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
    out = {f"{p}_{step}": n for p, n in (("q", q), ("k", kv), ("v", kv))
           for step in ("proj", "bias", "rope")}
    return out | {"attn_heads": q, "gate": ffn, "up": ffn, "swiglu": ffn,
                  "logits": config.vocab_size, "losses": 1, **dict.fromkeys(
                      ("embedding", "attn_norm", "attn_out", "attn_residual", "mlp_norm",
                       "mlp_out", "mlp_residual", "final_norm"), hidden)}


def _stages(reference, config):
    if "stage/input_ids" not in reference:
        return
    _refuse_unread(reference, config)
    ids = _ids(reference, "stage/input_ids", config)
    targets = (_ids(reference, "stage/targets", config, ids.shape)
               if "stage/targets" in reference else _next(ids))
    values, width = {}, widths(config)
    for stage in stages(config):
        key = f"stage/{stage.path}"
        if key in reference and stage.key in width:
            values[stage.path] = _values(key, reference[key], ids, width[stage.key])
        if stage.key.endswith("_proj") and not config.qkv_bias:
            _alias(values, stage.path, stage.path.replace("_proj", "_bias"))
    for layer in range(config.num_layers):  # values are not turned
        _alias(values, f"{layer}/v_bias", f"{layer}/v_rope")
    if "losses" in values:
        values["losses"] = values["losses"][:, 0]
        values["ignored"] = np.zeros(ids.size)
        values["mean_loss"] = values["losses"].mean(keepdims=True)
    complete = all(stage.path in values for stage in stages(config))
    if values:
        yield Probe("stages", ids, targets, Trace(REFERENCE, values), complete)


def _refuse_unread(reference, config):
    """A key that nobody reads is a stage that is not compared. Errors: CheckError."""
    known = {f"stage/{stage.path}" for stage in stages(config) if stage.key in widths(config)}
    known |= {f"stage/{key}" for key in ("input_ids", "targets", "tensors", "sha256")}
    for key in reference:
        if key.startswith("stage/") and key not in known:
            raise CheckError(f"reference key {key}: this model has no such stage; is it a "
                             "reference of this model?")
    if "stage/losses" in reference and "stage/targets" not in reference:
        raise CheckError("reference key stage/losses: it needs stage/targets beside it")


def _alias(values, known, same):
    if known in values:
        values.setdefault(same, values[known])


def _samples(reference, config):
    if "input_ids" not in reference:
        return
    ids = _ids(reference, "input_ids", config)
    values, cut = {}, {}
    if "hidden_first8" in reference:
        last = config.num_layers - 1
        paths = ["embedding", *(f"{i}/mlp_residual" for i in range(last)), "final_norm"]
        for path, hidden in zip(paths, reference["hidden_first8"]):
            values[path] = hidden.reshape(ids.size, -1)
            cut[path] = np.s_[:, :hidden.shape[-1]]
    if "logits_last" in reference:
        n = reference["logits_last"].shape[1]
        values["logits"] = reference["logits_last"].reshape(-1, config.vocab_size)
        cut["logits"] = np.arange(ids.size).reshape(ids.shape)[:, -n:].ravel()
    if values:
        yield Probe("samples", ids, _next(ids), Trace(REFERENCE, values, cut), False)


def _heldout(reference, config):
    """The first held-out window, whose mean loss is known."""
    if "heldout_losses" in reference and config.max_position_embeddings >= WINDOW:
        window = np.asarray(reference["heldout_tokens"])[:WINDOW + 1].astype(np.int32)[None]
        loss = np.asarray(reference["heldout_losses"], np.float64)[:1]
        yield Probe("held-out window", window[:, :-1], window[:, 1:],
                    Trace(REFERENCE, {"mean_loss": loss}), False)


def _next(ids):
    """Every token's successor; none for the last."""
    return np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], -1)], axis=1)


def _ids(reference, key, config, shape=None):
    """(B, T) i32 ids. Errors: CheckError."""
    ids = np.asarray(reference[key])
    fits = ids.dtype.kind in "iu" and ids.ndim == 2 and ids.size > 0
    if not fits or shape not in (None, ids.shape):
        raise CheckError(f"reference key {key}: got {ids.dtype} of shape {ids.shape}, need "
                         f"integers of shape {shape or '(B, T)'}")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise CheckError(f"reference key {key}: got ids from {ids.min()} to {ids.max()}, need 0 to "
                         f"{config.vocab_size - 1}, the vocabulary of the model")
    return ids.astype(np.int32)


def _values(key, array, ids, width):
    array = np.asarray(array)
    if array.dtype.kind != "f" or array.shape[:2] != ids.shape or array.size != ids.size * width:
        need = ids.shape if width == 1 else (*ids.shape, width)
        raise CheckError(f"reference key {key}: got {array.dtype} of shape {array.shape}, need "
                         f"floating-point numbers of shape {need}; is it a reference of this "
                         "model?")
    return array.reshape(ids.size, width)
