"""A family's rules: trained with them, and compared with what transformers 5 would build."""
import json
import subprocess
import sys

import hf_fixture as hf
import pytest
import tokenizers
from corpora import small_tokenizer, stdlib_texts
from test_tokenizer_folder import QWEN2

from aprnb.data.tokenizer import from_json, load_tokenizer, train_bpe
from aprnb.errors import AprnbError, Interrupted
from aprnb.formats.convert import export_model, import_model
from aprnb.formats.tokenizer_library import TokenizerFormatError, entered
from aprnb.formats.tokenizer_rules import FAMILIES, PROBES, identity_warnings, rules_of_text

LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
EXPECTED = {"qwen2": ({"type": "NFC"}, QWEN2), "llama": (None, LLAMA3), "gpt2": (None, None)}
CLASSES = {"qwen2": "Qwen2Tokenizer", "llama": "PreTrainedTokenizerFast", "gpt2": "GPT2Tokenizer"}


@pytest.fixture(scope="module")
def trained():
    """{family: tokenizer of 600 tokens} of the same texts."""
    texts = stdlib_texts(200_000) + list(PROBES) * 20
    return {family: train_bpe(iter(texts), 600, family=family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_is_trained_by_the_rules_of_its_family(family, trained, tmp_path):
    spec = json.loads(trained[family].text)
    normalizer, pattern = EXPECTED[family]
    stages = spec["pre_tokenizer"].get("pretokenizers", [spec["pre_tokenizer"]])
    assert spec["normalizer"] == normalizer and stages[-1]["type"] == "ByteLevel"
    assert [s["pattern"]["Regex"] for s in stages[:-1]] == ([pattern] if pattern else [])
    assert stages[-1]["use_regex"] is (pattern is None)
    trained[family].save(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == CLASSES[family]
    assert rules_of_text(spec).name == family


def test_the_pieces_of_a_probe_are_those_of_the_family(trained):
    def words(family):
        ids = trained[family].encode("x 2024\n\n\ny")
        return [trained[family].decode([i]) for i in ids]
    assert words("qwen2")[1:6] == [" ", "2", "0", "2", "4"]
    assert "".join(words("llama")) == "".join(words("gpt2")) == "x 2024\n\n\ny"
    assert trained["qwen2"].encode("e\u0301") == trained["qwen2"].encode("é")
    assert trained["llama"].encode("e\u0301") != trained["llama"].encode("é")


@pytest.mark.parametrize("family, model_type, name, warned", [
    ("qwen2", "qwen2", "Qwen2Tokenizer", False), ("gpt2", "qwen2", "Qwen2Tokenizer", True),
    ("gpt2", "qwen2", "PreTrainedTokenizerFast", True), ("gpt2", "qwen2", None, True),
    ("llama", "qwen2", None, True), ("llama", "llama", "PreTrainedTokenizerFast", False),
    ("gpt2", "llama", "LlamaTokenizer", False), ("gpt2", "llama", None, False),
    ("qwen2", "llama", "Qwen2TokenizerFast", False), ("llama", "llama", "GPT2Tokenizer", True),
    ("gpt2", "llama", "GPT2TokenizerFast", False), ("qwen2", "llama", "GPT2Tokenizer", True)])
def test_a_warning_where_transformers_5_gives_other_ids(trained, family, model_type, name, warned):
    """As seen with AutoTokenizer of transformers 5.24 on folders of all these kinds."""
    found = identity_warnings(trained[family].text, model_type, {"tokenizer_class": name}, "t.json")
    assert bool(found) is warned
    if warned:
        for word in ("t.json: transformers 5", model_type, " here and ", "--family"):
            assert word in found[0]


def test_a_prefix_space_and_whole_words_of_the_vocabulary_are_compared_too(trained):
    spec = json.loads(trained["qwen2"].text)
    assert identity_warnings(json.dumps(spec), "qwen2", {"add_prefix_space": True}, "t")
    spec["model"]["ignore_merges"] = True
    word = max(spec["model"]["vocab"], key=len)
    spec["model"]["merges"] = [m for m in spec["model"]["merges"] if "".join(m) != word]
    assert identity_warnings(json.dumps(spec), "qwen2", {}, "t")


def test_a_file_that_cannot_be_compared_is_said():
    text = json.dumps({"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}})
    assert "transformers 5" in identity_warnings(text, "qwen2", {}, "t")[0]
    panics = json.dumps(json.loads(small_tokenizer().text) | {"normalizer": {
        "type": "Precompiled"}})
    assert "cannot be compared" in identity_warnings(panics, "qwen2", {}, "t")[0]


def test_what_the_library_raises_is_one_error_and_an_interruption_none():
    class PanicException(BaseException):
        pass
    for raised, want in ((PanicException("x"), TokenizerFormatError),
                         (ValueError("x"), TokenizerFormatError), (KeyboardInterrupt(), None),
                         (Interrupted("x"), Interrupted)):
        with pytest.raises(want or KeyboardInterrupt):
            with entered("t.json"):
                raise raised
    with pytest.raises(AprnbError):
        from_json('{"normalizer": {"type": "Precompiled"}}')


def test_import_and_export_warn_and_json_holds_it(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())  # GPT-2's rules in a qwen2
    report = import_model(source, tmp_path / "m.apr")
    assert "transformers 5" in report["warnings"][0] and report["notes"] == []
    assert "transformers 5" in export_model(tmp_path / "m.apr", tmp_path / "e")["warnings"][0]
    spec = json.loads((source / "tokenizer.json").read_text())
    spec |= {"normalizer": {"type": "NFC"}, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False,
         "trim_offsets": True}]}}
    (source / "tokenizer.json").write_text(json.dumps(spec))
    assert import_model(source, tmp_path / "m.apr", force=True)["warnings"] == []
    assert export_model(tmp_path / "m.apr", tmp_path / "e", force=True)["warnings"] == []


def test_the_library_agrees_with_itself_on_every_family(trained):
    for tokenizer in trained.values():
        library = tokenizers.Tokenizer.from_str(tokenizer.text)
        assert tokenizer.encode_batch(list(PROBES)) == [library.encode(p).ids for p in PROBES]


def test_the_command_trains_qwen2s_rules_unless_told_otherwise(tmp_path):
    (tmp_path / "a.txt").write_text("1234 5678 1234 5678 don't don't\n\n\n" * 50)
    for family, want in ((None, "qwen2"), ("gpt2", "gpt2")):
        run = subprocess.run(
            [sys.executable, "-m", "aprnb", "tokenize", "train", "--corpus", tmp_path / "a.txt",
             "--vocab-size", "280", "--output", tmp_path / want,
             *(("--family", family) if family else ())], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert load_tokenizer(tmp_path / want).rules.name == want
