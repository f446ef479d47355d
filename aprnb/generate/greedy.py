"""Greedy continuation: the most likely token, again and again.

Every token runs the whole context through the decoder (no cache of keys and values yet), on a
buffer that grows in powers of two; causality keeps the padding behind the last token unseen.
"""
import time
from dataclasses import dataclass

import numpy as np

from ..errors import LoadError

SHORTEST = 64  # positions of the first decoder
DEFAULT_TOKENS = 128  # new ones, where nobody asked for a number


@dataclass(frozen=True)
class Continuation:
    """New tokens, why they end, and how long they took."""

    tokens: list[int]
    finish_reason: str
    """"stop" at an end-of-text token, "length" after the tokens asked for."""
    prefill_seconds: float
    decode_seconds: float


def continue_greedy(model, prompt, max_tokens=None, stop_ids=()):
    """Up to max_tokens ids after the prompt; an end-of-text id ends it and is not returned.

    max_tokens: None stands for DEFAULT_TOKENS, or fewer where the model's positions end earlier.
    Ties go to the lowest id. Errors: LoadError if the prompt is empty or the model has too few
    positions for prompt and continuation.
    """
    limit = model.config.max_position_embeddings
    max_tokens = _allowed(len(prompt), max_tokens, limit)
    ids, stamps, decoder = list(prompt), [time.perf_counter()], None
    while len(ids) - len(prompt) < max_tokens:
        if decoder is None or decoder.rows < len(ids):
            decoder = model.decoder(1, _positions(len(ids), limit), training=False)
        token = _next(model, decoder, ids)
        stamps.append(time.perf_counter())
        if token in stop_ids:
            return _continuation(ids[len(prompt):], "stop", stamps)
        ids.append(token)
    return _continuation(ids[len(prompt):], "length", stamps)


def _allowed(prompt_tokens, asked, limit):
    """New tokens at most, or LoadError."""
    room = limit - prompt_tokens
    if not prompt_tokens:
        raise LoadError("the prompt holds no token; give at least one character")
    if room < 1:
        raise LoadError(f"the prompt alone has {prompt_tokens} tokens, the model {limit} "
                        "positions, so nothing can follow it; use a shorter prompt")
    if asked is not None and asked > room:
        raise LoadError(f"{prompt_tokens} prompt tokens and {asked} new ones exceed the model's "
                        f"{limit} positions; use --max-tokens {room} or fewer")
    return min(DEFAULT_TOKENS, room) if asked is None else asked


def _next(model, decoder, ids):
    padded = np.zeros(decoder.rows, np.int32)
    padded[:len(ids)] = ids
    decoder.forward(model.backend.array(padded))
    logits = model.backend.download(decoder.logits(len(ids) - 1, len(ids)))
    return int(logits[0].argmax())


def _positions(needed, limit):
    n = SHORTEST
    while n < needed:
        n *= 2
    return min(n, limit)


def _continuation(tokens, reason, stamps):
    first = stamps[1] if len(stamps) > 1 else stamps[0]
    return Continuation(tokens, reason, first - stamps[0], stamps[-1] - first)
