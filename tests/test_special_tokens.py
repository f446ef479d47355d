"""Control tokens that a text mentions are text in a corpus unless asked for; counted anyway."""
import json
import sys

import numpy as np
import processes
import pytest
import tokenizers
from corpora import small_tokenizer, stdlib_texts

from aprnb.data.corpus import Corpus
from aprnb.data.encode import EncodeOptions, encode_corpus, separator_warning
from aprnb.data.shards import open_dataset, repair_manifest
from aprnb.data.tokenizer import from_json, load_tokenizer

MENTION = " GPT-2 ends texts with <|endoftext|>, chats with <|im_end|><|im_end|>.\n"
MENTIONED = {"<|im_end|>": 8, "<|endoftext|>": 4}


def tokenizer():
    """The small vocabulary with <|im_end|> (special) and <tool> (added, not special)."""
    spec = json.loads(small_tokenizer().text)
    one = spec["added_tokens"][0]
    spec["added_tokens"] += [one | {"id": 1024, "content": "<|im_end|>"},
                             one | {"id": 1025, "content": "<tool>", "special": False}]
    return from_json(json.dumps(spec))


def without_special_tokens():
    """The library with the same vocabulary, in which no token is special."""
    spec = json.loads(tokenizer().text)
    spec["added_tokens"] = [t for t in spec["added_tokens"] if not t["special"]]
    return tokenizers.Tokenizer.from_str(json.dumps(spec))


def test_a_mention_is_text_in_a_corpus_and_control_in_a_prompt():
    text = "a <tool>" + MENTION
    plain = without_special_tokens().encode(text).ids
    ours = tokenizer()
    # the token that is added and not special is a word of the vocabulary: its id, a place later
    assert [i if i < 1024 else "<tool>" for i in ours.encode(text)] == [
        i if i < 1024 else "<tool>" for i in plain]
    assert ours.encode_batch([text]) == [ours.encode(text)] and 1025 in ours.encode(text)
    assert not {0, 1024} & set(ours.encode(text)) and ours.decode(ours.encode(text)) == text
    control = ours.taking_special_tokens_as("control")
    assert control.encode(text) == ours.encode_prompt(text) == control.copy().encode(text)
    assert control.encode(text).count(1024) == 2
    assert not {0, 1024} & set(ours.encode(text)), "a prompt between must change nothing"


def test_mentions_are_counted_longest_first():
    assert tokenizer().mentions(MENTION * 4) == MENTIONED
    spec = json.loads(tokenizer().text)
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": 1026, "content": "<|im"})
    assert from_json(json.dumps(spec)).mentions("<|im_end|> <|im") == {"<|im_end|>": 1, "<|im": 1}
    spec["added_tokens"] = []
    assert from_json(json.dumps(spec)).mentions(MENTION) == {}


def corpus(tmp_path):
    (tmp_path / "src").mkdir(exist_ok=True)
    for i, text in enumerate(stdlib_texts(200_000)[:6]):
        (tmp_path / "src" / f"{i}.py").write_bytes((text + MENTION * (i < 4)).encode())
    return Corpus([tmp_path / "src"])


@pytest.mark.parametrize("policy, separators", [("between", 5), ("after", 6), ("none", 0)])
@pytest.mark.parametrize("special", ["text", "control"])
def test_report_and_manifest_count_what_the_shards_hold(tmp_path, special, policy, separators):
    manifest, audit = encode_corpus(corpus(tmp_path), tokenizer(), tmp_path / "out", EncodeOptions(
        eos_policy=policy, special_tokens=special, workers=2))
    ids = np.asarray(open_dataset(tmp_path / "out").shards[0])
    mentions = 4 if special == "control" else 0
    assert (ids == 0).sum() == separators + mentions == manifest["eos_token_count"]
    assert (ids == 1024).sum() == 2 * mentions
    assert manifest["separator_count"] == separators and manifest["special_tokens"] == special
    assert manifest["special_tokens_in_text"] == audit["special_tokens_in_text"] == MENTIONED
    assert audit["control_tokens"] == {token: n for token, n in (
        ("<|endoftext|>", separators + mentions), ("<|im_end|>", 2 * mentions)) if n}
    assert audit["separator_count"] == separators and audit["special_tokens"] == special
    beside = load_tokenizer(tmp_path / "out" / "tokenizer.json")
    assert repair_manifest(tmp_path / "out", beside) == manifest


def test_repair_forgets_counts_of_texts_when_a_shard_changed(tmp_path):
    encode_corpus(corpus(tmp_path), tokenizer(), tmp_path / "out")
    shard = tmp_path / "out" / "shard-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-400])
    manifest = repair_manifest(tmp_path / "out", tokenizer())
    assert manifest["separator_count"] is manifest["special_tokens_in_text"] is None
    assert manifest["eos_token_count"] == 5


def test_the_command_line_says_what_became_of_them(tmp_path):
    corpus(tmp_path)
    (tmp_path / "tok").mkdir()
    tokenizer().save(tmp_path / "tok")
    for option, words in ((), "encoded as text"), (("--special-tokens", "control"), "as control"):
        done = processes.run([sys.executable, "-m", "aprnb", "tokenize", "encode-corpus", "--quiet",
                              "--corpus", "src", "--tokenizer", "tok", "--output", "o", "--force",
                              *option], cwd=tmp_path)
        out = " ".join(done.stdout.split())
        assert done.returncode == 0 and words in out, done
        assert "5 separators" in out and "<|im_end|> 8" in out
    done = processes.run([sys.executable, "-m", "aprnb", "tokenize", "audit", "o"], cwd=tmp_path)
    assert "<|im_end|> 8" in done.stdout and "5 separators" in done.stdout


def test_a_separator_that_texts_produce_too_is_warned_about(tmp_path):
    corpus(tmp_path)
    (tmp_path / "tok").mkdir()
    tokenizer().save(tmp_path / "tok")
    assert separator_warning(tokenizer(), EncodeOptions()) is None
    assert separator_warning(tokenizer(), EncodeOptions(eos_token="<|im_end|>")) is None
    assert separator_warning(tokenizer(), EncodeOptions(eos_policy="none", eos_token="a")) is None
    done = processes.run([sys.executable, "-m", "aprnb", "tokenize", "encode-corpus", "--quiet",
                          "--corpus", "src", "--tokenizer", "tok", "--output", "o",
                          "--eos-token", "a"], cwd=tmp_path)
    assert done.returncode == 0
    assert "warning: 'a' separates documents and is an ordinary token" in done.stderr
    assert "control tokens of the vocabulary: <|endoftext|>, <|im_end|>" in done.stderr
