"""tokenizer.json as metadata keys: lists by which the reference finds its tokenizer, and the whole.

    tokenizer.json         the file as one string: pre-tokeniser and added tokens survive only here
    tokenizer.vocabulary   tokens, index = id, added tokens included
    tokenizer.merges       "a b" strings, whether the file stores strings or pairs
    tokenizer.model_type, tokenizer.vocab_size, tokenizer.{bos,eos,padding}_token_id
    tokenizer.eos_token_ids   ours: all ids that end a text, where there are several
"""
import json

from ..errors import LoadError


def tokenizer_keys(text, where, vocab_size):
    """Metadata keys of a tokenizer.json given as text.

    Errors:  LoadError if it is no tokenizer.json, or holds an id that the model has no row for.
    """
    tokens = token_ids(text, where)
    size = max(tokens.values()) + 1
    if size > vocab_size:
        raise LoadError(f"{where}: tokenizer has {size} ids, the model's vocabulary {vocab_size}; "
                        "need a tokenizer that is not larger than the model")
    # ids that no token has still need a string of their own, since the index is the id
    vocabulary = [f"[PAD{i}]" for i in range(size)]
    for token, i in tokens.items():
        vocabulary[i] = token
    model = json.loads(text)["model"]
    merges = model.get("merges") or []
    if not isinstance(merges, list):
        raise LoadError(f"{where}: model.merges is no list")
    return {
        "tokenizer.vocabulary": vocabulary,
        "tokenizer.vocab_size": size,
        "tokenizer.model_type": model.get("type") or "BPE",
        "tokenizer.merges": [_merge(m, where) for m in merges],
        "tokenizer.json": text,
    }


def token_ids(text, where):
    """{token: id} of a tokenizer.json, added tokens included."""
    try:
        document = json.loads(text)
        vocabulary, added = document["model"]["vocab"], document.get("added_tokens") or []
        tokens = dict(vocabulary) | {t["content"]: t["id"] for t in added}
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LoadError(f"{where}: is no tokenizer.json with a model.vocab of {{token: id}} and "
                        "added_tokens of {content, id}") from None
    if not tokens or any(type(i) is not int or not 0 <= i < 1 << 31 for i in tokens.values()):
        raise LoadError(f"{where}: the vocabulary is empty or holds ids that are no integers >= 0")
    if max(tokens.values()) > 4 * len(tokens) + 1024:
        raise LoadError(f"{where}: id {max(tokens.values())} among {len(tokens)} tokens; the ids "
                        "are damaged")
    return tokens


def _merge(merge, where):
    """One merge as "a b"; newer files store pairs, older ones strings."""
    pair = merge.split(" ") if isinstance(merge, str) else merge
    if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(p, str) for p in pair):
        raise LoadError(f"{where}: merge {str(merge)[:80]!r} is no pair of tokens")
    return " ".join(pair)


def special_id_keys(config, generation, tokenizer_config, tokens):
    """Metadata keys of the ids that begin, end and pad a text.

    What generation_config.json says wins over config.json, and both over the token strings of
    tokenizer_config.json: the order in which transformers generates with them.
    """
    found = {}
    for kind in ("bos", "eos", "pad"):
        given = [source.get(f"{kind}_token_id") for source in (generation, config)]
        given.append(_id_of_token(tokenizer_config.get(f"{kind}_token"), tokens))
        found[kind] = next((ids for ids in map(_id_list, given) if ids), [])
    out = {}
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if found[kind]:
            out[f"tokenizer.{key}_token_id"] = found[kind][0]
    if len(found["eos"]) > 1:
        out["tokenizer.eos_token_ids"] = found["eos"]
    return out


def _id_list(value):
    """The ids in a value that may be an integer, a list or nonsense."""
    values = value if isinstance(value, list) else [value]
    return [v for v in values if type(v) is int and v >= 0]


def _id_of_token(token, tokens):
    """Id of a token given as text or as an object with its content."""
    content = token.get("content") if isinstance(token, dict) else token
    return tokens.get(content) if isinstance(content, str) else None


def generation_settings(keys):
    """generation_config.json of a model that came without: the ids of `special_id_keys`."""
    eos = keys.get("tokenizer.eos_token_ids", keys.get("tokenizer.eos_token_id"))
    ids = {"bos_token_id": keys.get("tokenizer.bos_token_id"), "eos_token_id": eos,
           "pad_token_id": keys.get("tokenizer.padding_token_id")}
    return {key: value for key, value in ids.items() if value is not None}


def tokenizer_settings(keys, tokens):
    """tokenizer_config.json of a model that came without: the least that transformers needs."""
    by_id = {i: token for token, i in tokens.items()}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        token = by_id.get(keys.get(f"tokenizer.{key}_token_id"))
        if token is not None:
            settings[f"{kind}_token"] = token
    return settings
