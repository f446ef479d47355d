"""diff: every figure of a row by hand, what counts as equal, and metadata of files and folders."""
import math

import hf_fixture as hf
import numpy as np
import pytest
from apr_bytes import build, entry

from aprnb.config import to_apr
from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.config_json import from_hf
from aprnb.formats.convert import import_model
from aprnb.formats.diff import diff_models
from tolerance import gamma


def compared(tmp_path, a, b):
    """The tensors of the report on two files that hold one tensor t each."""
    for name, array in (("a", a), ("b", b)):
        write_apr(tmp_path / f"{name}.apr", {}, {"t": array}, force=True)
    return diff_models(tmp_path / "a.apr", tmp_path / "b.apr")["tensors"]


def row(tmp_path, a, b):
    """The row about the tensor; None if it does not differ."""
    report = compared(tmp_path, a, b)
    assert report["equal"] == 1 - len(report["different"])
    return report["different"][0] if report["different"] else None


def f32(*values):
    return np.array(values, np.float32)


# ---------------------------------------------------------------- the report

def test_the_whole_report(tmp_path):
    same = f32(1, 2)
    write_apr(tmp_path / "a.apr", {"model_type": "m", "x": 1, "name": "a"},
              {"same": same, "left": same, "turned": f32(3, 4)})
    write_apr(tmp_path / "b.apr", {"model_type": "m", "y": 2, "name": "b"},
              {"same": same, "right": same, "turned": f32(4, 3)})
    assert diff_models(tmp_path / "a.apr", tmp_path / "b.apr") == {
        "schema": "aprnb-diff-v1", "a": str(tmp_path / "a.apr"), "b": str(tmp_path / "b.apr"),
        "equal": False,
        "metadata": {"only_in_a": ["x"], "only_in_b": ["y"],
                     "different": [{"key": "name", "a": "a", "b": "b"}]},
        "tensors": {"only_in_a": ["left"], "only_in_b": ["right"], "equal": 1, "different": [
            {"name": "turned", "dtype": ["F32", "F32"], "shape": [[2], [2]],
             "cosine": pytest.approx(24 / 25, rel=gamma(16)), "max_error": 1.0,
             "differs": ["values"]}]}}


@pytest.mark.parametrize("metadata, arrays, equal", [
    ({"name": "a"}, {"t": f32(1)}, True),
    ({"name": "b"}, {"t": f32(1)}, False),
    ({}, {"t": f32(1)}, False),
    ({"name": "a", "more": 1}, {"t": f32(1)}, False),
    ({"name": "a"}, {"t": f32(2)}, False),
    ({"name": "a", "total_size": 4}, {"u": f32(1)}, False),
])
def test_one_difference_is_enough(metadata, arrays, equal, tmp_path):
    write_apr(tmp_path / "a.apr", {"name": "a"}, {"t": f32(1)})
    write_apr(tmp_path / "b.apr", metadata, arrays)
    for one, other in ("ab", "ba"):
        assert diff_models(tmp_path / f"{one}.apr", tmp_path / f"{other}.apr")["equal"] is equal


def test_a_tensor_on_one_side_only_is_no_equality(tmp_path):
    """Without bytes, so that the metadata are the same."""
    for name, names in (("a", "t"), ("b", "tu")):
        entries = [entry(n, 0, (0,), 0, 0) for n in names]
        (tmp_path / f"{name}.apr").write_bytes(build(entries, b""))
    for one, other in ("ab", "ba"):
        report = diff_models(tmp_path / f"{one}.apr", tmp_path / f"{other}.apr")
        assert not any(report["metadata"].values()) and not report["equal"]
        assert report["tensors"] == {"only_in_a": ["u"] * (one == "b"), "different": [],
                                     "only_in_b": ["u"] * (one == "a"), "equal": 1}


def test_a_folder_has_the_hyper_parameters_of_its_configuration(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    import_model(source, tmp_path / "m.apr")
    report = diff_models(tmp_path / "m.apr", source)
    keys = to_apr(from_hf(hf.config(), "config.json"))
    assert report["metadata"] == {
        "only_in_a": sorted(read_apr(tmp_path / "m.apr").metadata.keys() - keys.keys()),
        "only_in_b": [], "different": []}
    assert report["tensors"] == {"only_in_a": [], "only_in_b": [], "equal": 26, "different": []}
    assert not report["equal"] and diff_models(source, source)["equal"]
    (source / "config.json").unlink()
    assert sorted(diff_models(source, tmp_path / "m.apr")["metadata"]["only_in_b"]) == sorted(
        read_apr(tmp_path / "m.apr").metadata)


# ---------------------------------------------------------------- rows

def test_another_dtype_is_compared_by_value(tmp_path):
    assert row(tmp_path, f32(1, 2), np.array([1, 2], np.float64)) == {
        "name": "t", "dtype": ["F32", "F64"], "shape": [[2], [2]],
        "cosine": pytest.approx(1.0, rel=gamma(16)), "max_error": 0.0, "differs": ["dtype"]}
    wider = row(tmp_path, f32(1, 2), np.array([1, 2.5], np.float64))
    assert (wider["differs"], wider["max_error"]) == (["dtype", "values"], 0.5)


def test_another_shape_is_not_compared(tmp_path):
    figures = {"name": "t", "cosine": None, "max_error": None}
    assert row(tmp_path, f32(1, 2), f32(1, 2).reshape(1, 2)) == figures | {
        "dtype": ["F32", "F32"], "shape": [[2], [1, 2]], "differs": ["shape"]}
    assert row(tmp_path, f32(1, 2), np.float64([1])) == figures | {
        "dtype": ["F32", "F64"], "shape": [[2], [1]], "differs": ["dtype", "shape"]}


def test_equal_means_equal_bits_of_one_dtype_and_equal_values_of_two(tmp_path):
    zero = row(tmp_path, f32(0.0, 1), f32(-0.0, 1))
    assert (zero["differs"], zero["max_error"]) == (["values"], 0.0)
    assert row(tmp_path, f32(np.nan, 1), f32(np.nan, 1)) is None
    for values in ((0.0, -0.0), (np.nan, np.nan)):
        assert row(tmp_path, f32(values[0], 1), np.float64([values[1], 1]))["differs"] == ["dtype"]


def test_figures_are_of_float64(tmp_path):
    """Squares of 1e30 are beyond the range of float32."""
    got = row(tmp_path, f32(1e30, 0), f32(-1e30, 0))
    assert (got["cosine"], got["max_error"]) == (-1.0, 2 * float(np.float32(1e30)))


@pytest.mark.filterwarnings("error")
def test_figures_that_do_not_exist_are_none(tmp_path):
    for a, b, cosine, error in ((f32(0, 0), f32(3, 4), None, 4.0),
                                (f32(3, 4), f32(0, 0), None, 4.0),
                                (f32(1, np.nan), f32(1, 1), None, None),
                                (f32(1, np.inf), f32(1, 1), None, None),
                                (f32(1, np.inf), f32(2, np.inf), None, None),
                                (np.float64([1e200, 0]), np.float64([0, 1]), None, 1e200),
                                (f32(0.25), f32(-0.5), -1.0, 0.75)):
        got = row(tmp_path, a, b)
        assert (got["cosine"], got["max_error"]) == (cosine, error)


def test_figures_are_of_all_pieces(tmp_path):
    """Larger than what is read at a time: three pieces, which differ in the first and second."""
    a = np.zeros(2 * (1 << 20) + 3, np.float32)
    a[[5, 1 << 20, -1]] = 2, 3, 6
    b = a.copy()
    b[[5, 1 << 20]] = 1, 3.5
    got = row(tmp_path, a, b)
    scale = math.sqrt(4 + 9 + 36) * math.sqrt(1 + 12.25 + 36)
    assert got["cosine"] == pytest.approx((2 + 10.5 + 36) / scale, rel=gamma(16))
    assert (got["max_error"], got["differs"]) == (1.0, ["values"])


def test_placeholders_hold_no_values(tmp_path):
    head, tied = "lm_head.weight", b'{"tied_embeddings":true}'
    data = f32(1, 2).tobytes().ljust(64, b"\0")
    (tmp_path / "full.apr").write_bytes(build([entry(head, 0, (2,), 0, 8)], data, tied))
    (tmp_path / "none.apr").write_bytes(build([entry(head, 0, (2,), 0, 0)], b"", tied))
    for pair in (("full", "none"), ("none", "full")):
        (got,) = diff_models(*(tmp_path / f"{n}.apr" for n in pair))["tensors"]["different"]
        assert got == {"name": head, "dtype": ["F32", "F32"], "shape": [[2], [2]],
                       "cosine": None, "max_error": None, "differs": ["values"]}
    assert diff_models(tmp_path / "none.apr", tmp_path / "none.apr")["equal"]


def test_a_tensor_without_elements_equals_itself(tmp_path):
    empty = np.zeros((0, 3), np.float32)
    assert row(tmp_path, empty, empty) is None
    got = row(tmp_path, empty, empty.astype(np.float64))
    assert (got["cosine"], got["max_error"], got["differs"]) == (None, 0.0, ["dtype"])
