"""A tokenizer's folder: the files beside the vocabulary decide about words and special tokens."""
import json

import hf_fixture as hf
import numpy as np
import pytest
import tokenizers
from corpora import small_tokenizer, stdlib_texts

from aprnb.data.corpus import Corpus
from aprnb.data.encode import EncodeOptions, encode_corpus
from aprnb.data.shards import open_dataset, repair_manifest
from aprnb.data.tokenizer import TokenizerFormatError, TokenizerStyleError, load_tokenizer
from aprnb.data.vocabulary import import_folder
from aprnb.errors import CheckError, NotFoundError
from aprnb.formats.apr import read_apr
from aprnb.formats.convert import export_model, import_model
from aprnb.formats.model_file import open_model

# spelled out here, so that a wrong letter in the table of rules is seen
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEXTS = ["def f(x1234):\n\n\n    return 2024 + 1  # don't\n\n", "e\u0301te\u0301 中文 12", " x  y"]


def pair(folder, **settings):
    """A folder of vocab.json and merges.txt of the small vocabulary, and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    small_tokenizer().save(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def library(nfc, pattern):
    """The small vocabulary behind words of its own, made with the library's own classes."""
    made = tokenizers.Tokenizer.from_str(small_tokenizer().text)
    level = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    made.normalizer = tokenizers.normalizers.NFC() if nfc else None
    made.pre_tokenizer = level if pattern is None else tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"), level])
    return made


@pytest.mark.parametrize("name, nfc, pattern", [
    ("Qwen2Tokenizer", True, QWEN2), ("Qwen2TokenizerFast", True, QWEN2),
    ("GPT2Tokenizer", False, None), ("GPT2TokenizerFast", False, None),
    ("CodeGenTokenizer", False, None), ("GPTNeoXTokenizer", True, None)])
def test_the_class_decides_how_vocab_and_merges_cut_words(tmp_path, name, nfc, pattern):
    texts = TEXTS + stdlib_texts(200_000)[:4]
    want = [library(nfc, pattern).encode(text).ids for text in texts]
    tokenizer = load_tokenizer(pair(tmp_path / "t", tokenizer_class=name))
    assert tokenizer.encode_batch(texts) == want and not tokenizer.warnings
    assert (small_tokenizer().encode_batch(texts) == want) is (name[:4] in ("GPT2", "Code"))


def test_a_prefix_space_that_the_settings_ask_for_is_put(tmp_path):
    tokenizer = load_tokenizer(pair(tmp_path / "t", tokenizer_class="GPT2Tokenizer",
                                    add_prefix_space=True))
    assert tokenizer.encode("def f") == small_tokenizer().encode(" def f")


@pytest.mark.parametrize("name", ["PreTrainedTokenizerFast", "LlamaTokenizer", "BertTokenizer", 7])
def test_a_class_that_does_not_say_how_words_are_cut_is_refused_by_name(tmp_path, name):
    with pytest.raises(TokenizerStyleError) as caught:
        load_tokenizer(pair(tmp_path / "t", tokenizer_class=name))
    for word in (repr(name), "known classes", "Qwen2Tokenizer", "tokenizer.json there"):
        assert word in str(caught.value)


def test_without_a_class_the_model_type_decides_and_nothing_at_all_is_said(tmp_path):
    folder = pair(tmp_path / "t")
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    assert load_tokenizer(folder).encode_batch(TEXTS) == [
        library(True, QWEN2).encode(text).ids for text in TEXTS]
    (folder / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(TokenizerStyleError, match="config.json says 'llama'"):
        load_tokenizer(folder)
    (folder / "config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode_batch(TEXTS) == small_tokenizer().encode_batch(TEXTS)
    assert "GPT-2's rules are taken" in tokenizer.warnings[0]


def test_added_tokens_are_taken_over_and_named_ones_follow_the_vocabulary(tmp_path):
    listed = {"1025": {"content": "<|b|>", "special": True}, "1024": {"content": "<|a|>"}}
    tokenizer = load_tokenizer(pair(
        tmp_path / "t", tokenizer_class="Qwen2Tokenizer", added_tokens_decoder=listed,
        eos_token="<|b|>", pad_token={"content": "<|pad|>"},
        additional_special_tokens=["<|x|>"], unk_token=None))
    want = {"<|a|>": 1024, "<|b|>": 1025, "<|pad|>": 1026, "<|x|>": 1027}
    assert {token: tokenizer.vocabulary.get(token) for token in want} == want
    assert tokenizer.controls == {t: i for t, i in want.items() if t != "<|a|>"}
    assert (tokenizer.eos_token, tokenizer.size) == ("<|b|>", 1028)
    listed["1030"] = listed.pop("1025")
    with pytest.raises(TokenizerFormatError, match="given id 1030, the vocabulary puts it at 1025"):
        load_tokenizer(pair(tmp_path / "t", tokenizer_class="Qwen2Tokenizer",
                            added_tokens_decoder=listed))


@pytest.mark.parametrize("value", [[], {"x": {}}, {"5": 3}, {"5": {"content": 7}}, "a", 7])
def test_added_tokens_that_are_none_are_a_format_error(tmp_path, value):
    with pytest.raises(TokenizerFormatError, match="added tokens are not"):
        load_tokenizer(pair(tmp_path / "t", tokenizer_class="Qwen2Tokenizer",
                            added_tokens_decoder=value))


def test_older_files_are_read_where_the_settings_are_silent(tmp_path):
    folder = pair(tmp_path / "t", tokenizer_class="Qwen2Tokenizer")
    (folder / "added_tokens.json").write_text('{"<|b|>": 1025, "<|a|>": 1024}')
    (folder / "special_tokens_map.json").write_text('{"eos_token": {"content": "<|b|>"}}')
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.eos_token, tokenizer.eos_id) == ("<|b|>", 1025)
    assert tokenizer.vocabulary["<|a|>"] == 1024


# ---------------------------------------------------------------- special tokens

def llama3(folder, settings=None, **more):
    """tokenizer.json with Llama 3's control tokens behind the small vocabulary."""
    folder.mkdir(exist_ok=True)
    spec = json.loads(small_tokenizer().text)
    one = spec["added_tokens"].pop()
    del spec["model"]["vocab"]["<|endoftext|>"]
    names = ["<|zero|>", "<|begin_of_text|>", "<|stop|>", "<|eot_id|>"]
    spec["added_tokens"] = [one | {"id": 1023 + i if i else 0, "content": name}
                            for i, name in enumerate(names)]
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    for name, value in ({"tokenizer_config": settings} | more).items():
        if value is not None:
            (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize("files, want", [
    ({"settings": {"eos_token": "<|stop|>"}, "generation_config": {"eos_token_id": 0}}, "<|stop|>"),
    ({"settings": {"eos_token": {"content": "<|stop|>"}}}, "<|stop|>"),
    ({"generation_config": {"eos_token_id": [1026, 1025]}, "config": {"eos_token_id": 0}},
     "<|eot_id|>"),
    ({"settings": {"eos_token": None}, "config": {"eos_token_id": 1025}}, "<|stop|>"),
    ({"config": {"eos_token_id": 10 ** 30}}, None), ({}, None)])
def test_end_of_text_is_what_the_files_beside_the_tokenizer_name(tmp_path, files, want):
    folder = llama3(tmp_path / "t", **files)
    assert load_tokenizer(folder).eos_token == want
    assert load_tokenizer(folder / "tokenizer.json").eos_token == want


def test_a_file_of_another_name_is_meant_where_no_tokenizer_json_is(tmp_path):
    folder = llama3(tmp_path / "t", {"eos_token": "<|stop|>"})
    (folder / "other.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert load_tokenizer(folder / "other.json").eos_token is None
    (folder / "tokenizer.json").unlink()
    assert load_tokenizer(folder / "other.json").eos_token == "<|stop|>"


def test_a_token_that_is_named_and_not_there_is_said(tmp_path):
    tokenizer = load_tokenizer(llama3(tmp_path / "t", {"eos_token": "</s>"}))
    assert tokenizer.eos_token is None
    assert "names '</s>' as eos_token, which the vocabulary does not hold" in tokenizer.warnings[0]


def encoded(tmp_path, folder, **options):
    (tmp_path / "src").mkdir(exist_ok=True)
    for i, text in enumerate(stdlib_texts(200_000)[:6]):
        (tmp_path / "src" / f"{i}.py").write_bytes(text.encode())
    manifest, _ = encode_corpus(Corpus([tmp_path / "src"]), load_tokenizer(folder),
                                tmp_path / "out", EncodeOptions(**options), force=True)
    return manifest, np.asarray(open_dataset(tmp_path / "out").shards[0][:])


def test_documents_are_separated_by_the_token_that_is_named_or_asked_for(tmp_path):
    folder = llama3(tmp_path / "t", {"eos_token": "<|stop|>"})
    for token, want in ((None, 1025), ("<|begin_of_text|>", 1024)):
        manifest, ids = encoded(tmp_path, folder, eos_token=token)
        assert manifest["eos_token_id"] == want and (ids == want).sum() == 5
        assert manifest["eos_token_count"] == manifest["separator_count"] == 5
        beside = load_tokenizer(tmp_path / "out" / "tokenizer.json")
        assert beside.settings == {"eos_token": "<|stop|>"}
        assert repair_manifest(tmp_path / "out", beside) == manifest


def test_a_missing_end_of_text_names_what_is_there_and_the_ways_out(tmp_path):
    folder = llama3(tmp_path / "t")
    with pytest.raises(CheckError) as caught:
        encoded(tmp_path, folder)
    for word in ("<|stop|>", "<|begin_of_text|>", "--eos-token", "--eos-policy none"):
        assert word in str(caught.value)
    with pytest.raises(CheckError, match=r"--eos-token <\|end\|>: no such token.*<\|stop\|>"):
        encoded(tmp_path, folder, eos_token="<|end|>")
    assert not (tmp_path / "out").exists()


def test_import_keeps_the_settings_of_the_folder(tmp_path):
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|stop|>",
                "pad_token": "<|eot_id|>", "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": 4096, "chat_template": "{{ x }}"}
    summary = import_folder(llama3(tmp_path / "t", settings), tmp_path / "o")
    assert json.loads((tmp_path / "o" / "tokenizer_config.json").read_text()) == settings
    assert summary["eos_token"] == "<|stop|>" and summary["warnings"] == []


# ---------------------------------------------------------------- models

def model(path, **changes):
    """A qwen2 folder whose tokenizer is a pair of files of 270 tokens."""
    folder = hf.folder(path, hf.tensors(), hf.config(), tokenizer=False)
    spec = json.loads(hf.TOKENIZER.read_text())
    (folder / "vocab.json").write_text(json.dumps(spec["model"]["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(m) if isinstance(m, list) else m
                                                 for m in spec["model"]["merges"]))
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "Qwen2Tokenizer"} | changes))
    return folder


def test_a_model_with_vocab_and_merges_is_imported_with_its_tokenizer(tmp_path):
    source = model(tmp_path / "s", pad_token="<|pad|>")
    report = import_model(source, tmp_path / "m.apr")
    assert report["tokenizer"]["tokens"] == 271 and report["warnings"] == []
    spec = json.loads(read_apr(tmp_path / "m.apr").metadata["tokenizer.json"])
    assert spec["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": QWEN2}
    with open_model(source) as opened:
        assert json.loads(opened.tokenizer_json) == spec
    export_model(tmp_path / "m.apr", tmp_path / "e")
    assert json.loads((tmp_path / "e" / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|pad|>"}


def test_a_class_that_is_unknown_stops_import_and_not_the_weights(tmp_path):
    source = model(tmp_path / "s", tokenizer_class="BertTokenizer")
    with pytest.raises(TokenizerStyleError, match="'BertTokenizer'"):
        import_model(source, tmp_path / "m.apr")
    with open_model(source) as opened:
        assert opened.tokenizer_json is None and "'BertTokenizer'" in " ".join(opened.notes)


def test_settings_come_from_the_tokenizer_that_is_given(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    (source / "tokenizer_config.json").write_text('{"pad_token": "d", "a": 1}')
    other = model(tmp_path / "t", pad_token="e")
    import_model(source, tmp_path / "m.apr", tokenizer=other)
    metadata = read_apr(tmp_path / "m.apr").metadata
    assert metadata["tokenizer_config"]["pad_token"] == "e"
    assert metadata["tokenizer.vocabulary"][metadata["tokenizer.padding_token_id"]] == "e"


@pytest.mark.parametrize("name, text, want", [
    ("vocab.json", "{}", "is a vocabulary without its merges; need tokenizer.json, or give the "
                         "folder that holds it and merges.txt"),
    ("merges.txt", "a b", "is merges without their vocabulary; need tokenizer.json, or give the "
                          "folder that holds it and vocab.json"),
    ("tokenizer.model", "\n\t", "is a SentencePiece model, which is not read; need tokenizer.json, "
                                "or transformers' save_pretrained writes tokenizer.json from it"),
    ("tokenizer_config.json", "{}", "is the settings of a tokenizer; need tokenizer.json, or give "
                                    "the folder that holds it"),
    ("t.json", '{"a": 1, "b": 2}', "is no tokenizer.json, which has an object \"model\"; it has "
     "'a', 'b'; need tokenizer.json, or a folder with it or with vocab.json and merges.txt"),
    ("tokenizer.json", "{}", "is no tokenizer.json, which has an object \"model\"; it has nothing; "
     "need tokenizer.json, or a folder with it or with vocab.json and merges.txt")])
def test_a_part_of_a_tokenizer_is_named_for_what_it_is(tmp_path, name, text, want):
    (tmp_path / name).write_text(text)
    for read in (load_tokenizer, lambda path: import_folder(path, tmp_path / "o")):
        with pytest.raises(TokenizerFormatError) as caught:
            read(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {want}"


def test_a_folder_without_a_tokenizer_says_what_it_has(tmp_path):
    for name, said in (("tokenizer.model", "; tokenizer.model is a SentencePiece model"),
                       ("vocab.json", "; vocab.json is a vocabulary without its merges")):
        (tmp_path / name).write_text("{}")
        with pytest.raises(NotFoundError, match=f"holds no tokenizer; .*{said}"):
            load_tokenizer(tmp_path)
