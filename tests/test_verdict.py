"""The verdict of a falsifier from what its tests did and the numbers that they reported."""
import json
import math
from dataclasses import replace

import pytest

from aprnb.proof.contracts.contract import Binding, Value
from aprnb.proof.observe import Observation
from aprnb.proof.verdicts.verdict import judge, read_value

BINDING = Binding(("tests/a.py::t",), (), "cpu",
                  Value("first_loss", "nats", 0.05, 8.35, (1.5, 4.0)), None)


@pytest.mark.parametrize("number, word", [
    (2.0, "DISCHARGED"), (1.5, "DISCHARGED"), (4, "DISCHARGED"), (1.49, "SUSPECT"),
    (8.35, "SUSPECT"), (0.05, "SUSPECT"), (0.0008, "RED"), (0.0, "RED"), (8.36, "RED"),
    (19.8, "RED"), (-2.0, "RED"), (math.nan, "RED"), (math.inf, "RED"), (-math.inf, "RED"),
    (True, "RED"), ("2.0", "RED"), (None, "RED"), ([2.0], "RED"), (10**309, "RED")], ids=str)
def test_a_number_is_judged_on_both_sides(number, word):
    seen = [Observation("tests/a.py::t", "passed", properties={"first_loss": number})]
    assert judge(BINDING, seen).word == word


@pytest.mark.parametrize("number, text", [
    (9.0, "9"), (8.3500001, "8.3500001"), (0.04999999999, "0.04999999999"),
    (9.123456789, "9.12346"), (1234567, "1234567")])
def test_a_number_is_told_from_the_bound_that_it_misses(number, text):
    seen = [Observation("tests/a.py::t", "passed", properties={"first_loss": number})]
    assert judge(BINDING, seen).reason == (f"first_loss {text} nats is outside its gate 0.05 to "
                                           "8.35")


def test_the_worst_of_several_numbers_counts():
    numbers = {"x": 2.0, "y": 5.0, "z": 9.0}
    seen = [Observation(f"tests/a.py::t[{k}]", "passed", properties={"first_loss": v})
            for k, v in numbers.items()]
    assert [judge(BINDING, seen[:n]).word for n in (1, 2, 3)] == ["DISCHARGED", "SUSPECT", "RED"]
    assert judge(BINDING, seen).value == 9.0


def test_a_number_of_another_test_is_not_taken():
    seen = [Observation("tests/a.py::t", "passed"),
            Observation("tests/a.py::t2", "passed", properties={"first_loss": 2.0})]
    assert judge(BINDING, seen).word == "RED"


@pytest.mark.parametrize("outcomes, word", [
    ("passed skipped", "DISCHARGED"), ("skipped skipped", "NOT-RUN"), ("passed failed", "RED"),
    ("skipped error", "RED"), ("failed skipped", "RED"), ("", "RED")])
def test_one_case_that_ran_stands_for_a_test_and_one_that_failed_too(outcomes, word):
    seen = [Observation(f"tests/a.py::t[{i}]", outcome)
            for i, outcome in enumerate(outcomes.split())]
    assert judge(replace(BINDING, value=None), seen).word == word


def test_every_bound_test_has_to_run():
    binding = replace(BINDING, value=None, tests=("tests/a.py::t", "tests/a.py::u"))
    passed = Observation("tests/a.py::t", "passed")
    assert judge(binding, [passed]).word == "RED"
    for outcome, word in (("skipped", "NOT-RUN"), ("passed", "DISCHARGED")):
        assert judge(binding, [passed, Observation("tests/a.py::u", outcome)]).word == word


@pytest.mark.parametrize("device, word", [("cpu, fp32: NumPy oracle", "NOT-RUN"),
                                          ("cuda:0, bf16: sm_90 kernels", "DISCHARGED")])
def test_a_falsifier_of_a_gpu_takes_no_number_of_a_cpu(tmp_path, device, word):
    (tmp_path / "summary.json").write_text(json.dumps({"device": device, "x": [{"loss": 2.0}]}))
    binding = replace(BINDING, hardware="gpu", run="summary.json:x.0.loss")
    assert judge(binding, [Observation("tests/a.py::t", "passed")], tmp_path).word == word


@pytest.mark.parametrize("text", ["{", "[]", '{"device": "cpu"}', '{"device": "cpu", "x": null}',
                                  '{"device": "cpu", "x": []}', '{"device": "cpu", "x": [NaN]}'])
def test_a_run_that_does_not_say_the_number_is_red(tmp_path, text):
    (tmp_path / "summary.json").write_text(text)
    binding = replace(BINDING, run="summary.json:x.0")
    assert judge(binding, [Observation("tests/a.py::t", "passed")], tmp_path).word == "RED"
    binding = replace(BINDING, run="other.json:x.0")
    assert judge(binding, [Observation("tests/a.py::t", "passed")], tmp_path).word == "RED"


def test_a_file_below_the_run_is_found_beside_the_evidence(tmp_path):
    (tmp_path / "epoch-000.metadata.json").write_text('{"val_loss": 2.5}')
    assert read_value(tmp_path, "ckpt/epoch-000.metadata.json:val_loss") == 2.5
