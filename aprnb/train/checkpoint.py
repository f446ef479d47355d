"""Checkpoints: a trained model as an .apr file that every verb reads, and what resuming needs.

    epoch-NNN.apr            float32 weights under Hugging Face names (no lm_head if tied), the
                             hyper-parameters, tokenizer and chat template, the settings of the run
    epoch-NNN.metadata.json  the nine keys of the reference
    state-NNNNNN.apr         the same, and beside each weight both moments of AdamW
                             (`__training__.m.<name>`, `__training__.v.<name>`, skipped by readers
                             of models), the numbers of every record (`__training__.records`, see
                             records.py) and the key `training_state`
    aborted-NNNNNN.apr       the same, of a run that ended as NON-FINITE

One file holds a whole state, so one rename makes it true: weights, moments and position can never
be of different steps. It is written last, after the records that it counts are durable.
"""
import math

import numpy as np

from ..config import to_apr
from ..dtypes import F32
from ..errors import CheckError, NonFiniteError, StorageError
from ..formats.apr import write_apr
from ..formats.convert import MODEL_TYPE
from .evaluate import perplexity

MOMENTS = ("m", "v")
NUMBERS_NAME = "__training__.records"
UNKNOWN = -1.0  # in the file for NaN, which no sound file holds; none of these is so small
STATE_SCHEMA = "aprnb-training-state-v1"
METADATA_KEYS = ("epoch", "train_loss", "val_loss", "train_ppl", "val_ppl", "optimizer_state_sha",
                 "wall_seconds", "tokens_seen", "grad_norm_max")


def write_checkpoint(path, model, luggage, facts, more_tensors=None):
    """Write a model as one .apr file; replaces a file of that name.

    luggage: metadata keys of tokenizer and chat template;  facts: keys about the training.
    Errors: NonFiniteError if a weight is NaN or infinite (nothing is written); StorageError.
    """
    tensors = model.tensors()
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise NonFiniteError(f"{path}: not written: {name} holds NaN or infinite weights; the "
                                 "checkpoint before is the last good one")
    config = model.config
    metadata = {"model_type": MODEL_TYPE[config.family], "name": path.stem,
                "model_name": f"{config.family}-pretrain", **to_apr(config), **luggage,
                "format": "aprnb-checkpoint", **facts}
    tensors |= more_tensors or {}
    try:
        write_apr(path, metadata, tensors, force=True)
    except StorageError as error:
        nbytes = sum(array.nbytes for array in tensors.values())
        raise StorageError(f"{error} (the file needs {nbytes:,} bytes)") from error


def epoch_metadata(epoch, train_loss, val_loss, state_sha, wall_seconds, tokens_seen,
                   grad_norm_max):
    """The nine keys of epoch-NNN.metadata.json.

    train_loss (mean over the epoch's steps, None if all were skipped) and val_loss in nats, the
    ppl keys e to these;  state_sha: SHA-256 of moments and step count;  tokens_seen: since the
    run began.
    """
    values = (epoch, train_loss, val_loss, _ppl(train_loss), _ppl(val_loss), state_sha,
              wall_seconds, tokens_seen, grad_norm_max)
    return dict(zip(METADATA_KEYS, values, strict=True))


def _ppl(loss_nats):
    """Perplexity, or None where JSON has no number for it."""
    ppl = perplexity(loss_nats) if loss_nats is not None else math.inf
    return ppl if math.isfinite(ppl) else None


# ---------------------------------------------------------------- state

def write_state(path, model, trainer, luggage, facts, position, numbers=()):
    """Write all that the rest of the run depends on; `position` is a JSON-able dict.

    numbers: (n, 4) f64 of the n records before it, NaN where one is not known.
    """
    state = trainer.state()
    moments = {NUMBERS_NAME: np.nan_to_num(numbers, nan=UNKNOWN)} if len(numbers) else {}
    for kind in MOMENTS:
        moments |= {_moment(kind, name): array
                    for name, array in _by_tensor(model, state[kind]).items()}
    position = {"schema": STATE_SCHEMA, "optimiser_step": int(state["step"][0]), **position}
    write_checkpoint(path, model, luggage, facts | {"training_state": position}, moments)


def read_position(opened):
    """The `training_state` of an opened state file. Errors: CheckError if it is another file."""
    position = opened.metadata.get("training_state")
    if not isinstance(position, dict) or position.get("schema") != STATE_SCHEMA:
        raise CheckError(f"{opened.path}: holds no training state of schema {STATE_SCHEMA}; use "
                         "--init to go on from a model without its optimiser")
    return position


def read_numbers(opened):
    """(n, 4) f64 of the records that an opened state counts; None in states of before."""
    if NUMBERS_NAME not in opened.source.tensors:
        return None if read_position(opened)["position"]["recorded"] else np.zeros((0, 4))
    numbers = opened.source.array(NUMBERS_NAME)
    return np.where(numbers == UNKNOWN, np.nan, numbers)


def restore_trainer(trainer, opened):
    """Put moments and step count of an opened state file back."""
    table = trainer.model.table
    state = {"step": np.array([read_position(opened)["optimiser_step"]], np.int64)}
    for kind in MOMENTS:
        state[kind] = np.zeros(table.elements, F32)
        for name, view in _by_tensor(trainer.model, state[kind]).items():
            view[...] = opened.source.array(_moment(kind, name))
    trainer.restore(state)


def _moment(kind, name):
    return f"__training__.{kind}.{name}"


def _by_tensor(model, arena):
    """Tensor name -> view of a flat arena."""
    views = model.table.views(arena)
    return {name: views[name] for name in model.table.tensors}
