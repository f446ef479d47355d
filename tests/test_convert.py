"""Import and export in detail: reports, texts of the JSON files, shards, what is refused first."""
import json
import shutil
import warnings

import hf_fixture as hf
import numpy as np
import pytest
from shared import GOLDEN

from aprnb.errors import CheckError, NonFiniteError, NotFoundError
from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.convert import _shards, _source_shards, export_model, import_model
from aprnb.formats.model_file import open_model

GENERATION = {"eos_token_id": [5, 6], "note": "für alle"}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A source `s`, its import `m.apr` and the report of that."""
    base = tmp_path_factory.mktemp("convert")
    source = hf.folder(base / "s", hf.tensors("llama", False), hf.config("llama", False))
    (source / "generation_config.json").write_text(json.dumps(GENERATION))
    (source / "tokenizer_config.json").write_text('{"chat_template": "{{ x }}", "a": 1}')
    return base, import_model(source, base / "m.apr")


def rewritten(place, tmp_path, *without, **metadata):
    """m.apr again with other metadata."""
    with read_apr(place[0] / "m.apr") as file:
        keys = {k: v for k, v in file.metadata.items() if k not in without} | metadata
        write_apr(tmp_path / "x.apr", keys, {n: file.array(n) for n in file.tensors})
    return tmp_path / "x.apr"


def text_of(value):
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- import

def test_the_report_of_an_import(place):
    base, report = place
    assert report == {
        "schema": "aprnb-import-v1", "output": str(base / "m.apr"), "source": str(base / "s"),
        "tensors": 21, "bytes": (base / "m.apr").stat().st_size, "dtypes": {"BF16": 21},
        "tokenizer": {"file": str(base / "s/tokenizer.json"), "tokens": 270, "merges": 13},
        "notes": [], "warnings": []}


def test_what_is_kept_beside_the_weights(place):
    metadata = read_apr(place[0] / "m.apr").metadata
    assert metadata["model_type"] == "Llama" and metadata["original_format"] == "safetensors"
    assert metadata["generation_config"] == GENERATION and metadata["chat_template"] == "{{ x }}"
    assert metadata["tokenizer_config"] == {"a": 1}  # the template has a key of its own


def test_an_output_that_exists_is_refused_before_the_source_is_opened(place):
    before = (place[0] / "m.apr").read_bytes()
    with pytest.raises(CheckError, match="m.apr: exists already"):
        import_model("nowhere", place[0] / "m.apr")
    assert (place[0] / "m.apr").read_bytes() == before


def test_a_tokenizer_may_be_given_as_its_folder(place, tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config(), tokenizer=False)
    report = import_model(source, tmp_path / "m.apr", tokenizer=place[0] / "s")
    assert report["tokenizer"]["file"] == str(place[0] / "s/tokenizer.json")
    with pytest.raises(NotFoundError, match="no.json: no such tokenizer; need"):
        import_model(source, tmp_path / "n.apr", tokenizer=tmp_path / "no.json")


def test_the_output_may_stand_in_the_folder_of_the_source(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    import_model(str(source), str(source / "m.apr"))
    import_model(source, source / "m.apr", force=True)
    with pytest.raises(CheckError, match="is part of the source"):
        import_model(source, source / "config.json", force=True)
    import_model(source, tmp_path / "m.json")


# ---------------------------------------------------------------- export

def test_the_report_and_the_files_of_an_export(place, tmp_path):
    report = export_model(place[0] / "m.apr", tmp_path / "e")
    files = {p.name: p for p in (tmp_path / "e").iterdir()}
    assert report == {
        "schema": "aprnb-export-v1", "output": str(tmp_path / "e"),
        "source": str(place[0] / "m.apr"), "tensors": 21, "dtypes": {"BF16": 21}, "notes": [],
        "warnings": [], "files": sorted(files),
        "bytes": sum(p.stat().st_size for p in files.values())}
    assert set(files) == {"config.json", "generation_config.json", "model.safetensors",
                          "tokenizer.json", "tokenizer_config.json"}
    assert files["generation_config.json"].read_text() == text_of(GENERATION)
    assert files["tokenizer_config.json"].read_text() == text_of(
        {"a": 1, "chat_template": "{{ x }}"})
    assert files["tokenizer.json"].read_text() == hf.TOKENIZER.read_text()


def test_settings_are_made_up_where_import_kept_none(place, tmp_path):
    path = rewritten(place, tmp_path, "generation_config", "tokenizer_config", "tokenizer.json")
    report = export_model(path, tmp_path / "e")
    assert json.loads((tmp_path / "e/generation_config.json").read_text()) == {
        "bos_token_id": 0, "eos_token_id": [5, 6]}
    assert report["notes"] == ["the model holds no tokenizer.json: none is exported"]
    # a chat template is no setting that was made up: it came in and goes out
    assert json.loads((tmp_path / "e/tokenizer_config.json").read_text()) == {
        "chat_template": "{{ x }}"}


@pytest.mark.parametrize("dtype, name", [("F32", "float32"), ("F16", "float16"),
                                         ("BF16", "bfloat16"), ("keep", "float16")])
def test_the_dtype_of_most_weights_is_that_of_the_config(dtype, name, tmp_path):
    arrays = hf.tensors(dtype="F16")
    arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"].astype(np.float32)
    import_model(hf.folder(tmp_path / "s", arrays, hf.config()), tmp_path / "m.apr")
    export_model(tmp_path / "m.apr", tmp_path / "e", dtype=dtype)
    assert json.loads((tmp_path / "e/config.json").read_text())["torch_dtype"] == name


def test_what_is_quantised_needs_a_dtype(tmp_path):
    for name in ("int8.apr", "config.json"):
        shutil.copy(GOLDEN / "reference/quantised" / name, tmp_path)
    with pytest.raises(CheckError, match="is stored as AprQ8, .* choose one of --dtype"):
        export_model(tmp_path / "int8.apr", tmp_path / "e")
    assert export_model(tmp_path / "int8.apr", tmp_path / "e", "F32")["dtypes"].keys() == {"F32"}


def test_overflow_is_an_error_and_no_warning(tmp_path):
    arrays = hf.tensors(dtype="F32")
    arrays["model.norm.weight"][0] = 1e6
    import_model(hf.folder(tmp_path / "s", arrays, hf.config()), tmp_path / "m.apr")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NonFiniteError, match="model.norm.weight.*range of F16"):
            export_model(tmp_path / "m.apr", tmp_path / "e", dtype="F16")


# ---------------------------------------------------------------- shards

@pytest.mark.parametrize("limit, groups", [
    (24, ["abc"]), (20, ["abc"]), (19, ["ab", "c"]), (16, ["ab", "c"]), (15, ["a", "bc"]),
    (12, ["a", "bc"]), (11, ["a", "b", "c"]), (1, ["a", "b", "c"])])
def test_a_shard_ends_before_the_limit_is_passed(limit, groups):
    """Tensors of 8, 8 and 4 bytes."""
    shards = _shards({"a": "F32", "b": "F32", "c": "BF16"}, {"a": (2,), "b": (2, 1), "c": (2,)},
                     limit)
    names = [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, 1 + len(groups))]
    if len(groups) == 1:
        names = ["model.safetensors"]
    assert list(shards.items()) == [(n, list(group)) for n, group in zip(names, groups)]


def test_the_files_of_the_source_are_those_of_the_export(place, tmp_path):
    with open_model(place[0] / "m.apr") as model:
        assert _source_shards(model) == {"model.safetensors": model.names}
        digests = model.metadata["source_digests"]

    def shards(*files):
        rows = {name: {"file": files[i % len(files)]} for i, name in enumerate(digests)}
        with open_model(rewritten(place, tmp_path, source_digests=rows)) as model:
            (tmp_path / "x.apr").unlink()
            return _source_shards(model)
    two = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(shards(*two)) == two
    for files in (two[:1], ["model-00001-of-00003.safetensors", two[1]], ["other.safetensors"],
                  [two[0], "../x"], [5], ["model.safetensors", two[0]]):
        assert shards(*files) is None
