"""What a parity reference may hold: every key checked for type, shape and range, before any work.

`parity` says what the keys mean. A reference of another model is found here, by its sizes.
"""
import re

import numpy as np

from ..errors import CheckError
from ..formats.names import expected_tensors

WINDOW = 512  # target tokens of a held-out window
NEW_TOKENS = 64  # length of the greedy continuation

# Axes of every key. Letters with a meaning fixed by the model: L = layers + 1, F = 8 features,
# V = vocabulary; each of the others is whatever the first key that has it says.
SHAPES = {"input_ids": "BT", "hidden_first8": "LBTF", "hidden_mean": "L", "hidden_std": "L",
          "logits_last": "BNV", "heldout_tokens": "K", "heldout_losses": "W", "grad_loss": "",
          "traj_loss": "S", "traj_gradnorm": "S", "greedy": "1G"}
IDS = ("input_ids", "heldout_tokens", "greedy")
NEEDS = {"hidden_first8": "input_ids", "hidden_mean": "input_ids", "hidden_std": "input_ids",
         "logits_last": "input_ids", "heldout_losses": "heldout_tokens",
         "grad_loss": "heldout_tokens", "traj_loss": "heldout_tokens",
         "traj_gradnorm": "traj_loss", "grad": "grad_loss", "gradnorm": "grad_loss"}
WINDOWS = {"grad_loss": 4, "traj_loss": 8}  # held-out windows that these keys are computed on


def check_reference(reference, config):
    """Errors: CheckError naming the first key that does not fit the model, with got and need."""
    tensors = expected_tensors(config)
    sizes = {"1": 1, "L": config.num_layers + 1, "F": min(8, config.hidden_size),
             "V": config.vocab_size}
    for key in sorted(reference, key=_place):
        group, _, name = key.partition("/")
        if NEEDS.get(group, key) not in reference:
            raise CheckError(f"reference key {key}: it needs {NEEDS[group]} beside it")
        if group in ("grad", "gradnorm"):
            shape = tensors[tensor_name(name, tensors)] if group == "grad" else ()
            _check_array(key, reference[key], dict(enumerate(shape)), range(len(shape)))
        elif key in SHAPES:
            _check_array(key, reference[key], sizes, SHAPES[key])
    _check_ranges(reference, sizes, config)


def tensor_name(short, tensors):
    """Full tensor name of a key such as layer0.q_proj.weight. Errors: CheckError."""
    if short in tensors:
        return short
    match = re.fullmatch(r"layer(\d+)\.(.+)", short)
    found = [n for n in tensors if match and n.startswith(f"model.layers.{match[1]}.")
             and n.endswith(f".{match[2]}")]
    if len(found) != 1:
        raise CheckError(f"reference key {short!r} names no tensor of this model")
    return found[0]


def _place(key):
    """Order of checking: the keys of the table first, so that they fix the sizes."""
    return (list(SHAPES).index(key) if key in SHAPES else len(SHAPES)), key


def _check_array(key, array, sizes, axes):
    """Type and shape; sizes gains the axes that nobody had fixed yet."""
    array = np.asarray(array)
    kinds, noun = ("iu", "integers") if key in IDS else ("f", "floating-point numbers")
    lengths = ", ".join(str(sizes.get(axis, axis)) for axis in axes)
    need = f"{noun} of shape ({lengths}{',' if len(axes) == 1 else ''})"
    fits = (array.dtype.kind in kinds and array.ndim == len(axes) and array.size > 0
            and all(sizes.get(axis, n) == n for axis, n in zip(axes, array.shape)))
    if not fits:
        raise CheckError(f"reference key {key}: got {array.dtype} of shape {array.shape}, need "
                         f"{need}; is it a reference of this model?")
    sizes.update(zip(axes, array.shape))


def _check_ranges(reference, sizes, config):
    """Ids within the vocabulary, lengths within what is there."""
    for key in IDS:
        if key in reference:
            low, high = int(np.min(reference[key])), int(np.max(reference[key]))
            if low < 0 or high >= config.vocab_size:
                raise CheckError(f"reference key {key}: got ids from {low} to {high}, need 0 to "
                                 f"{config.vocab_size - 1}, the vocabulary of the model")
    windows = max([n for key, n in WINDOWS.items() if key in reference] + [sizes.get("W", 0)])
    positions = config.max_position_embeddings
    for key, axis, least, most in (
            ("input_ids", "T", 1, positions), ("logits_last", "N", 1, sizes.get("T")),
            ("heldout_tokens", "K", windows * (WINDOW + 1), None),
            ("greedy", "G", NEW_TOKENS + 1, positions)):
        got = sizes.get(axis, least)
        if got < least or most is not None and got > most:
            raise CheckError(f"reference key {key}: got a length of {got}, need "
                             + (f"at least {least}" if got < least else f"at most {most}"))
