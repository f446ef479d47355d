"""validate, finding by finding: level, exit code, rule and words of each, and the whole report."""
import json
import shutil

import hf_fixture as hf
import numpy as np
import pytest
from apr_bytes import fix

from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.convert import import_model
from aprnb.formats.validate import validate

NORM, BIAS = "model.norm.weight", "model.layers.0.self_attn.q_proj.bias"
HYPER = ("warning", 0, "hyper-parameters")
ADJACENT = ("warning", 0, "rope_type", "0 says adjacent pairs, but tensors with Hugging Face names "
            "are split halves (2); it is not believed")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A tied and an untied model in a folder: tied.apr, untied.apr, tied/, untied/."""
    base = tmp_path_factory.mktemp("validate")
    for name, tied in (("tied", True), ("untied", False)):
        source = hf.folder(base / name, hf.tensors(tied=tied, dtype="F32"), hf.config(tied=tied))
        import_model(source, base / f"{name}.apr")
    return base


def rewritten(models, tmp_path, of="tied", without=(), arrays=None, **metadata):
    """Path of a model with other metadata and arrays; a value of None leaves a key out."""
    with read_apr(models / f"{of}.apr") as file:
        keys = {k: v for k, v in file.metadata.items() if k != "source_digests"} | metadata
        tensors = {n: file.array(n) for n in file.tensors if n not in without}
        write_apr(tmp_path / "x.apr", keys, tensors | (arrays or {}))
    return tmp_path / "x.apr"


def findings(path):
    """[(level, exit code, rule, message)], messages without the path."""
    report = validate(path)
    return [(f["level"], f["exit_code"], f["rule"], f["message"].replace(str(path), "FILE"))
            for f in report["findings"]]


# ---------------------------------------------------------------- the report

def test_nothing_is_found_in_a_sound_file(models):
    for name, count in (("tied", 26), ("untied", 27)):
        assert validate(models / f"{name}.apr") == {
            "schema": "aprnb-validate-v1", "model": str(models / f"{name}.apr"), "tensors": count,
            "errors": 0, "warnings": 0, "findings": [], "exit_code": 0, "ok": True}
        assert validate(models / name)["findings"] == []


def test_a_broken_container_is_the_only_finding(models, tmp_path):
    (tmp_path / "x.apr").write_bytes(b"GGUF" + (models / "tied.apr").read_bytes()[4:])
    report = validate(tmp_path / "x.apr")
    (finding,) = report.pop("findings")
    assert report == {"schema": "aprnb-validate-v1", "model": str(tmp_path / "x.apr"), "tensors": 0,
                      "errors": 1, "warnings": 0, "exit_code": 4, "ok": False}
    assert (finding["level"], finding["exit_code"], finding["rule"]) == ("error", 4, "BadMagic")
    assert "starts with b'GGUF'" in finding["message"]


def test_errors_and_warnings_are_counted_apart(models, tmp_path):
    bad = np.ones(16, np.float32)
    bad[:3] = np.nan, np.inf, -np.inf
    path = rewritten(models, tmp_path, arrays={NORM: bad}, rope_type=0)
    report = validate(path)
    assert (report["errors"], report["warnings"], report["exit_code"], report["ok"]) == (
        1, 1, 5, False)
    assert findings(path) == [
        ADJACENT, ("error", 5, "values", f"{NORM} holds 1 NaN and 2 infinite values")]


def test_a_warning_of_the_container_is_passed_on(models, tmp_path):
    blob = bytearray((models / "tied.apr").read_bytes())
    with read_apr(models / "tied.apr") as file:
        end = 64 + file.header["metadata_size"]
    blob[end] = 1
    (tmp_path / "x.apr").write_bytes(fix(blob))
    ((level, code, rule, message),) = findings(tmp_path / "x.apr")
    assert (level, code, rule) == ("warning", 0, "container")
    assert message.startswith(f"padding from byte {end} ")


# ---------------------------------------------------------------- configuration

def test_hyper_parameters_that_are_missing_or_impossible(models, tmp_path):
    assert findings(rewritten(models, tmp_path, num_heads=None)) == [
        (*HYPER, "the file holds no num_heads")]
    shutil.copytree(models / "tied", tmp_path / "s")
    (tmp_path / "s/config.json").unlink()
    assert findings(tmp_path / "s") == [
        (*HYPER, "there is no config.json beside the weights")]
    (tmp_path / "s/config.json").write_text(json.dumps(hf.config(rms_norm_eps=None)))
    ((*kind, message),) = findings(tmp_path / "s")
    assert tuple(kind) == HYPER and "rms_norm_eps" in message


def test_missing_hyper_parameters_do_not_hide_what_the_values_say(models, tmp_path):
    bad = np.ones(16, np.float32)
    bad[0] = np.nan
    assert [f[2] for f in findings(rewritten(models, tmp_path, arrays={NORM: bad},
                                             num_heads=None))] == ["hyper-parameters", "values"]


@pytest.mark.parametrize("of, says, truth", [("tied", False, "true"), ("untied", True, "false")])
def test_a_claim_about_the_head_that_tensors_contradict(of, says, truth, models, tmp_path):
    first, *more = findings(rewritten(models, tmp_path, of, tied_embeddings=says))
    assert first == ("warning", 0, "tied_embeddings",
                     f"says {str(says).lower()}, the tensors say {truth}")
    assert [f[2] for f in more] == (["tensors"] if says else [])


def test_tensors_that_contradict_the_configuration(models, tmp_path):
    bias = np.zeros((1, 16), np.float32)
    path = rewritten(models, tmp_path, arrays={BIAS: bias})
    assert findings(path)[0] == (
        "warning", 0, "tensors", f"{BIAS} has shape [1, 16], read as [16]")
    path.unlink()
    ((*kind, message),) = findings(rewritten(models, tmp_path, without=(NORM,)))
    assert tuple(kind) == ("error", 5, "shapes") and f"missing {NORM} [16]" in message


# ---------------------------------------------------------------- metadata

def test_adjacent_pairs_are_believed_of_gguf_alone(models, tmp_path):
    path = rewritten(models, tmp_path, rope_type=0)
    assert findings(path) == [ADJACENT]
    path.unlink()
    assert findings(rewritten(models, tmp_path, rope_type=0, original_format="gguf")) == []


def test_a_missing_head_is_noted_where_the_file_does_not_say_tied(models, tmp_path):
    path = rewritten(models, tmp_path, tied_embeddings=None)
    assert findings(path)[0] == (
        "warning", 0, "tied_embeddings", "is missing; without a head the model is tied")
    path.unlink()
    assert findings(rewritten(models, tmp_path, "untied", tied_embeddings=None)) == []


@pytest.mark.parametrize("key, more", [("param_count", 0), ("total_size", 256)])
def test_counts_that_are_untrue(key, more, models, tmp_path):
    """Optimiser state has a size and no parameters."""
    path = rewritten(models, tmp_path, arrays={"__training__.m": np.zeros(64, np.float32)})
    blob, true = path.read_bytes(), read_apr(path).metadata[key]
    assert findings(path) == [] and true == read_apr(models / "tied.apr").metadata[key] + more
    path.write_bytes(fix(blob.replace(f'"{key}":{true}'.encode(), f'"{key}":{true + 1}'.encode())))
    assert findings(path) == [
        ("warning", 0, key, f"says {true + 1}, the tensors hold {true}")]


@pytest.mark.parametrize("words, found", [(272, 0), (273, 1), ("273", 0)])
def test_a_tokenizer_larger_than_the_model(words, found, models, tmp_path):
    got = findings(rewritten(models, tmp_path, **{"tokenizer.vocab_size": words}))
    assert got == [("warning", 0, "tokenizer", "has 273 ids, the model 272 rows")] * found


# ---------------------------------------------------------------- values

def test_bytes_that_are_not_those_of_their_source(models, tmp_path):
    with read_apr(models / "tied.apr") as file:
        digests = dict(file.metadata["source_digests"])
    true = digests[NORM]["sha256"]
    digests |= {NORM: {"sha256": "0" * 64}, "model.layers.0.input_layernorm.weight": "nonsense"}
    assert findings(rewritten(models, tmp_path, source_digests=digests)) == [
        ("error", 5, "source_digests",
         f"{NORM}: SHA-256 {true[:16]}... is not that of its source, {'0' * 16}...")]
    (tmp_path / "x.apr").unlink()
    assert findings(rewritten(models, tmp_path, source_digests=[NORM])) == []


def test_unlikely_values_are_warnings_said_once(models, tmp_path):
    assert findings(rewritten(models, tmp_path, arrays={NORM: np.zeros(16, np.float32)})) == [
        ("warning", 0, "values", f"{NORM}: all zero"),
        ("warning", 0, "values", f"{NORM}: norm: mean |w| 0 outside 0.01..100.0")]


def test_swapped_tags_are_named(tmp_path):
    hf.folder(tmp_path / "s", hf.tensors(dtype="F16"), hf.config())
    import_model(tmp_path / "s", tmp_path / "m.apr")
    with read_apr(tmp_path / "m.apr") as file:
        arrays = {n: file.array(n).view(hf.BF16) for n in file.tensors}
        keys = {k: v for k, v in file.metadata.items() if k != "source_digests"}
        write_apr(tmp_path / "x.apr", keys, arrays)
    last = findings(tmp_path / "x.apr")[-1]
    assert last[:3] == ("warning", 0, "dtype") and "tagged BF16 hold F16 bits" in last[3]
