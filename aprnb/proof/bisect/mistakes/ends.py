"""Mistakes at both ends of the model: embedding, losses, their mean. See hypotheses.py."""
import numpy as np

from ....formats.names import EMBEDDING, HEAD
from ..formulas import f64, losses, product
from ..upload import other_type

TILES = (4, 8, 16, 32, 64, 128)  # logits that a loop takes at a time


# ---------------------------------------------------------------- embedding

def other_ids(at, key):
    table, ids = at.w(EMBEDDING), at.ids.reshape(-1)
    for words, step in (("after", 1), ("before", -1)):
        yield f"the row {words} that of each id", f64(table[(ids + step) % len(table)])
        inside = np.clip(ids + step, 0, len(table) - 1)
        if (inside != (ids + step) % len(table)).any():
            yield f"the row {words} that of each id, within the table", f64(table[inside])


def table_misread(at, key):
    """A dtype tag that says the other 16-bit type."""
    for mine, other, values in other_type(at.w(EMBEDDING)[at.ids.reshape(-1)]):
        yield f"the table's bits read as {other} instead of {mine}", f64(values)


def scaled_embedding(at, key):
    """Gemma's convention."""
    yield "rows times sqrt(hidden size)", (
        f64(at.w(EMBEDDING)[at.ids.reshape(-1)]) * at.config.hidden_size ** 0.5)


def head_for_embedding(at, key):
    if not at.config.tied:
        yield "rows of the head instead of the embedding", f64(at.w(HEAD)[at.ids.reshape(-1)])


# ---------------------------------------------------------------- losses

def unshifted_targets(at, key):
    """Predicting what is given: the loss goes to zero."""
    yield "unshifted targets (each token predicts itself)", losses(at, key, at.ids)


def targets_shifted_twice(at, key):
    """Once by the data, once by the model."""
    later = np.roll(at.targets, -1, axis=1)
    yield "targets shifted twice", losses(at, key, later)


def logit_of_another(at, key):
    vocabulary = at.config.vocab_size
    for words, step in (("after", 1), ("before", -1)):
        shifted = np.where(at.targets < 0, -1, (at.targets + step) % vocabulary)
        yield f"the logit {words} that of each target", losses(at, key, shifted)


def probability_for_logit(at, key):
    """The target's logit read when the softmax stands in its place."""
    z = at("logits")
    rows, targets = np.arange(len(z)), np.maximum(at.targets.reshape(-1), 0)
    top = z.max(axis=1)
    lse = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    yield ("the target's probability in the place of its logit",
           np.where(at.targets.reshape(-1) < 0, 0, lse - np.exp(z[rows, targets] - lse)))


def logits_left_out(at, key):
    """A loop over the vocabulary that ends early."""
    z = at("logits")
    for tile in (z.shape[1] - 1, *TILES):
        whole = z.shape[1] // tile * tile
        if 0 < whole < z.shape[1]:
            top = z.max(axis=1)
            less = np.log(np.exp(z[:, :whole] - top[:, None]).sum(axis=1)) - np.log(
                np.exp(z - top[:, None]).sum(axis=1))
            yield (f"the last {z.shape[1] - whole} of {z.shape[1]} logits left out of the sum",
                   losses(at, key) + np.where(at.targets.reshape(-1) < 0, 0, less))


def scored_as_id_0(at, key):
    """ignore_index lost on the way."""
    yield "a target of id 0 where there is none", losses(at, key, np.zeros_like(at.ids))


def wrong_logarithm(at, key):
    """A uniform model scores ln V nats, log2 V bits."""
    right = losses(at, key)
    yield "log2 units: bits instead of nats", right / np.log(2)
    yield "log10 instead of the natural logarithm", right / np.log(10)


def divided_again(at, key):
    """A mean taken twice."""
    batch, length = at.ids.shape
    for words, n in (("sequence length", length), ("number of rows", batch * length)):
        if n > 1:
            yield f"every loss divided by the {words} ({n})", losses(at, key) / n


def losses_of_tied_head(at, key):
    """The logits right, the fused loss with another weight."""
    if not at.config.tied:
        z = product(at("final_norm"), at.w(EMBEDDING))
        yield ("the tied embedding instead of the model's own head",
               losses(at, key, logits=z))


def probability_floor(at, key):
    """What some write against log 0: no loss above 23.03 or 18.42 nats."""
    for floor in (1e-10, 1e-8):
        yield (f"log(p + {floor:g}) instead of log p",
               -np.log(np.exp(-losses(at, key)) + floor) * (at.targets.reshape(-1) >= 0))


# ---------------------------------------------------------------- mean

def wrong_count(at, key):
    """What a sum of losses is divided by instead of the targets."""
    batch, length = at.ids.shape
    total, count = at("losses").sum(keepdims=True), max(1, (at.targets >= 0).sum())
    counts = {"one target a sequence too few": count - batch, "inputs and targets (T + 1)":
              count + batch, "sequences": batch, "positions of one sequence": length,
              "one": 1, "tokens times sequence length": count * length}
    for words, n in counts.items():
        if n > 0 and n != count:
            yield f"mean over a wrong count: {words} ({n} instead of {count})", total / n


def mean_of_bits(at, key):
    yield "log2 units: bits instead of nats", (
        at("losses").sum(keepdims=True) / np.log(2) / max(1, (at.targets >= 0).sum()))


def mean_of_unshifted(at, key):
    yield ("unshifted targets (each token predicts itself)",
           losses(at, key, at.ids).mean(keepdims=True))


KNOWN = {
    "embedding": (other_ids, table_misread, scaled_embedding, head_for_embedding),
    "losses": (unshifted_targets, targets_shifted_twice, logit_of_another, probability_for_logit,
               logits_left_out, wrong_logarithm, divided_again, losses_of_tied_head,
               probability_floor),
    "ignored": (scored_as_id_0,),
    "mean": (wrong_count, mean_of_bits, mean_of_unshifted),
}
