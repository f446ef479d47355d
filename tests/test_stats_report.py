"""tensor-stats, word for word: the report, each flag at its bounds, each verdict on a source."""
import hashlib

import numpy as np
import pytest
from apr_bytes import build, entry
from hf_fixture import save
from shared import GOLDEN

from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.model_file import open_tensors
from aprnb.formats.stats import compare_with_source, stats_row, suspicion, tensor_stats
from tolerance import gamma

NORM, EMBEDDING, HEAD = "model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"
QUANTISED = GOLDEN / "reference" / "quantised"


def sha(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


def flags(tmp_path, name, *values):
    """What is said of a tensor of these float64 values."""
    write_apr(tmp_path / "x.apr", {}, {name: np.array(values, np.float64)}, force=True)
    return tensor_stats(tmp_path / "x.apr")["tensors"][0]["flags"]


def against(tmp_path, arrays, source, pattern="*"):
    """(summary without the source, {name: matches}) of arrays compared with those of a source."""
    write_apr(tmp_path / "m.apr", {}, arrays, force=True)
    save(tmp_path / "s.safetensors", source)
    report = tensor_stats(tmp_path / "m.apr", pattern, against=tmp_path / "s.safetensors")
    assert report["against"].pop("source") == str(tmp_path / "s.safetensors")
    return ({key: value for key, value in report["against"].items() if value != []},
            {row["name"]: row["matches"] for row in report["tensors"]})


# ---------------------------------------------------------------- figures

def test_the_whole_report(tmp_path):
    x, y = np.float32([[3, -1, 0], [0, 1, 3]]), np.float16([0.5])
    write_apr(tmp_path / "m.apr", {}, {"y": y, "x": x})
    report = tensor_stats(tmp_path / "m.apr", first=4)
    assert report == {
        "schema": "aprnb-tensor-stats-v1", "model": str(tmp_path / "m.apr"), "suspect": None,
        "against": None, "tensors": [
            {"name": "x", "dtype": "F32", "shape": [2, 3], "count": 6, "mean": 1.0,
             "std": pytest.approx((14 / 6) ** 0.5, rel=gamma(16)), "min": -1.0, "max": 3.0,
             "zeros": 2, "nan": 0, "inf": 0, "first": [3.0, -1.0, 0.0, 0.0], "sha256": sha(x),
             "flags": []},
            {"name": "y", "dtype": "F16", "shape": [1], "count": 1, "mean": 0.5, "std": 0.0,
             "min": 0.5, "max": 0.5, "zeros": 0, "nan": 0, "inf": 0, "first": [0.5],
             "sha256": sha(y), "flags": []}]}


def test_a_file_without_tensors_is_no_error(tmp_path):
    (tmp_path / "m.apr").write_bytes(build([], b""))
    assert tensor_stats(tmp_path / "m.apr")["tensors"] == []


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_first_values_go_on_in_the_next_piece(dtype, tmp_path):
    """A piece is of 4 MiB."""
    piece = (4 << 20) // np.dtype(dtype).itemsize
    x = (np.arange(piece + 9) % 251).astype(dtype)
    write_apr(tmp_path / "m.apr", {}, {"x": x})
    with read_apr(tmp_path / "m.apr") as model:
        row = stats_row(model, "x", piece + 2)
        assert row["first"] == x[:piece + 2].astype(np.float64).tolist()
        assert (row["count"], row["sha256"], row["max"]) == (piece + 9, sha(x), 250)
        assert stats_row(model, "x")["first"] == []


@pytest.mark.parametrize("name", ["int8", "q4_k"])
def test_quantised_values_are_judged_as_decoded(name):
    path = QUANTISED / f"{name}.apr"
    rows = [row for row in tensor_stats(path, first=3)["tensors"]
            if row["dtype"] in ("AprQ8", "Q4_K")]
    assert len(rows) > 4
    with read_apr(path) as file:
        for row in rows:
            values = file.values(row["name"]).reshape(-1).astype(np.float64)
            assert row["first"] == values[:3].tolist() and row["count"] == values.size
            assert (row["min"], row["max"]) == (values.min(), values.max())
            assert row["mean"] == pytest.approx(values.mean(), rel=0, abs=(
                gamma(2 * values.size) * np.abs(values).mean()))
            assert row["sha256"] == hashlib.sha256(file.bytes_of(row["name"])).hexdigest()


# ---------------------------------------------------------------- flags

@pytest.mark.parametrize("values, said", [
    ([0], []), ([5], []), ([0, 0], ["all zero"]), ([5, 5], ["constant"]), ([5, 6], []),
    ([0, 1], []), ([0, np.nan], ["1 NaN"]), ([5, 5, np.nan], ["1 NaN"]),
    ([5, 5, np.inf], ["1 infinite"]), ([5, 5, np.nan, np.inf], ["1 NaN", "1 infinite"]),
    ([np.nan], ["1 NaN"]), ([np.inf, -np.inf], ["2 infinite"]),
])
def test_what_hardly_varies(values, said, tmp_path):
    assert flags(tmp_path, "x", *values) == said


@pytest.mark.parametrize("name, size, inside", [
    (NORM, 0.01, True), (NORM, 0.0099, False), (NORM, 100, True), (NORM, 100.1, False),
    ("a.input_layernorm.weight", 100.1, False), ("norm.weight.scale", 100.1, True),
    (EMBEDDING, 0.005, True), (EMBEDDING, 0.0049, False), (EMBEDDING, 0.5, True),
    (EMBEDDING, 0.51, False), (HEAD, 0.51, True),
])
def test_usual_sizes_of_norms_and_embeddings(name, size, inside, tmp_path):
    """Values size and -size: mean |w| and standard deviation are both the size."""
    text = {NORM: f"norm: mean |w| {size:.3g} outside 0.01..100.0",
            EMBEDDING: f"embedding: std {size:.3g} outside 0.005..0.5"}
    got = flags(tmp_path, name, -size, size)
    assert got == ([] if inside else [text[EMBEDDING if name == EMBEDDING else NORM]])


def test_a_placeholder_is_named_and_not_judged(tmp_path):
    (tmp_path / "m.apr").write_bytes(
        build([entry(HEAD, 0, (4, 2), 0, 0)], b"", b'{"tied_embeddings":true}'))
    (row,) = tensor_stats(tmp_path / "m.apr")["tensors"]
    assert row["flags"] == ["placeholder without bytes"] and row["mean"] is None


def test_swapped_tags_are_counted_among_the_matrices_of_that_dtype():
    said = "exponents fit BF16, not F16"
    rows = [{"dtype": "F16", "shape": [2, 2], "flags": [said]},
            {"dtype": "F16", "shape": [2, 2, 2], "flags": ["constant", said]},
            {"dtype": "F16", "shape": [2, 2], "flags": ["constant"]},
            {"dtype": "F16", "shape": [2], "flags": []},
            {"dtype": "F32", "shape": [2, 2], "flags": []}]
    assert suspicion(rows) == ("2 of 3 matrices tagged F16 hold BF16 bits by their exponents: the "
                               "dtype tags are most likely swapped")
    assert suspicion(rows[2:]) is None


# ---------------------------------------------------------------- against a source

def test_every_verdict_on_a_tensor(tmp_path):
    ones = np.ones((2, 2), np.float32)
    model = {"same": ones, "turned": -ones, "flat": ones.reshape(4), "wide": np.ones((2, 2)),
             "extra": ones, "__training__.step": ones}
    source = {"same": ones, "turned": ones, "flat": ones, "wide": ones, "gone": ones,
              "model.layers.0.self_attn.rotary_emb.inv_freq": ones}
    assert against(tmp_path, model, source) == (
        {"matched": 1, "missing": ["gone"], "extra": ["extra"], "clean": False,
         "mismatched": [{"name": "flat", "reason": "shape [4], source [2, 2]"},
                        {"name": "turned", "reason": "bytes differ"},
                        {"name": "wide", "reason": "dtype F64, source F32"}],
         "passed_over": ["__training__.step", "model.layers.0.self_attn.rotary_emb.inv_freq"]},
        {"same": True, "turned": False, "flat": False, "wide": False, "extra": False,
         "__training__.step": None})


@pytest.mark.parametrize("head, kind", [(1, "synthesised"), (2, "extra")])
def test_a_head_that_the_source_lacks(head, kind, tmp_path):
    embedding = {EMBEDDING: np.ones((4, 2), np.float32)}
    got, rows = against(tmp_path, embedding | {HEAD: embedding[EMBEDDING] * head}, embedding)
    assert got.pop("clean") is (head == 1) and got == {"matched": 1, kind: [HEAD]}
    assert rows == {EMBEDDING: True, HEAD: None if head == 1 else False}


@pytest.mark.parametrize("head, kind", [(1, "left_out"), (2, "missing")])
def test_a_head_that_the_model_lacks(head, kind, tmp_path):
    embedding = {EMBEDDING: np.ones((4, 2), np.float32)}
    got, _ = against(tmp_path, embedding, embedding | {HEAD: embedding[EMBEDDING] * head})
    assert got.pop("clean") is (head == 1) and got == {"matched": 1, kind: [HEAD]}


def test_without_a_pattern_every_tensor_of_the_source_counts(tmp_path):
    save(tmp_path / "m.safetensors", {"x": np.ones(2, np.float32)})
    save(tmp_path / "s.safetensors", {"x": np.ones(2, np.float32), "y": np.ones(2, np.float32)})
    with (open_tensors(tmp_path / "m.safetensors") as model,
          open_tensors(tmp_path / "s.safetensors") as source):
        assert compare_with_source(model, source, [stats_row(model, "x")])["missing"] == ["y"]
