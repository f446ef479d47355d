"""What a dataset consists of, and whether a loss on it could mean anything.

Two strictnesses. `refuse_meaningless` (gate CORPUS-PREFLIGHT of pretrain) refuses only data on
which every number would be meaningless. `audit` (the verbs `tokenize audit` and `encode-corpus`)
also refuses what no real text looks like; its limits stand below. Entropies are in bits: real text
lies near 7 to 10, a corpus turned into <unk> near 0.001, noise at log2 of the vocabulary.
"""
import numpy as np

from ..errors import CheckError
from . import ngrams
from .disguise import MAX_ID, signed

SCHEMA = "aprnb-audit-v1"
ONE_ID_SHARE = 0.99  # more of one id than this is meaningless
MIN_ENTROPY_BITS = 2.0  # two ids reach at most 1 bit, English letters alone about 4
MAX_ENTROPY_SHARE = 0.98  # of log2 V; uniform noise reaches it, text stays below 0.85
NOISE_TOKENS = 16  # times the vocabulary: with fewer tokens noise cannot be told from text
MAX_UNKNOWN = 0.01  # share of unknown tokens
MAX_REPEATED = 0.45  # share of repeated 13-token windows; Python's standard library: 0.22 to 0.27
MAX_SHARED = 0.5  # share of validation's windows that stand in training; standard library: 0.01
MAX_INVALID = 0.1  # share of U+FFFD among the decoded characters
VALIDATION_SHARE = 0.05  # of the tokens: the tail that stands for validation data
SAMPLE_SLICES, SLICE_TOKENS = 8, 8192  # what is decoded
SHOWN_CHARS, SHOWN_IDS = 240, 10
TOLD = ("eos_token_count", "separator_count", "special_tokens", "special_tokens_in_text")
"""Keys of the manifest that the report repeats."""


class MeaninglessData(CheckError):
    """No loss on these tokens would mean anything."""


def count_ids(dataset, vocab_size=None):
    """(ids,) i64 occurrences of each id. MeaninglessData names the first id >= vocab_size."""
    limit = min(vocab_size or MAX_ID, MAX_ID)
    counts = np.zeros(limit, np.int64)
    for file, start, block in dataset.blocks():
        if block.max() >= limit:
            i = int(np.argmax(block >= limit))
            raise MeaninglessData(
                f"{file}: token {start + i} has id {block[i]}{signed(block[i])}, the vocabulary "
                f"has {limit}; "
                + ("use the tokenizer of the model" if vocab_size else "not a file of 32-bit ids"))
        found = np.bincount(block)
        counts[:len(found)] += found
    return counts


def refuse_meaningless(dataset, vocab_size, seq_length):
    """CORPUS-PREFLIGHT: MeaninglessData for no window, an id >= vocab_size, one id above 99 %.

    Returns the entropy of the ids in bits.
    """
    width = seq_length + 1
    if not any(len(shard) >= width for shard in dataset.shards):
        raise MeaninglessData(f"CORPUS-PREFLIGHT: {dataset.path}: no window of {width} tokens, "
                              f"the longest shard has {max(map(len, dataset.shards))}; use "
                              "more text or a shorter --seq-length")
    try:
        counts = count_ids(dataset, vocab_size)
    except MeaninglessData as error:
        raise MeaninglessData(f"CORPUS-PREFLIGHT: {error}") from error
    reason = one_id_reason(counts)
    if reason:
        raise MeaninglessData(f"CORPUS-PREFLIGHT: {dataset.path}: {reason}; a loss on it would be "
                              "near 0 and mean nothing, `aprnb tokenize audit` shows what is there")
    return entropy_bits(counts)


def entropy_bits(counts):
    """Of one id after the other, whatever stood before it."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no "-0.0"


def one_id_reason(counts):
    """Why the counts are those of one id, or None."""
    top, share = int(counts.argmax()), counts.max() / counts.sum()
    if share == 1:
        return f"every token has id {top}"
    if share > ONE_ID_SHARE:
        return f"{share:.2%} of the tokens have id {top}, at most {ONE_ID_SHARE:.0%} is allowed"
    return None


def audit(dataset, tokenizer=None, val=None, vocab_size=None):
    """Report of a dataset as a dict; `findings` lists why it is refused, `ok` is whether none.

    `val` is a validation dataset; without one the last 5 % of the tokens stand for it. Unknown
    %, texts and the decoded sample need the tokenizer and are null without it.
    Keys: tokens; entropy_bits and log2_vocab; unknown_percent, repeated_percent, shared_percent
    (percent); tokens_per_byte (UTF-8 bytes). Errors: MeaninglessData (an id >= the vocabulary).
    """
    vocab_size = vocab_size or dataset.vocab_size or (tokenizer.size if tokenizer else None)
    counts = count_ids(dataset, vocab_size)
    if val:
        count_ids(val, vocab_size)
    report = {"schema": SCHEMA, "path": str(dataset.path), "shards": len(dataset.shards),
              "tokens": dataset.tokens, "vocab_size": vocab_size}
    report |= id_report(counts, vocab_size, tokenizer)
    report |= {key: (dataset.manifest or {}).get(key) for key in TOLD}
    report |= text_report(dataset, tokenizer, counts)
    report |= repeat_report(dataset, val)
    report["validation"] = str(val.path) if val else "tail"
    report["findings"] = findings(report, counts, dataset)
    report["ok"] = not report["findings"]
    return report


def id_report(counts, vocab_size, tokenizer):
    order = np.argsort(-counts, kind="stable")[:SHOWN_IDS]
    unk = tokenizer.unk_id if tokenizer else None
    unknown = None if tokenizer is None else 0.0 if unk is None else share_of(counts, unk)
    return {
        "distinct": int((counts > 0).sum()),
        "entropy_bits": entropy_bits(counts),
        "log2_vocab": float(np.log2(vocab_size)) if vocab_size else None,
        "unknown_percent": None if unknown is None else 100 * unknown,
        "control_tokens": control_tokens(counts, tokenizer),
        "most_frequent": [{"id": int(i), "text": tokenizer.decode([i]) if tokenizer else None,
                           "percent": 100 * share_of(counts, i)} for i in order if counts[i]],
    }


def control_tokens(counts, tokenizer):
    """{control token: its ids in the shards}, separators included; None without a tokenizer."""
    if tokenizer is None:
        return None
    found = {token: int(counts[i]) for token, i in tokenizer.controls.items() if i < len(counts)}
    return {token: n for token, n in found.items() if n}


def share_of(counts, token):
    return float(counts[token] / counts.sum()) if token < len(counts) else 0.0


def text_report(dataset, tokenizer, counts):
    """Tokens per byte (from the manifest, else from the sample) and what the sample says.

    The end-of-text tokens that separate documents stand for no byte and are not counted.
    """
    known = dataset.bytes_per_token
    eos = (dataset.manifest or {}).get("eos_token_id", tokenizer and tokenizer.eos_id)
    separators = share_of(counts, eos) if type(eos) is int and eos >= 0 else 0.0
    report = {"tokens_per_byte": (1 - separators) / known if known else None,
              "invalid_percent": None, "sample": None}
    if tokenizer:
        slices = sample_slices(dataset)
        texts = [tokenizer.decode(ids) for ids in slices]
        text = "".join(texts)
        report["invalid_percent"] = 100 * text.count("\ufffd") / max(1, len(text))
        report["sample"] = texts[len(texts) // 2][:SHOWN_CHARS]
        if not known:
            ends = sum(int(np.count_nonzero(ids == eos)) for ids in slices)
            spelled = len(tokenizer.decode([eos]).encode()) if ends else 0
            report["tokens_per_byte"] = ((sum(map(len, slices)) - ends)
                                         / max(1, len(text.encode()) - ends * spelled))
    return report


def sample_slices(dataset):
    """Eight slices of tokens spread evenly over the shards; small datasets whole."""
    if dataset.tokens <= SAMPLE_SLICES * SLICE_TOKENS:
        return [np.array(shard) for shard in dataset.shards]
    ends = np.cumsum([len(shard) for shard in dataset.shards])
    slices = []
    for k in range(SAMPLE_SLICES):
        position = k * dataset.tokens // SAMPLE_SLICES
        i = int(np.searchsorted(ends, position, side="right"))
        start = position - int(ends[i]) + len(dataset.shards[i])
        slices.append(dataset.shards[i][start:start + SLICE_TOKENS])
    return slices


def repeat_report(dataset, val):
    """Repeated windows, and windows that validation shares with training."""
    mask = ngrams.sampling_mask(dataset.tokens)
    everything, held_out = (
        ngrams.window_hashes((block for _, _, block in each.blocks()), mask) if each else None
        for each in (dataset, val))
    if val:
        train = everything
    else:
        cut = len(everything) - max(1, int(VALIDATION_SHARE * len(everything)))
        train, held_out = everything[:cut], everything[cut:]
    return {"repeated_percent": 100 * ngrams.repeated_share(everything),
            "shared_percent": 100 * ngrams.shared_share(held_out, train)}


def findings(report, counts, dataset):
    """Every reason to refuse the dataset, as sentences with the value and the limit."""
    found = [one_id_reason(counts)]
    entropy, bits = report["entropy_bits"], report["log2_vocab"]
    if entropy < MIN_ENTROPY_BITS:
        found.append(f"entropy {entropy:.3f} bits from {report['distinct']} distinct ids, "
                     f"text has more than {MIN_ENTROPY_BITS:.0f}")
    if bits and report["tokens"] >= NOISE_TOKENS * report["vocab_size"] \
            and entropy > MAX_ENTROPY_SHARE * bits:
        found.append(f"entropy {entropy:.2f} of {bits:.2f} bits: ids are spread like noise, "
                     f"text stays below {MAX_ENTROPY_SHARE:.0%}")
    for key, limit, what in (
            ("unknown_percent", MAX_UNKNOWN, "of the tokens are the unknown token"),
            ("invalid_percent", MAX_INVALID, "of the decoded sample is no UTF-8"),
            ("repeated_percent", MAX_REPEATED, "of the 13-token windows repeat an earlier one"),
            ("shared_percent", MAX_SHARED, "of validation's windows stand in training")):
        if report[key] is not None and report[key] > 100 * limit:
            found.append(f"{report[key]:.2f} % {what}, at most {100 * limit:.0f} % is allowed")
    if report["tokens_per_byte"] and report["tokens_per_byte"] > 1:
        found.append(f"{report['tokens_per_byte']:.2f} tokens per byte of text, at most 1 is "
                     "possible: mostly end-of-text or not this tokenizer's ids")
    return [reason for reason in found if reason]


def refuse_degenerate(report, way_out=""):
    """MeaninglessData with all findings of an audit report, if there are any."""
    if report["findings"]:
        raise MeaninglessData(f"{report['path']}: degenerate corpus: "
                              + "; ".join(report["findings"]) + way_out)


def verdict(report, allowed):
    """What a manifest records of an audit: the findings, and whether they were overruled."""
    return {"findings": report["findings"], "allowed": bool(report["findings"] and allowed)}
