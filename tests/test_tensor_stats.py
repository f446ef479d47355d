"""tensor-stats: exact moments, digests, plausibility, and the swapped dtype tag (R5)."""
import hashlib
import json
import struct

import hf_fixture as hf
import ml_dtypes
import numpy as np
import pytest
from apr_bytes import fix
from shared import GOLDEN, shared

from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.convert import import_model
from aprnb.formats.diff import diff_models
from aprnb.formats.dtype_evidence import fits_other
from aprnb.formats.hf_folder import open_hf
from aprnb.formats.inspect import inspect_model
from aprnb.formats.moments import Moments
from aprnb.formats.stats import suspicion, tensor_stats
from aprnb.formats.validate import validate
from tolerance import F32, gamma

BF16 = np.dtype(ml_dtypes.bfloat16)
CODE = {"F16": 1, "BF16": 30}


def with_tag(source, target, wrong):
    """Copy an .apr file with every F16 or BF16 tag set to `wrong` and the checksums right."""
    blob = bytearray(source.read_bytes())
    at = struct.unpack_from("<Q", blob, 24)[0]
    for _ in range(struct.unpack_from("<I", blob, 8)[0]):
        at += 2 + struct.unpack_from("<H", blob, at)[0]
        if blob[at] in CODE.values():
            blob[at] = CODE[wrong]
        at += 18 + 8 * blob[at + 1]
    target.write_bytes(fix(blob))
    return target


def histogram(array):
    return np.bincount(np.ascontiguousarray(array).reshape(-1).view(np.uint16), minlength=65536)


def matrices(report):
    return [r for r in report["tensors"] if len(r["shape"]) == 2]


def caught(report):
    return sum(any(f.startswith("exponents fit") for f in r["flags"]) for r in report["tensors"])


# ---------------------------------------------------------------- figures

@pytest.mark.parametrize("dtype", [np.float32, np.float16, BF16, np.float64, np.int8, np.int64])
def test_figures_are_those_of_numpy_in_float64(dtype, tmp_path):
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(300, 41)) * 20 + 3).astype(dtype)
    x[0, :7] = 0
    write_apr(tmp_path / "a.apr", {}, {"t": x})
    row = tensor_stats(tmp_path / "a.apr", first=3)["tensors"][0]
    wide = x.astype(np.float64)
    for key, truth in (("mean", wide.mean()), ("std", wide.std())):
        assert row[key] == pytest.approx(truth, rel=0,
                                         abs=gamma(2 * x.size) * np.abs(wide).max())
    assert (row["min"], row["max"], row["count"]) == (wide.min(), wide.max(), x.size)
    assert row["zeros"] == (wide == 0).sum() and row["first"] == [0, 0, 0]
    assert row["sha256"] == hashlib.sha256(x.tobytes()).hexdigest()


def test_special_values_are_counted_and_left_out_of_the_moments(tmp_path):
    for dtype in (np.float32, np.float16, BF16):
        x = np.array([1, -0.0, np.nan, np.inf, -np.inf, 2], dtype)
        write_apr(tmp_path / "a.apr", {}, {"t": x}, force=True)
        row = tensor_stats(tmp_path / "a.apr")["tensors"][0]
        assert (row["nan"], row["inf"], row["zeros"], row["mean"]) == (1, 2, 1, 1.0)
        assert row["first"] == [1, 0, None, None, None]
        assert row["flags"] == ["1 NaN", "2 infinite"]
        json.dumps(row, allow_nan=False)


def test_moments_merge_without_cancellation():
    x = np.random.default_rng(0).normal(size=100_000) + 1e8
    moments = Moments()
    for part in np.array_split(x, 37):
        moments.add(part)
    # an error of the mean counts by its square; sums of squares would leave no digit at all
    limit = gamma(2 * x.size) + (gamma(x.size) * 1e8) ** 2
    assert moments.report()["std"] == pytest.approx(x.std(), rel=limit)


def test_implausible_values_are_flagged(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"model.norm.weight": np.full(8, 500, np.float32), "z": np.zeros(8, np.float32),
              "a.input_layernorm.weight": rng.normal(size=8).astype(np.float32) * 1e-4,
              "model.embed_tokens.weight": rng.normal(size=(8, 8)).astype(np.float32),
              "fine": rng.normal(size=(8, 8)).astype(np.float32)}
    write_apr(tmp_path / "a.apr", {}, arrays)
    flags = {r["name"]: " ".join(r["flags"]) for r in tensor_stats(tmp_path / "a.apr")["tensors"]}
    assert "constant" in flags["model.norm.weight"] and "norm:" in flags["model.norm.weight"]
    assert "norm:" in flags["a.input_layernorm.weight"] and flags["z"] == "all zero"
    assert "embedding: std" in flags["model.embed_tokens.weight"] and flags["fine"] == ""


# ---------------------------------------------------------------- swapped tags

def test_real_model_with_swapped_tags_is_named_both_ways(tmp_path):
    source = open_hf(shared("data", "qwen2-py-10m"))
    arrays = {name: source.array(name) for name in source.tensors}
    for true, wrong in (("BF16", "F16"), ("F16", "BF16")):
        write_apr(tmp_path / f"{true}.apr", {}, {n: a.astype(hf.DTYPES[true])
                                                 for n, a in arrays.items()})
        report = tensor_stats(tmp_path / f"{true}.apr")
        assert caught(report) == 0 and report["suspect"] is None
        report = tensor_stats(with_tag(tmp_path / f"{true}.apr", tmp_path / "swap.apr", wrong))
        assert caught(report) == len(matrices(report)) == 57
        assert report["suspect"].startswith(f"57 of 57 matrices tagged {wrong} hold {true} bits")


@pytest.mark.parametrize("name", ["llama-f16-untied", "qwen2-bf16-tied-1shard"])
def test_reference_file_with_swapped_tags_is_named_and_fails_against(name, tmp_path):
    """Matrices of down to 128 elements."""
    path = GOLDEN / "reference" / f"{name}.apr"
    assert caught(tensor_stats(path)) == 0
    wrong = {"llama": "BF16", "qwen2": "F16"}[name.split("-")[0]]
    swapped = with_tag(path, tmp_path / "swap.apr", wrong)
    report = tensor_stats(swapped, against=GOLDEN / "reference" / name)
    assert report["suspect"] and caught(report) == len([r for r in matrices(report) if r["count"]])
    assert not report["against"]["clean"]
    bad = [m["name"] for m in report["against"]["mismatched"]]
    assert len(bad) == len([r for r in report["tensors"] if r["count"]])
    assert validate(swapped)["findings"][-1]["rule"] == "dtype"


def synthetic(rng, scale, kind, shape):
    """A matrix of weights of one of the usual densities."""
    x = {"normal": rng.normal, "uniform": lambda size: rng.uniform(-1.7, 1.7, size),
         "laplace": rng.laplace, "student": lambda size: rng.standard_t(4, size)}[kind](size=shape)
    return x * scale


def test_no_false_alarm_on_true_models_of_many_scales():
    """20 scales from 0.005 to 0.5, four densities, three shapes: 240 models in each dtype."""
    rng = np.random.default_rng(5)
    for scale in np.geomspace(0.005, 0.5, 20):
        for kind in ("normal", "uniform", "laplace", "student"):
            for shape in ((8, 16), (64, 65), (256, 300)):
                x = synthetic(rng, scale, kind, shape)
                for dtype, other in (("F16", "BF16"), ("BF16", "F16")):
                    bits = histogram(x.astype(np.float32).astype(hf.DTYPES[dtype]))
                    assert fits_other(dtype, bits, 2) is None
                    assert fits_other(other, bits, 2) == dtype, (scale, kind, shape)


def test_unusual_but_true_matrices_are_not_named():
    rng = np.random.default_rng(6)
    ones = np.ones((64, 64))
    for x in (ones, ones * 0, ones * rng.choice([-0.02, 0.02], (64, 64)), np.eye(64),
              rng.normal(size=(64, 64)) * np.exp(2 * rng.normal(size=(64, 1))),
              rng.normal(size=(64, 64)) ** 2 * 1e-4, rng.uniform(0.5, 1, (64, 64)),
              1 + 0.05 * rng.normal(size=(64, 64)), rng.normal(size=(64, 64)) * 1e-5,
              rng.integers(-3, 4, (64, 64)), np.arange(4096).reshape(64, 64) / 8):
        for dtype in ("F16", "BF16"):
            bits = histogram(x.astype(np.float32).astype(hf.DTYPES[dtype]))
            assert fits_other(dtype, bits, 2) is None
    assert suspicion([]) is None


def test_vectors_are_not_judged():
    norm = histogram((1 + 0.1 * np.random.default_rng(0).normal(size=512)).astype(np.float16))
    assert fits_other("BF16", norm, 1) is None


# ---------------------------------------------------------------- against a source

def test_against_names_every_kind_of_difference(tmp_path):
    arrays = hf.tensors(dtype="F32")
    source = hf.folder(tmp_path / "s", arrays, hf.config())
    changed = {n: a.copy() for n, a in arrays.items()}
    changed["model.norm.weight"][3] = np.nextafter(np.float32(1), np.float32(2))
    changed["model.layers.0.mlp.up_proj.weight"] = arrays[
        "model.layers.0.mlp.up_proj.weight"].T.copy()
    changed["model.layers.0.self_attn.k_proj.bias"] = arrays[
        "model.layers.0.self_attn.k_proj.bias"].astype(np.float16)
    del changed["model.layers.1.self_attn.v_proj.bias"]
    changed["surprise"] = np.zeros(3, np.float32)
    changed["lm_head.weight"] = arrays["model.embed_tokens.weight"]
    changed["__training__.step"] = np.int64([1])
    write_apr(tmp_path / "m.apr", {}, changed)
    report = tensor_stats(tmp_path / "m.apr", against=source)
    got = report["against"]
    assert {m["name"]: m["reason"].split()[0] for m in got["mismatched"]} == {
        "model.norm.weight": "bytes", "model.layers.0.mlp.up_proj.weight": "shape",
        "model.layers.0.self_attn.k_proj.bias": "dtype"}
    assert got["missing"] == ["model.layers.1.self_attn.v_proj.bias"]
    assert got["extra"] == ["surprise"] and got["synthesised"] == ["lm_head.weight"]
    assert got["passed_over"] == ["__training__.step"] and not got["clean"]
    changed["lm_head.weight"] = changed["lm_head.weight"] + 1
    write_apr(tmp_path / "m.apr", {}, changed, force=True)
    assert "lm_head.weight" in tensor_stats(tmp_path / "m.apr", against=source)["against"]["extra"]


@pytest.mark.parametrize("kind", ["mismatched", "missing", "extra"])
def test_one_difference_of_any_kind_is_not_clean(kind, tmp_path):
    arrays = hf.tensors(dtype="F32")
    source = hf.folder(tmp_path / "s", arrays, hf.config())
    if kind == "mismatched":
        arrays["model.norm.weight"] = -arrays["model.norm.weight"]
    elif kind == "missing":
        del arrays["model.norm.weight"]
    else:
        arrays["surprise"] = np.zeros(3, np.float32)
    write_apr(tmp_path / "m.apr", {}, arrays)
    got = tensor_stats(tmp_path / "m.apr", against=source)["against"]
    assert len(got[kind]) == 1 and not got["clean"]


def test_filter_applies_to_both_sides(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    import_model(source, tmp_path / "m.apr")
    report = tensor_stats(tmp_path / "m.apr", "*norm*", against=source)
    assert len(report["tensors"]) == report["against"]["matched"] == 5
    assert report["against"]["clean"]


def test_all_290_tensors_of_a_qwen_shape_are_named_under_another_tag(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(layers=24), hf.config(num_hidden_layers=24))
    import_model(source, tmp_path / "m.apr")
    good = tensor_stats(tmp_path / "m.apr", against=source)["against"]
    assert good["clean"] and good["matched"] == 290
    report = tensor_stats(with_tag(tmp_path / "m.apr", tmp_path / "x.apr", "F16"), against=source)
    assert len(report["against"]["mismatched"]) == 290
    assert caught(report) == len(matrices(report)) == 24 * 7 + 1


# ---------------------------------------------------------------- validate, diff, inspect

def rules(report, level):
    return {f["rule"] for f in report["findings"] if f["level"] == level}


def test_validate_separates_container_content_and_warnings(tmp_path):
    arrays = hf.tensors(dtype="F32")
    import_model(hf.folder(tmp_path / "s", arrays, hf.config()), tmp_path / "m.apr")
    metadata = read_apr(tmp_path / "m.apr").metadata
    assert validate(tmp_path / "m.apr")["findings"] == []
    write_apr(tmp_path / "x.apr", metadata, arrays | {"model.norm.weight": arrays[
        "model.norm.weight"] + 1})
    assert rules(validate(tmp_path / "x.apr"), "error") == {"source_digests"}
    del metadata["source_digests"]
    broken = {n: a.copy() for n, a in arrays.items()}
    broken["model.norm.weight"][0] = np.nan
    del broken["model.layers.0.self_attn.q_proj.bias"]
    write_apr(tmp_path / "x.apr", metadata, broken, force=True)
    report = validate(tmp_path / "x.apr")
    assert rules(report, "error") == {"values", "shapes"} and report["exit_code"] == 5
    write_apr(tmp_path / "x.apr", {"model_type": "x"}, arrays, force=True)
    report = validate(tmp_path / "x.apr")
    assert report["ok"] and rules(report, "warning") == {"hyper-parameters", "tied_embeddings"}
    blob = (tmp_path / "m.apr").read_bytes()
    (tmp_path / "x.apr").write_bytes(blob[:-100])
    report = validate(tmp_path / "x.apr")
    assert report["exit_code"] == 4 and report["findings"][0]["rule"] == "TruncatedData"
    assert validate(tmp_path / "s")["ok"]


def test_moments_of_an_optimiser_are_judged_only_for_nan(tmp_path):
    moments = {f"__training__.{kind}.model.norm.weight": np.zeros(16, np.float32) for kind in "mv"}
    arrays = hf.tensors(dtype="F32") | moments
    write_apr(tmp_path / "m.apr", {}, arrays)
    assert not [f for f in validate(tmp_path / "m.apr")["findings"] if "__" in f["message"]]
    rows = {row["name"]: row for row in tensor_stats(tmp_path / "m.apr")["tensors"]}
    assert not any(rows[name]["flags"] for name in moments)
    arrays["__training__.m.model.norm.weight"][3] = np.nan
    write_apr(tmp_path / "m.apr", {}, arrays, force=True)
    assert validate(tmp_path / "m.apr")["exit_code"] == 5


def test_diff_measures_what_differs(tmp_path):
    arrays = hf.tensors(dtype="F32")
    write_apr(tmp_path / "a.apr", {"name": "a", "x": 1}, arrays)
    changed = {n: a.copy() for n, a in arrays.items()}
    changed["model.norm.weight"][2] += 0.5
    changed["model.layers.0.self_attn.k_proj.weight"] *= 2
    changed["model.layers.0.self_attn.q_proj.bias"] = arrays[
        "model.layers.0.self_attn.q_proj.bias"].astype(np.float64)
    del changed["model.layers.1.mlp.up_proj.weight"]
    write_apr(tmp_path / "b.apr", {"name": "b", "y": 2}, changed)
    report = diff_models(tmp_path / "a.apr", tmp_path / "b.apr")
    rows = {r["name"]: r for r in report["tensors"]["different"]}
    assert rows["model.norm.weight"]["max_error"] == pytest.approx(
        0.5, rel=0, abs=gamma(1, F32) * float(abs(changed["model.norm.weight"][2])))
    weight = "model.layers.0.self_attn.k_proj.weight"
    assert rows[weight]["cosine"] == pytest.approx(1, rel=gamma(4 * arrays[weight].size))
    assert rows["model.layers.0.self_attn.q_proj.bias"]["differs"] == ["dtype"]
    assert len(rows) == 3 and report["tensors"]["only_in_a"] == [
        "model.layers.1.mlp.up_proj.weight"]
    assert report["metadata"]["only_in_a"] == ["x"] and report["metadata"]["only_in_b"] == ["y"]
    assert {d["key"] for d in report["metadata"]["different"]} == {"name", "total_size",
                                                                   "param_count"}
    assert diff_models(tmp_path / "a.apr", tmp_path / "a.apr")["equal"]


def test_inspect_reads_headers_only_and_shortens_vocabularies(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    import_model(source, tmp_path / "m.apr")
    report = inspect_model(tmp_path / "m.apr")
    assert report["metadata"]["tokenizer.vocabulary"] == "<270 entries>"
    assert report["flags"] == ["LAYOUT_ROW_MAJOR"] and len(report["tensors"]) == 26
    json.dumps(report, allow_nan=False)
    assert inspect_model(source)["tensors"][0]["file"] == "model.safetensors"
    blob = bytearray((tmp_path / "m.apr").read_bytes())
    blob[-70] ^= 1  # in the last payload, which inspect does not read
    (tmp_path / "m.apr").write_bytes(blob)
    assert inspect_model(tmp_path / "m.apr")["checksums"]["footer_ok"] is None
    golden = inspect_model(GOLDEN / "tiny.apr")["checksums"]
    assert (golden["header"], golden["footer"]) == ("a0a50093", "e280817b")


def test_a_filter_that_matches_nothing_is_no_success(tmp_path):
    from aprnb.errors import CheckError
    from aprnb.formats.stats import tensor_stats
    for against in (None, GOLDEN / "tiny.apr"):
        with pytest.raises(CheckError, match="no tensor matches"):
            tensor_stats(GOLDEN / "tiny.apr", pattern="zzz", against=against)
