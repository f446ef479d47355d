"""`eval`: loss of a model on a whole dataset, in nats per token and in bits per byte of text.

    bits per byte = loss_nats * target tokens / (ln 2 * bytes of those tokens)

which compares models with different tokenizers. The bytes are counted token by token where the
model or the dataset brings a tokenizer, else taken as the manifest's mean, else unknown.
"""
import math

import numpy as np

from ..backend import open_backend
from ..data.audit import refuse_meaningless
from ..data.batches import Windows, draw
from ..data.shards import open_dataset
from ..data.tokenizer import TokenizerStyleError
from ..formats.tokenizer_style import byte_alphabet
from ..model.instance import Model
from ..model.rehearsal import refuse_unserved
from .evaluate import evaluate, perplexity
from .inputs import find_tokenizer, short_shards

SCHEMA = "aprnb-eval-v1"
LONGEST = 2048  # target tokens of a window, where nobody says how long the model's were


def score(source, dataset_path, seq_length, batch_size, device, precision, drawn=None, seed=42,
          max_batches=None):
    """Report of an opened model on a dataset, a JSON-able dict.

    seq_length: None for `window_length`;  drawn: as many windows, drawn by the seed as pretrain
    draws those of --val-shard;  max_batches: the first windows, so many batches of them; neither:
    every window.
    Errors: CheckError for data on which a loss means nothing or that another tokenizer made;
    NonFiniteError; DeviceError.
    """
    config, warnings = source.config, list(source.notes)
    seq_length, why = (seq_length, "--seq-length") if seq_length else window_length(source)
    try:
        tokenizer = find_tokenizer(dataset_path, source)
    except TokenizerStyleError as error:
        warnings.append(f"the model's tokenizer cannot be checked against the data: {error}")
        tokenizer = None
    dataset = open_dataset(dataset_path, config.vocab_size, tokenizer and tokenizer.digest)
    refuse_meaningless(dataset, config.vocab_size, seq_length)
    windows = Windows(dataset, seq_length)
    backend = open_backend(device, precision)
    refuse_unserved(config, backend, min(batch_size, len(windows)), seq_length, False,
                    where=str(source.path))
    model = Model.from_file(source, backend, trainable=False)
    if drawn:
        indices = draw(len(windows), drawn, seed)
    else:
        indices = range(min(len(windows), (max_batches or len(windows)) * batch_size))
    result = evaluate(model, windows, batch_size, indices)
    separator = (dataset.manifest or {}).get("eos_token_id")
    nbytes = text_bytes(windows, indices, tokenizer, dataset.bytes_per_token, separator)
    bits = result.loss_nats * result.tokens / math.log(2)
    ppl = perplexity(result.loss_nats)
    return {"schema": SCHEMA, "model": str(source.path), "dataset": str(dataset_path),
            "seq_length": seq_length, "seq_length_from": why, "loss_nats": result.loss_nats,
            "ppl": ppl if math.isfinite(ppl) else None, "ln_vocab": math.log(config.vocab_size),
            "bits_per_byte": bits / nbytes if nbytes else None,
            "tokens": result.tokens, "windows": result.windows,
            "windows_left_out": len(windows) - result.windows,
            "tokens_in_no_window": windows.left_out(), "device": model.backend.reason,
            "warnings": warnings + list(dataset.warnings) + short_shards(windows)}


def window_length(source):
    """(target tokens of a window, why so many) of an opened model: what it was trained with, else
    as many as it has positions, at most LONGEST."""
    positions = source.config.max_position_embeddings
    settings = source.metadata.get("training_settings")
    trained = settings.get("seq_length") if isinstance(settings, dict) else None
    if type(trained) is int and 1 <= trained <= positions:
        return trained, "the length that the model was trained with"
    if positions <= LONGEST:
        return positions, "the positions of the model"
    return LONGEST, f"at most, of the model's {positions:,} positions"


def text_bytes(windows, indices, tokenizer, mean, separator=None):
    """UTF-8 bytes that the target tokens of these windows stand for, or None.

    separator: id between the documents, where it is not the tokenizer's end of text.
    """
    if tokenizer is None:
        return mean and mean * len(indices) * windows.seq_length
    sizes = token_bytes(tokenizer)
    if type(separator) is int and 0 <= separator < len(sizes):
        sizes[separator] = 0
    return sum(int(sizes[targets[targets < len(sizes)]].sum())
               for targets in (windows[i][1:] for i in indices))


def token_bytes(tokenizer):
    """(size,) i64: bytes of text of every id; 0 for an end of text and for ids without a token.

    In a byte-level vocabulary each character of a token stands for one byte; an added token that
    has other characters is counted as the UTF-8 it is spelled with.
    """
    alphabet, sizes = set(byte_alphabet()), np.zeros(tokenizer.size, np.int64)
    for token, i in tokenizer.vocabulary.items():
        sizes[i] = len(token) if alphabet.issuperset(token) else len(token.encode())
    if tokenizer.eos_id is not None:
        sizes[tokenizer.eos_id] = 0
    return sizes
