"""Files written by the reference tool open, or are refused, as their description says."""
import hashlib
import json
import shutil
import zlib

import numpy as np
import pytest
from shared import GOLDEN

from aprnb.errors import LoadError
from aprnb.formats.apr import read_apr
from aprnb.formats.convert import import_model
from aprnb.formats.inspect import inspect_model
from aprnb.formats.model_file import open_model
from aprnb.formats.stats import tensor_stats
from aprnb.formats.validate import validate

REFERENCE = GOLDEN / "reference"
EXPECTED = json.loads((REFERENCE / "expected.json").read_text())["files"]
IMPORTS = ["qwen2-bf16-tied-1shard", "qwen2-bf16-tied-2shards", "qwen2-f32-tied",
           "llama-f16-untied"]
FILES = [n for n in EXPECTED if n.endswith(".apr")]


@pytest.mark.parametrize("name", FILES)
def test_file_holds_what_an_independent_reader_found(name):
    facts = EXPECTED[name]
    assert hashlib.sha256((REFERENCE / name).read_bytes()).hexdigest() == facts["sha256"]
    with read_apr(REFERENCE / name) as file:
        assert file.warnings == [] and file.tensors.keys() == facts["tensors"].keys()
        assert facts["metadata"].items() <= file.metadata.items()
        for tensor, want in facts["tensors"].items():
            got = file.tensors[tensor]
            assert (got.dtype, list(got.shape), got.nbytes) == (
                want["dtype"], want["shape"], want["size"])
            assert f"{zlib.crc32(file.bytes_of(tensor)):08x}" == want["crc32"]


@pytest.mark.parametrize("name", FILES)
def test_inspect_validate_and_stats_open_every_file(name):
    assert len(inspect_model(REFERENCE / name)["tensors"]) == len(EXPECTED[name]["tensors"])
    assert validate(REFERENCE / name)["exit_code"] == 0
    report = tensor_stats(REFERENCE / name)
    assert report["suspect"] is None and all(r["nan"] == 0 for r in report["tensors"])


@pytest.mark.parametrize("name", IMPORTS)
def test_against_the_source_is_clean_for_the_imports(name):
    report = tensor_stats(REFERENCE / f"{name}.apr", against=REFERENCE / name)["against"]
    assert report["clean"] and report["matched"] == (12 if "llama" in name else 14)
    assert report["synthesised"] == ([] if "llama" in name else ["lm_head.weight"])


@pytest.mark.parametrize("name", IMPORTS)
def test_imports_open_as_their_source_folder_does(name):
    with open_model(REFERENCE / f"{name}.apr") as ours, open_model(REFERENCE / name) as source:
        ignored = dict(bos_token_id=None, eos_token_id=None, initializer_range=0.02)
        assert ours.config.with_(**ignored) == source.config.with_(**ignored)
        assert ours.config.tied == ("llama" not in name)
        weights = dict(source.weights())
        assert [n for n, _ in ours.weights()] == list(weights)
        for tensor, array in ours.weights():
            assert array.dtype == weights[tensor].dtype
            assert array.tobytes() == weights[tensor].tobytes()


def test_traps_are_said():
    notes = {n: " ".join(open_model(REFERENCE / f"{n}.apr").notes) for n in IMPORTS}
    assert "placeholder" in notes["qwen2-bf16-tied-1shard"]
    assert "copy (F32)" in notes["qwen2-bf16-tied-2shards"]
    assert "copy (F32)" in notes["qwen2-f32-tied"]
    assert "head of its own" in notes["llama-f16-untied"]
    findings = {f["rule"] for f in validate(REFERENCE / "llama-f16-untied.apr")["findings"]}
    assert {"rope_type", "tied_embeddings"} <= findings


@pytest.mark.parametrize("name", [n for n in FILES if n.startswith(("checkpoint", "quantised"))])
def test_files_without_true_hyper_parameters_are_refused(name, tmp_path):
    shutil.copy(REFERENCE / name, tmp_path / "m.apr")
    with pytest.raises(LoadError, match="never guessed"):
        open_model(tmp_path / "m.apr")


@pytest.mark.parametrize("stem", ["int4", "int8", "q4_k"])
def test_config_beside_a_quantised_file_is_used_and_said(stem):
    with open_model(REFERENCE / "quantised" / f"{stem}.apr") as model:
        assert (model.config.num_heads, model.config.num_kv_heads) == (2, 1)
        assert model.config.head_dim == 128 and model.config.max_position_embeddings == 64
        assert "config.json" in model.notes[0]
        for _, array in model.weights():
            assert array.dtype == np.float32 and np.isfinite(array).all()


def test_config_beside_a_checkpoint_is_used_and_its_odd_bias_understood(tmp_path):
    shutil.copy(REFERENCE / "checkpoint-qwen2-f32-tied.apr", tmp_path / "m.apr")
    shutil.copy(REFERENCE / "qwen2-f32-tied" / "config.json", tmp_path)
    with open_model(tmp_path / "m.apr") as model:
        assert model.array("model.layers.0.self_attn.q_proj.bias").shape == (16,)
        assert "read as [16]" in " ".join(model.notes) and model.config.tied
    # the shape is understood, other counts are not
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"head_dim": 4}))
    with pytest.raises(LoadError, match="misshapen"):
        open_model(tmp_path / "m.apr")


def test_containers_that_are_no_models_are_valid_and_refused_for_computing():
    for stem in ("tiny", "linreg"):
        assert validate(GOLDEN / f"{stem}.apr")["exit_code"] == 0
        with pytest.raises(LoadError):
            open_model(GOLDEN / f"{stem}.apr")


@pytest.mark.parametrize("name", IMPORTS)
def test_our_import_holds_the_same_payloads_and_tokens_as_the_reference(name, tmp_path):
    import_model(REFERENCE / name, tmp_path / "m.apr")
    with read_apr(tmp_path / "m.apr") as ours, read_apr(REFERENCE / f"{name}.apr") as theirs:
        for tensor in ours.tensors:
            assert ours.bytes_of(tensor).tobytes() == theirs.bytes_of(tensor).tobytes()
        for key in ("tokenizer.merges", "tokenizer.model_type", "tokenizer.bos_token_id",
                    "tokenizer.eos_token_id", "hidden_size", "num_heads", "rope_theta"):
            assert ours.metadata[key] == theirs.metadata[key]
        words = ours.metadata["tokenizer.vocabulary"]
        assert theirs.metadata["tokenizer.vocabulary"][:len(words)] == words
