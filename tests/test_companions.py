"""What stands beside the weights goes out as it came in, unless it would be untrue."""
import json

import hf_fixture as hf
import numpy as np
import pytest
from corpora import small_tokenizer, stdlib_ids

from aprnb.errors import AprnbError, CheckError, StorageError
from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.convert import export_model, import_model
from aprnb.formats.model_file import open_model
from aprnb.train.inputs import open_model_input
from aprnb.train.settings import Settings

CONFIG = {"pad_token_id": 5, "use_cache": False, "attention_dropout": 0.1, "sliding_window": None,
          "initializer_range": 0.15, "max_window_layers": 28, "my_key": {"a": [1, {"b": None}]},
          "layer_types": ["full_attention"] * 2, "eos_token_id": [3, 4], "bos_token_id": 2}
GENERATION = {"pad_token_id": 5, "eos_token_id": [6, 7], "top_k": 20, "custom": {"x": 1}}
SETTINGS = {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "d", "model_max_length": 77,
            "padding_side": "left", "extra": {"deep": [1]}, "add_bos_token": False,
            "added_tokens_decoder": {"0": {"content": "<|endoftext|>", "special": True}}}
UNTRUE = {"torch_dtype": "float64", "dtype": "float64", "transformers_version": "9.9.9"}
TEMPLATES = {"default": "{{ x }}", "tool_use": "{{ tools }}", "rag": "é\n{% a %}\n"}


def read(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture
def source(tmp_path):
    folder = hf.folder(tmp_path / "s", hf.tensors(dtype="F32"), hf.config() | CONFIG | UNTRUE)
    (folder / "generation_config.json").write_text(json.dumps(GENERATION))
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    return folder


def exported(tmp_path, source, force=True):
    import_model(source, tmp_path / "m.apr", force=force)
    export_model(tmp_path / "m.apr", tmp_path / "e", force=force)
    return tmp_path / "e"


def held(folder):
    """All keys stand in an exported folder, and what is ours is true."""
    config = read(folder, "config")
    assert {key: value for key, value in config.items() if key in CONFIG} == CONFIG
    assert config["torch_dtype"] == "float32"
    assert not {"dtype", "transformers_version"} & set(config)
    assert config["vocab_size"] == 272 and config["tie_word_embeddings"] is True
    assert read(folder, "generation_config") == GENERATION
    assert read(folder, "tokenizer_config") == SETTINGS
    return True


def test_every_key_of_the_json_files_goes_round(tmp_path, source):
    assert held(exported(tmp_path, source))
    export_model(source, tmp_path / "f")  # from a folder as from its import
    assert held(tmp_path / "f")
    import_model(tmp_path / "e", tmp_path / "again.apr")
    first, again = (read_apr(tmp_path / name).metadata for name in ("m.apr", "again.apr"))
    assert first | {"name": ""} == again | {"name": ""}


def test_the_code_that_auto_map_names_does_not_travel_and_this_is_said(tmp_path, source):
    for name in ("config", "tokenizer_config"):
        (source / f"{name}.json").write_text(json.dumps(
            read(source, name) | {"auto_map": {"AutoTokenizer": "evil.Tokenizer"}}))
    notes = import_model(source, tmp_path / "m.apr")["notes"]
    assert [note.split(":")[0] for note in notes if "auto_map" in note] == [
        "config.json", "tokenizer_config.json"]
    assert held(exported(tmp_path, source))


def put(folder, form):
    """TEMPLATES in one of the forms in which transformers keeps them."""
    rows = [{"name": name, "template": text} for name, text in TEMPLATES.items()]
    if form == "files":
        (folder / "chat_template.jinja").write_text(TEMPLATES["default"])
        (folder / "additional_chat_templates").mkdir()
        for name in ("tool_use", "rag"):
            (folder / "additional_chat_templates" / f"{name}.jinja").write_text(TEMPLATES[name])
        rows = "{{ older }}"
    (folder / "tokenizer_config.json").write_text(json.dumps(SETTINGS | {"chat_template": rows}))


@pytest.mark.parametrize("form", ["list", "files"])
def test_named_chat_templates_go_round(tmp_path, source, form):
    put(source, form)
    in_order = TEMPLATES if form == "list" else ("default", "rag", "tool_use")
    for _ in range(2):  # the second replaces the first, folder of templates and all
        folder = exported(tmp_path, source)
        rows = read(folder, "tokenizer_config")["chat_template"]
        assert rows == [{"name": name, "template": TEMPLATES[name]} for name in in_order]
        assert (folder / "chat_template.jinja").exists() is (form == "files")
        files = {p.stem: p.read_text() for p in (folder / "additional_chat_templates").glob("*")}
        assert files == ({n: TEMPLATES[n] for n in ("tool_use", "rag")} if form == "files" else {})
    assert read_apr(tmp_path / "m.apr").metadata["chat_template"] == TEMPLATES["default"]
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / "mine.txt").write_text("x")
    with pytest.raises(CheckError, match="additional_chat_templates/mine.txt"):
        export_model(tmp_path / "m.apr", folder, force=True)


def test_a_name_of_a_template_never_becomes_a_path(tmp_path, source):
    import_model(source, tmp_path / "m.apr")
    file = read_apr(tmp_path / "m.apr")
    arrays = {name: file.array(name) for name in file.tensors}
    metadata = file.metadata | {"chat_template_files": True, "chat_templates": {
        "../../evil": "x", "tool_use": "y"}}
    write_apr(tmp_path / "x.apr", metadata, arrays)
    try:
        export_model(tmp_path / "x.apr", tmp_path / "e")
    except StorageError as error:  # a path that is not there
        pytest.fail(str(error))
    assert not list(tmp_path.rglob("*.jinja"))
    rows = read(tmp_path / "e", "tokenizer_config")["chat_template"]
    assert {"name": "../../evil", "template": "x"} in rows


@pytest.mark.parametrize("key, value", [
    ("hf_config", {"hidden_size": 1, "vocab_size": 2, "auto_map": {}, "dtype": "x"}),
    ("hf_config", [1]), ("chat_templates", "x"), ("tokenizer_config", 7), ("chat_template", {})])
def test_metadata_cannot_untell_the_truth(tmp_path, source, key, value):
    import_model(source, tmp_path / "m.apr")
    file = read_apr(tmp_path / "m.apr")
    write_apr(tmp_path / "x.apr", file.metadata | {key: value},
              {name: file.array(name) for name in file.tensors})
    export_model(tmp_path / "x.apr", tmp_path / "e")
    config = read(tmp_path / "e", "config")
    assert (config["hidden_size"], config["vocab_size"]) == (16, 272)
    assert not {"auto_map", "dtype"} & set(config)


def test_a_key_that_is_too_large_or_too_deep_is_refused_and_nothing_is_left(tmp_path, source):
    for text in (json.dumps(hf.config(big="x" * (65 << 20))),
                 json.dumps(hf.config())[:-1] + ', "deep": ' + "[" * 2000 + "]" * 2000 + "}"):
        (source / "config.json").write_text(text)
        with pytest.raises(AprnbError):
            import_model(source, tmp_path / "m.apr")
        assert [p.name for p in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize("name", ["config", "generation_config", "tokenizer_config"])
def test_whatever_depth_is_read_is_written_or_refused_by_a_typed_error(tmp_path, source, name):
    for depth in (*range(700, 1000, 40), *range(970, 995)):
        text = json.dumps(read(source, name) | {"deep": None})
        (source / f"{name}.json").write_text(text.replace(
            '"deep": null', '"deep": ' + "[" * depth + "]" * depth))
        try:
            exported(tmp_path, source)
        except AprnbError as error:
            assert "recursion" in str(error)
        (source / f"{name}.json").write_text(text)


# ---------------------------------------------------------------- through pretrain

def run_settings(tmp_path, init, **more):
    np.asarray(stdlib_ids()[:4000] % 270, "<u4").tofile(tmp_path / "d.bin")
    return Settings(dataset=tmp_path / "d.bin", run_dir=tmp_path / "run", init=init, seq_length=16,
                    **more)


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_checkpoint_carries_what_came_with_the_model(tmp_path, source, kind):
    put(source, "files")
    import_model(source, tmp_path / "m.apr")
    init = source if kind == "folder" else tmp_path / "m.apr"
    found = open_model_input(run_settings(tmp_path, init))
    metadata = read_apr(tmp_path / "m.apr").metadata
    keys = [key for key in metadata if key.startswith("tokenizer.") or key in (
        "hf_config", "generation_config", "tokenizer_config", "chat_template", "chat_templates",
        "chat_template_files")]
    assert {key: found.luggage.get(key) for key in keys} == {key: metadata[key] for key in keys}
    assert any("transformers 5 builds" in line for line in found.warnings)


def test_another_tokenizer_brings_its_own_settings_and_this_is_said(tmp_path):
    arrays = hf.tensors(dtype="F32")
    arrays["model.embed_tokens.weight"] = np.zeros((1024, 16), np.float32)
    source = hf.folder(tmp_path / "s", arrays, hf.config(vocab_size=1024, eos_token_id=7))
    (source / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    (tmp_path / "tok").mkdir()
    small_tokenizer().save(tmp_path / "tok")
    found = open_model_input(run_settings(tmp_path, source, tokenizer=tmp_path / "tok"))
    assert found.luggage["tokenizer.eos_token_id"] == 0
    assert found.luggage["tokenizer_config"]["tokenizer_class"] == "GPT2Tokenizer"
    assert any("takes the place of the model's own tokenizer" in w for w in found.warnings)


# ---------------------------------------------------------------- tying

@pytest.mark.parametrize("said, tied", [(False, False), (None, False), (True, True)])
def test_a_copy_of_the_embedding_is_a_head_of_its_own_where_the_config_says_untied(
        tmp_path, said, tied):
    arrays = hf.tensors(tied=False)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    source = hf.folder(tmp_path / "s", arrays, hf.config(tied=said))
    import_model(source, tmp_path / "m.apr")
    for path in (source, tmp_path / "m.apr"):
        with open_model(path) as opened:
            assert opened.config.tied is tied and ("lm_head.weight" in opened.names) is not tied
    export_model(tmp_path / "m.apr", tmp_path / "e")
    assert read(tmp_path / "e", "config")["tie_word_embeddings"] is tied
    assert ("lm_head.weight" in read_apr(tmp_path / "m.apr").tensors) is not tied


def test_an_apr_file_that_does_not_say_is_read_by_its_values(tmp_path):
    arrays = hf.tensors(tied=False)
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    import_model(hf.folder(tmp_path / "s", arrays, hf.config(tied=False)), tmp_path / "m.apr")
    metadata = {k: v for k, v in read_apr(tmp_path / "m.apr").metadata.items()
                if k != "tied_embeddings"}
    write_apr(tmp_path / "x.apr", metadata, arrays)
    with open_model(tmp_path / "x.apr") as opened:
        assert opened.config.tied


def test_a_model_without_tokenizer_keeps_what_stands_beside_it(tmp_path, source):
    """tokenizer_config.json and templates travel; what does not is named, once, by import."""
    (source / "tokenizer.json").unlink()
    spoken = SETTINGS | {"chat_template": "{{ x }}"}
    (source / "tokenizer_config.json").write_text(json.dumps(spoken))
    for name in ("tokenizer.model", "LICENSE", "vocab.json", ".gitattributes"):
        (source / name).write_text("{}")
    notes = import_model(source, tmp_path / "m.apr")["notes"]
    assert notes[-1] == ("not part of the model file, and of no export of it: LICENSE, "
                         "tokenizer.model, vocab.json")
    files = export_model(tmp_path / "m.apr", tmp_path / "e")["files"]
    assert "tokenizer_config.json" in files and "tokenizer.json" not in files
    assert read(tmp_path / "e", "tokenizer_config") == spoken
    for name in ("tokenizer.model", "LICENSE", "vocab.json", "tokenizer_config.json"):
        (source / name).unlink()
    report = import_model(source, tmp_path / "m.apr", force=True)
    assert not [note for note in report["notes"] if note.startswith("not part")]
    assert "tokenizer_config.json" not in export_model(tmp_path / "m.apr", tmp_path / "f")["files"]


def test_parts_of_a_tokenizer_that_travels_whole_are_not_named(tmp_path, source):
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json"):
        (source / name).write_text("{}")
    (source / "README.md").write_text("")
    notes = import_model(source, tmp_path / "m.apr")["notes"]
    assert notes == ["not part of the model file, and of no export of it: README.md"]
    import_model(source / "model.safetensors", tmp_path / "m.apr", force=True)
