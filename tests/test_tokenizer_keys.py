"""tokenizer.json as metadata keys, by hand: ids, merges, special tokens, what is refused."""
import json

import pytest

from aprnb.errors import LoadError
from aprnb.formats.tokenizer_keys import (generation_settings, special_id_keys, token_ids,
                                          tokenizer_keys, tokenizer_settings)

TOKENS = {"a": 0, "b": 1, "<s>": 2, "</s>": 5}


def document(vocab, added=(), **model):
    return json.dumps({"model": {"vocab": vocab, **model}, "added_tokens": list(added)})


def test_the_keys_of_a_small_tokenizer():
    text = document({"b": 1, "a": 0}, [{"id": 3, "content": "<s>"}], type="WordLevel",
                    merges=["a b", ["b", "a"]])
    assert tokenizer_keys(text, "t.json", 4) == {
        "tokenizer.vocabulary": ["a", "b", "[PAD2]", "<s>"], "tokenizer.vocab_size": 4,
        "tokenizer.model_type": "WordLevel", "tokenizer.merges": ["a b", "b a"],
        "tokenizer.json": text}
    with pytest.raises(LoadError, match="t.json: tokenizer has 4 ids, the model's vocabulary 3"):
        tokenizer_keys(text, "t.json", 3)


def test_what_a_tokenizer_may_leave_out():
    text = json.dumps({"model": {"vocab": {"a": 0}}})
    keys = tokenizer_keys(text, "t.json", 1)
    assert keys["tokenizer.model_type"] == "BPE" and keys["tokenizer.merges"] == []
    assert token_ids(json.dumps({"model": {"vocab": {"a": 0}}, "added_tokens": None}), "t") == {
        "a": 0}


def test_an_added_token_wins_over_the_vocabulary():
    assert token_ids(document({"a": 0, "b": 1}, [{"id": 2, "content": "a"}]), "t.json") == {
        "a": 2, "b": 1}


NO_TOKENIZER = "t.json: is no tokenizer.json"


@pytest.mark.parametrize("text, words", [
    ("{", NO_TOKENIZER), ("[]", NO_TOKENIZER), ("{}", NO_TOKENIZER), ("[" * 100_000, NO_TOKENIZER),
    ('{"model": {"vocab": 3}}', NO_TOKENIZER),
    (document({"a": 0}, [{"id": 1}]), NO_TOKENIZER), (document({"a": 0}, [1]), NO_TOKENIZER),
    (document({}), "vocabulary is empty or holds"),
    (document({"a": -1}), "ids that are no integers >= 0"),
    (document({"a": True}), "ids that are no integers >= 0"),
    (document({"a": 2**31}), "ids that are no integers >= 0"),
    (document({"a": 2**31 - 1}), "id 2147483647 among 1 tokens; the ids are damaged"),
    (document({"a": 1029}), "id 1029 among 1 tokens; the ids are damaged"),
    (document({"a": 0}, merges={"a": 1}), "model.merges is no list"),
    (document({"a": 0}, merges=["a"]), "merge 'a' is no pair of tokens"),
    (document({"a": 0}, merges=["a b c"]), "merge 'a b c' is no pair"),
    (document({"a": 0}, merges=[["a", 1]]), "is no pair of tokens"),
    (document({"a": 0}, merges=[{"a": 1, "b": 2}]), "is no pair of tokens"),
])
def test_every_refusal_says_what_is_wrong(text, words):
    with pytest.raises(LoadError, match=words):
        tokenizer_keys(text, "t.json", 10_000)


def test_ids_may_have_holes_up_to_four_times_the_tokens_and_1024():
    assert token_ids(document({"a": 1028}), "t.json") == {"a": 1028}
    assert token_ids(document({"a": 0, "b": 1032}), "t.json")["b"] == 1032
    with pytest.raises(LoadError, match="id 1033 among 2 tokens"):
        token_ids(document({"a": 0, "b": 1033}), "t.json")


@pytest.mark.parametrize("config, generation, tokenizer, want", [
    ({}, {}, {}, {}),
    ({"eos_token_id": 1}, {}, {}, {"tokenizer.eos_token_id": 1}),
    ({"eos_token_id": 1}, {"eos_token_id": 0}, {"eos_token": "<s>"}, {"tokenizer.eos_token_id": 0}),
    ({"bos_token_id": 0}, {}, {"bos_token": "<s>"}, {"tokenizer.bos_token_id": 0}),
    ({}, {}, {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "a"},
     {"tokenizer.bos_token_id": 2, "tokenizer.eos_token_id": 5, "tokenizer.padding_token_id": 0}),
    ({}, {"eos_token_id": [5, 1]}, {},
     {"tokenizer.eos_token_id": 5, "tokenizer.eos_token_ids": [5, 1]}),
    ({}, {"pad_token_id": [5, 1]}, {}, {"tokenizer.padding_token_id": 5}),
    ({"eos_token_id": -1, "bos_token_id": True, "pad_token_id": "a"}, {"eos_token_id": []}, {}, {}),
    ({"eos_token_id": [-1, 5, "a"]}, {}, {}, {"tokenizer.eos_token_id": 5}),
    ({}, {}, {"bos_token": "absent", "eos_token": {"content": ["a"]}, "pad_token": ["a"]}, {}),
])
def test_special_ids_by_the_order_of_their_sources(config, generation, tokenizer, want):
    assert special_id_keys(config, generation, tokenizer, TOKENS) == want


def test_settings_made_up_for_a_model_that_came_without():
    keys = {"tokenizer.bos_token_id": 2, "tokenizer.eos_token_id": 5,
            "tokenizer.eos_token_ids": [5, 1], "tokenizer.padding_token_id": 0}
    assert generation_settings(keys) == {"bos_token_id": 2, "eos_token_id": [5, 1],
                                         "pad_token_id": 0}
    assert generation_settings({"tokenizer.eos_token_id": 5}) == {"eos_token_id": 5}
    assert tokenizer_settings(keys, TOKENS) == {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "a"}
    assert tokenizer_settings({"tokenizer.eos_token_id": 4}, TOKENS) == {
        "tokenizer_class": "PreTrainedTokenizerFast"}
