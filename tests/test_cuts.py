"""Cutting a text never changes its ids, and is done only where that is known."""
import json
import random

import pytest
import tokenizers
from corpora import small_tokenizer, stdlib_texts
from shared import shared

from aprnb.data import cuts
from aprnb.data.tokenizer import from_json

ALPHABET = ["a", "B", "é", "中", "ſ", "7", "²", "_", ".", "'s", "'", "\n", "\n", "\r\n", "\r", " ",
            "  ", "\t", "\u00a0", "\u0301", "\u2028", "\x00", "<|endoftext|>", "<", "🙂", "ﬁ"]


def with_pattern(pattern, normalizer=None):
    """The small vocabulary behind another pre-tokeniser."""
    spec = json.loads(small_tokenizer().text)
    spec["normalizer"] = normalizer
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
         "use_regex": False}]}
    return from_json(json.dumps(spec))


TOKENIZERS = {"gpt-2": small_tokenizer, "qwen2": lambda: with_pattern(cuts.KNOWN_PATTERNS[0],
                                                                      {"type": "NFC"}),
              "llama-3": lambda: with_pattern(cuts.KNOWN_PATTERNS[1])}


@pytest.mark.parametrize("special", ["text", "control"])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_pieces_have_the_ids_of_the_whole(name, special, monkeypatch):
    monkeypatch.setattr(cuts, "PIECE", 1)  # cut wherever it is allowed
    tokenizer = TOKENIZERS[name]().taking_special_tokens_as(special)
    assert cuts.cuttable(json.loads(tokenizer.text))
    library = tokenizers.Tokenizer.from_str(tokenizer.text)
    library.encode_special_tokens = special == "text"
    generator = random.Random(1)
    texts = ["".join(generator.choices(ALPHABET, k=60)) for _ in range(3000)]
    texts += stdlib_texts(200_000)
    assert sum(len(cuts.pieces(text)) > 1 for text in texts) > 2000
    want = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert tokenizer.encode_batch(texts) == want


def test_the_real_qwen2_tokenizer_is_one_of_the_known():
    assert cuts.cuttable(json.loads(shared("data", "qwen2-tokenizer", "tokenizer.json")
                                    .read_bytes()))


def test_pieces_are_long_enough_and_join_to_the_text():
    text = "".join(stdlib_texts(200_000))
    parts = cuts.pieces(text)
    assert "".join(parts) == text and len(parts) > 20
    assert min(len(part) for part in parts[:-1]) >= cuts.PIECE
    assert cuts.pieces("") == [""] and cuts.pieces("x" * 9999) == ["x" * 9999]


def change(key, value):
    spec = json.loads(small_tokenizer().text)
    spec[key] = value
    return spec


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
              "use_regex": True}
ADDED = {"id": 0, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False, "special": True}


@pytest.mark.parametrize("spec", [
    change("normalizer", {"type": "Lowercase"}),
    change("pre_tokenizer", BYTE_LEVEL | {"add_prefix_space": True}),
    change("pre_tokenizer", BYTE_LEVEL | {"use_regex": False}),
    change("pre_tokenizer", {"type": "Whitespace"}),
    change("pre_tokenizer", {"type": "Sequence", "pretokenizers": [
        {"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}),
    change("pre_tokenizer", json.loads(with_pattern(r"\w+\n|.").text)["pre_tokenizer"]),
    change("added_tokens", [ADDED | {"lstrip": True}]),
    change("added_tokens", [ADDED | {"content": "end\n"}])])
def test_what_is_not_known_is_not_cut(spec):
    assert not cuts.cuttable(spec)
