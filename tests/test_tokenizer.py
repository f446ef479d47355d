"""Tokenizers: ids equal those of the library, styles are detected, nothing can become <unk>."""
import json

import pytest
import tokenizers
from corpora import small_tokenizer, stdlib_texts
from shared import shared

from aprnb.data.tokenizer import (Tokenizer, TokenizerFormatError, TokenizerStyleError,
                                  from_json, load_tokenizer, train_bpe)
from aprnb.errors import CheckError, LoadError, NotFoundError
from aprnb.formats.tokenizer_keys import tokenizer_keys
from aprnb.formats.tokenizer_style import byte_alphabet

HOSTILE = ["", "\x00\x01", "a\r\nb\r\n", "   \t\t\n\n  x", "naïve 中文 🙂 é é", "\ufeffbom",
           "<unk> <|endoftext|>", "def f(x):\n        return  x\n"]


def spec_of(tokenizer):
    return json.loads(tokenizer.text)


def test_ids_equal_the_library_on_a_megabyte_of_source_with_the_qwen2_vocabulary():
    file = shared("data", "qwen2-tokenizer", "tokenizer.json")
    library = tokenizers.Tokenizer.from_file(str(file))
    ours = load_tokenizer(file.parent)
    texts = stdlib_texts()
    assert sum(len(text.encode()) for text in texts) > 1_000_000
    want = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert ours.encode_batch(texts) == want
    assert ours.encode(texts[3]) == want[3]


QWEN2_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+"
               r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


@pytest.mark.parametrize("stage", [
    {"type": "Split", "pattern": {"Regex": QWEN2_WORDS}, "behavior": "Isolated", "invert": False},
    {"type": "Digits", "individual_digits": True}], ids=["Qwen2's words", "digit by digit"])
def test_words_are_cut_by_the_pre_tokeniser_of_the_file(stage):
    """The ids of the library alone; GPT-2's words, or none, would give others for the same text."""
    spec = spec_of(small_tokenizer())
    spec["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        stage, {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                "use_regex": stage["type"] == "Digits"}]}
    library = tokenizers.Tokenizer.from_str(json.dumps(spec))
    texts = ["def f(x):\n        return  x + 100\n\n\n", *stdlib_texts(200_000)]
    want = [library.encode(text, add_special_tokens=False).ids for text in texts]
    assert from_json(json.dumps(spec)).encode_batch(texts) == want
    assert small_tokenizer().encode_batch(texts) != want


def test_special_tokens_are_put_around_prompts_and_never_into_a_corpus():
    spec = spec_of(small_tokenizer())
    begin = "<|endoftext|>"
    spec["post_processor"] = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": begin, "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {begin: {"id": begin, "ids": [0], "tokens": [begin]}}}
    tokenizer, plain = from_json(json.dumps(spec)), small_tokenizer().encode("def f():")
    assert tokenizer.encode("def f():") == plain
    assert tokenizer.encode_batch(["def f():"]) == [plain]
    assert tokenizer.encode_prompt("def f():") == [0, *plain]


def test_qwen2_vocabulary_is_read_whole():
    qwen2 = load_tokenizer(shared("data", "qwen2-tokenizer", "tokenizer.json"))
    assert qwen2.size == 151_665
    assert (qwen2.eos_token, qwen2.eos_id) == ("<|endoftext|>", 151_643)
    assert qwen2.encode_prompt("<|im_start|>hello<|im_end|>") == [151644, 14990, 151645]


def test_training_gives_a_vocabulary_of_the_asked_size_with_end_of_text_first():
    tokenizer = small_tokenizer()
    assert tokenizer.size == 1024 and tokenizer.merges_count == 1024 - 257
    assert (tokenizer.eos_token, tokenizer.eos_id, tokenizer.style) == ("<|endoftext|>", 0,
                                                                        "byte-level")


def test_training_twice_gives_the_same_bytes():
    texts = stdlib_texts(200_000)
    assert train_bpe(iter(texts), 512).text == train_bpe(iter(texts), 512).text


@pytest.mark.parametrize("text", HOSTILE)
def test_decoding_returns_the_text(text):
    tokenizer = small_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode_prompt(text)) == text


def test_a_batch_equals_its_members_one_by_one():
    tokenizer = small_tokenizer()
    assert tokenizer.encode_batch(HOSTILE) == [tokenizer.encode(text) for text in HOSTILE]


def test_a_folder_loads_from_either_file_layout(tmp_path):
    tokenizer = small_tokenizer()
    tokenizer.save(tmp_path)
    whole = load_tokenizer(tmp_path)
    assert (whole.text, whole.digest) == (tokenizer.text, tokenizer.digest)
    (tmp_path / "tokenizer.json").unlink()
    pair = load_tokenizer(tmp_path)
    assert pair.encode_batch(stdlib_texts(200_000)) == tokenizer.encode_batch(stdlib_texts(200_000))
    assert pair.encode_prompt("<|endoftext|>") == [0] and pair.size == 1024


def test_a_string_from_inside_a_model_is_the_same_tokenizer():
    assert from_json(small_tokenizer().text).digest == small_tokenizer().digest


def test_digest_ignores_indentation_and_sees_every_value():
    spec = spec_of(small_tokenizer())
    assert from_json(json.dumps(spec, indent=7)).digest == small_tokenizer().digest
    spec["model"]["merges"][0], spec["model"]["merges"][1] = spec["model"]["merges"][1::-1]
    assert from_json(json.dumps(spec)).digest != small_tokenizer().digest


def test_saved_truncation_padding_and_dropout_do_not_touch_the_ids():
    spec = spec_of(small_tokenizer())
    spec["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0,
                          "direction": "Right"}
    spec["padding"] = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None,
                       "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    spec["model"]["dropout"] = 0.5
    text = stdlib_texts(200_000)[0]
    assert from_json(json.dumps(spec)).encode(text) == small_tokenizer().encode(text)
    assert from_json(json.dumps(spec)).encode_batch([text]) == [small_tokenizer().encode(text)]


def test_size_counts_added_tokens():
    spec = spec_of(small_tokenizer())
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": 1024, "content": "<eos>"})
    tokenizer = from_json(json.dumps(spec))
    assert tokenizer.size == 1025 and tokenizer.eos_token == "<|endoftext|>"


@pytest.mark.parametrize("ids, rows, fits", [
    (151_665, 151_936, True), (151_936, 151_936, True), (151_937, 151_936, False),
    (151_665, 50_257, False)], ids=["Qwen2.5", "no row free", "one too many", "Llama 370M"])
def test_a_model_has_a_row_for_every_id_and_may_have_more(ids, rows, fits):
    text = json.dumps({"model": {"type": "BPE", "merges": [],
                                 "vocab": {f"t{i}": i for i in range(ids)}}})
    if fits:
        assert tokenizer_keys(text, "tokenizer.json", rows)["tokenizer.vocab_size"] == ids
    else:
        with pytest.raises(LoadError, match=f"{ids} ids.*vocabulary {rows}"):
            tokenizer_keys(text, "tokenizer.json", rows)


def test_end_of_text_is_the_first_spelling_that_exists():
    spec = spec_of(small_tokenizer())
    spec["added_tokens"].append(spec["added_tokens"][0] | {"id": 1024, "content": "</s>"})
    assert from_json(json.dumps(spec)).eos_id == 1024


def test_a_spelling_that_merges_produce_is_text_and_not_end_of_text():
    spec = spec_of(small_tokenizer())
    for left, right in (("<", "/"), ("</", "s"), ("</s", ">")):
        spec["model"]["vocab"][left + right] = len(spec["model"]["vocab"])
        spec["model"]["merges"].append([left, right])
    assert from_json(json.dumps(spec)).eos_token == "<|endoftext|>"


def test_hex_byte_vocabulary_is_recognised_and_refused(tmp_path):
    vocab = {"<unk>": 0} | {f"{byte:02x}": byte + 1 for byte in range(256)} | {"6865": 257}
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n68 65\n")
    with pytest.raises(TokenizerStyleError, match="hex-byte"):
        load_tokenizer(tmp_path)


def test_hex_digits_inside_a_byte_level_vocabulary_do_not_make_it_hex_byte():
    text = " ".join(f"x{byte:02x} x{byte:02x}" for byte in range(256) for _ in range(9))
    spec = spec_of(small_tokenizer())
    for byte in range(256):
        spec["model"]["vocab"].setdefault(f"{byte:02x}", len(spec["model"]["vocab"]))
    tokenizer = from_json(json.dumps(spec))
    assert tokenizer.style == "byte-level" and tokenizer.decode(tokenizer.encode(text)) == text


def unknown_styles():
    spec = spec_of(small_tokenizer())
    wordpiece = {"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1},
                           "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                           "max_input_chars_per_word": 100}}
    unigram = {"model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}}
    alphabet = byte_alphabet()
    lacking = {token: i for token, i in spec["model"]["vocab"].items() if token != alphabet[0xE4]}
    sentencepiece = {f"<0x{byte:02X}>": byte for byte in range(256)}
    return {"WordPiece": wordpiece, "Unigram": unigram,
            "0xe4": spec | {"model": spec["model"] | {"vocab": lacking, "merges": []}},
            "no ByteLevel": spec | {"pre_tokenizer": {"type": "Whitespace"}},
            "byte tokens are missing": {"model": {"type": "BPE", "byte_fallback": True,
                                                  "vocab": sentencepiece, "merges": []}}}


@pytest.mark.parametrize("reason", unknown_styles())
def test_unknown_styles_are_refused_with_the_reason(reason):
    with pytest.raises(TokenizerStyleError, match=reason) as caught:
        from_json(json.dumps(unknown_styles()[reason]))
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"model": 3}', '{"model": {}}',
                                  "[" * 100_000, '{"model": {"type": "BPE", "vocab": 1}}'])
def test_a_file_that_is_no_tokenizer_is_a_format_error(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(TokenizerFormatError, match="tokenizer.json") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.exit_code == 4


def test_a_cut_or_binary_tokenizer_is_a_format_error(tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(small_tokenizer().text.encode()[:-20])
    with pytest.raises(TokenizerFormatError, match="not valid JSON"):
        load_tokenizer(file)
    file.write_bytes(b"\x80\x81")
    with pytest.raises(TokenizerFormatError, match="not UTF-8 at byte 0"):
        load_tokenizer(file)


def test_missing_paths_are_not_found(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(NotFoundError, match="tokenizer"):
            load_tokenizer(path)


def test_training_refuses_too_small_a_vocabulary_and_an_empty_corpus():
    with pytest.raises(CheckError, match="257"):
        train_bpe(iter(["abab"]), 256)
    with pytest.raises(CheckError, match="nothing to train on"):
        train_bpe(iter([]), 300)


def test_byte_alphabet_is_that_of_the_library():
    assert set(byte_alphabet()) == set(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    assert isinstance(small_tokenizer(), Tokenizer)
