"""Planted faults: they still fit the code, and the engine tells seen from unseen."""
from dataclasses import replace
from pathlib import Path

import pytest

from aprnb.errors import CheckError, UsageError
from aprnb.proof.checkout import checkout
from aprnb.proof.contracts.contract import Binding, Contract, Falsifier
from aprnb.proof.faults.fault import fault, registry
from aprnb.proof.faults.ledger import digest_of_tests, read_ledger
from aprnb.proof.faults.planting import Workshop
from aprnb.proof.faults.trials import all_trials, record, run_trials

PROBE = '''
import pytest
from aprnb.errors import CheckError, NotFoundError
CODE = NotFoundError.exit_code

def test_sees():
    assert CODE == 3

def test_refuses():
    if CODE != 3:
        raise CheckError("three is right")

def test_is_blind():
    assert CODE > 0

def test_stumbles():
    {3: "three"}[CODE]

def test_is_red_anyway():
    assert CODE == 5

def test_is_skipped():
    pytest.skip("no such thing here")
'''
WRONG_CODE = fault("wrong-code", "a missing file ends with 4", "ours", cpu=[
    ("aprnb/errors.py", 'does not exist."""\n\n    exit_code = 3',
     'does not exist."""\n\n    exit_code = 4')])


@pytest.mark.parametrize("entry", registry().values(), ids=lambda f: f.id)
def test_every_plant_fits_the_code(entry):
    root = checkout()
    assert entry.plants, "a fault without a plant"
    for plants in entry.plants.values():
        for plant in plants:
            assert plant.file.startswith("aprnb/") and plant.old != plant.new
            assert (root / plant.file).read_text().count(plant.old) == 1, plant


@pytest.fixture(scope="module")
def copy():
    """A checkout of its own, with tests of ours in it."""
    with Workshop(checkout()) as shop:
        (shop.root / "contracts").unlink(missing_ok=True)  # a link to ours
        (shop.root / "contracts").mkdir()
        (shop.root / "tests/test_probe.py").write_text(PROBE)
        yield shop.root


def trial_of(name):
    binding = Binding((f"tests/test_probe.py::{name}",), ("wrong-code",), "cpu", None, None)
    falsifier = Falsifier(f"FALSIFY-{name}", "rule", binding)
    contract = Contract("probe-v1", Path("contracts/probe-v1.yaml"), (falsifier,))
    return all_trials([contract], {"wrong-code": WRONG_CODE})[0]


def run(copy, *trials, ledger=None, unusable=None):
    return list(run_trials(copy, trials, unusable or {}, 2, ledger))


def test_seen_and_unseen_faults_are_told_apart(copy):
    before = (copy / "aprnb/errors.py").read_text()
    seen, refused, blind, stumbled, red, skipped = run(copy, *map(trial_of, (
        "test_sees", "test_refuses", "test_is_blind", "test_stumbles", "test_is_red_anyway",
        "test_is_skipped")))
    assert "tests/test_probe.py:7 AssertionError: assert 4 == 3" in seen.red_with
    assert seen.green_without and not seen.problem and not seen.skipped
    assert "CheckError: three is right" in refused.red_with and not refused.problem
    assert "green with the fault" in blind.problem and blind.red_with is None
    assert "red by accident" in stumbled.problem and "KeyError" in stumbled.problem
    assert "red without the fault" in red.problem and red.green_without is False
    assert skipped.skipped == "no such thing here" and not skipped.problem
    assert (copy / "aprnb/errors.py").read_text() == before, "planted in the checkout"


def test_a_fault_that_no_longer_fits_is_one_bad_row(copy):
    gone = fault("wrong-code", "a fault", "ours", cpu=[("aprnb/errors.py", "no such text", "x")])
    result, = run(copy, replace(trial_of("test_sees"), fault=gone))
    assert "stands there 0 times" in result.problem and result.red_with is None


def test_hardware_that_is_not_there_is_skipped_with_its_reason(copy):
    result, = run(copy, trial_of("test_sees"), unusable={"cpu": "no CPU found"})
    assert result.skipped == "no CPU found" and result.red_with is None


def test_a_test_that_changed_must_be_seen_red_again(copy):
    trial, file = trial_of("test_sees"), copy / "tests/test_probe.py"
    assert "never recorded" in run(copy, trial, ledger={})[0].problem
    record(copy, [trial], run(copy, trial), every=True)
    assert not run(copy, trial, ledger=read_ledger(copy))[0].problem
    # as red as before with this fault, but who knows what else it no longer sees
    file.write_text(PROBE.replace("assert CODE == 3", "assert CODE in (3, 5)"))
    result, = run(copy, trial, ledger=read_ledger(copy))
    assert "changed since they were seen red" in result.problem
    file.write_text(PROBE)


def test_the_digest_covers_what_a_test_leans_on_and_nothing_else(copy):
    node, tests = "tests/test_leaning.py::test_one", copy / "tests"
    (tests / "leaned_on.py").write_text("LIMIT = 1\n")
    text = ("from leaned_on import LIMIT\nFACTOR = 2\n\ndef test_one():\n    assert LIMIT\n\n"
            "def test_two():\n    assert FACTOR\n")

    def digest(text, helper="LIMIT = 1\n"):
        (tests / "test_leaning.py").write_text(text)
        (tests / "leaned_on.py").write_text(helper)
        return digest_of_tests(copy, [node])
    first = digest(text)
    assert digest("# a comment\n\n" + text) == first
    assert digest(text.replace("assert FACTOR", "pass")) == first, "another test"
    assert digest(text.replace("assert LIMIT", "pass")) != first
    assert digest(text.replace("FACTOR = 2", "FACTOR = 3")) != first
    assert digest(text, "LIMIT = 9\n") != first


@pytest.mark.parametrize("plant, need", [
    (("aprnb/errors.py", "exit_code", "code"), "times, not once"),
    (("aprnb/errors.py", "no such text", "code"), "0 times"),
    (("aprnb/no_such_file.py", "a", "b"), "no such file")])
def test_a_plant_that_does_not_fit_is_refused(copy, plant, need):
    before = (copy / "aprnb/errors.py").read_text()
    with Workshop(copy) as shop, pytest.raises(CheckError, match=need):
        with shop.planted(fault("x", "x", "ours", cpu=[plant]).plants["cpu"]):
            pass
    assert (copy / "aprnb/errors.py").read_text() == before


def test_loose_ends_between_contracts_and_faults_are_errors():
    known = {"wrong-code": WRONG_CODE}
    with pytest.raises(CheckError, match="nobody looks for"):
        all_trials([], known)
    with pytest.raises(UsageError, match="no planted fault is called nothing"):
        all_trials([], known, ["nothing"])
