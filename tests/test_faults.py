"""Planted faults: they still fit the code, and the engine tells seen from unseen."""
from dataclasses import replace
from pathlib import Path

import pytest

from aprnb.errors import CheckError, UsageError
from aprnb.proof.checkout import checkout
from aprnb.proof.contracts.contract import Binding, Contract, Falsifier, Value
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

@pytest.mark.sim
def test_is_simulated():
    assert CODE == 3
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


def weaken(copy):
    """As red as before with the fault, but who knows what else it no longer sees."""
    (copy / "tests/test_probe.py").write_text(
        PROBE.replace("assert CODE == 3", "assert CODE in (3, 5)"))


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


def test_a_bound_test_that_does_not_run_there_is_red(copy):
    trial = trial_of("test_sees")
    two = (*trial.tests, "tests/test_probe.py::test_is_simulated")
    binding = replace(trial.falsifier.binding, tests=two)
    result, = run(copy, replace(trial, falsifier=replace(trial.falsifier, binding=binding)))
    assert f"{two[1]}: no such test ran on cpu" in result.problem


def test_hardware_that_is_not_there_is_skipped_with_its_reason(copy):
    result, = run(copy, trial_of("test_sees"), unusable={"cpu": "no CPU found"})
    assert result.skipped == "no CPU found" and result.red_with is None


def test_a_test_that_changed_must_be_seen_red_again(copy):
    trial, file = trial_of("test_sees"), copy / "tests/test_probe.py"
    assert "never recorded" in run(copy, trial, ledger={})[0].problem
    record(copy, [trial], run(copy, trial), every=True)
    assert not run(copy, trial, ledger=read_ledger(copy))[0].problem
    weaken(copy)
    result, = run(copy, trial, ledger=read_ledger(copy))
    assert "changed since they were recorded" in result.problem
    file.write_text(PROBE)


def test_a_skipped_test_that_changed_is_noticed(copy):
    trial, file, away = trial_of("test_sees"), copy / "tests/test_probe.py", {"cpu": "no CPU found"}
    record(copy, [trial], run(copy, trial), every=True)
    ledger = read_ledger(copy)
    assert not run(copy, trial, ledger=ledger, unusable=away)[0].problem
    file.write_text(PROBE.replace("def test_sees", "@pytest.mark.skip(reason='slow')\n"
                                                   "def test_sees"))
    for result in run(copy, trial, ledger=ledger) + run(copy, trial, ledger=ledger, unusable=away):
        assert result.skipped and "changed since they were recorded" in result.problem
    file.write_text(PROBE)


def test_a_falsifier_that_moved_to_hardware_that_is_not_there_is_noticed(copy):
    trial = trial_of("test_sees")
    record(copy, [trial], run(copy, trial), every=True)
    moved = replace(trial, fault=replace(WRONG_CODE, plants={"gpu": WRONG_CODE.plants["cpu"]}),
                    falsifier=replace(trial.falsifier, binding=replace(
                        trial.falsifier.binding, hardware="gpu")))
    result, = run(copy, moved, ledger=read_ledger(copy), unusable={"gpu": "no GPU found"})
    assert result.skipped and "hardware changed since they were recorded" in result.problem


def test_what_is_recorded_where_nothing_can_run_is_the_test_and_what_was_seen_before(copy):
    trial, away = trial_of("test_sees"), {"cpu": "no CPU found"}

    def recorded(*results):
        record(copy, [trial], results, every=True)
        return read_ledger(copy)["FALSIFY-test_sees"]["red"]
    (copy / "contracts/seen-red.json").unlink()
    assert recorded(*run(copy, trial, unusable=away)) == {}
    weaken(copy)
    unseen, = run(copy, trial, ledger=read_ledger(copy), unusable=away)
    assert "changed since" in unseen.problem, "never seen red, and noticed all the same"
    (copy / "tests/test_probe.py").write_text(PROBE)
    assert "never recorded" in run(copy, trial, ledger=read_ledger(copy))[0].problem
    seen = recorded(*run(copy, trial))
    assert list(seen) == ["wrong-code"] and recorded(*run(copy, trial, unusable=away)) == seen
    weaken(copy)
    assert recorded(*run(copy, trial, unusable=away)) == {}, "seen red before the change"
    forgotten, = run(copy, trial, ledger=read_ledger(copy), unusable=away)
    assert forgotten.skipped == "no CPU found; as it stands it was never seen red"
    (copy / "tests/test_probe.py").write_text(PROBE)


@pytest.mark.parametrize("text", [
    "", "<<<<<<< HEAD", "[]", "{}", '{"falsifiers": []}', '{"falsifiers": {"F": 3}}',
    '{"falsifiers": {"F": {"digest": ""}}}', '{"falsifiers": {"F": {"digest": "", "red": 3}}}'])
def test_a_damaged_ledger_is_named(copy, text):
    (copy / "contracts/seen-red.json").write_text(text)
    with pytest.raises(CheckError, match="^contracts/seen-red.json: damaged .* take it from git"):
        read_ledger(copy)
    (copy / "contracts/seen-red.json").unlink()


def test_a_fault_that_is_no_longer_seen_leaves_the_ledger(copy):
    trial = trial_of("test_sees")
    record(copy, [trial], run(copy, trial), every=True)
    blind = replace(run(copy, trial)[0], red_with=None, problem="green with the fault")
    record(copy, [trial], [blind], every=False)
    assert read_ledger(copy)["FALSIFY-test_sees"]["red"] == {}


def test_what_was_seen_red_and_is_bound_no_more_is_named(copy):
    trial = trial_of("test_sees")
    contract = Contract("probe-v1", Path("contracts/probe-v1.yaml"), (trial.falsifier,))

    def trials(ledger, wanted=()):
        return all_trials([contract], {"wrong-code": WRONG_CODE}, wanted, ledger)
    assert trials({trial.falsifier.id: {"red": {"wrong-code": "there"}}})
    for gone in ({trial.falsifier.id: {"red": {"another": "there"}}},
                 {"FALSIFY-GONE": {"red": {"wrong-code": "there"}}}):
        with pytest.raises(CheckError, match="no contract binds them any more"):
            trials(gone)
        assert trials(gone, ["wrong-code"])


def test_a_conftest_above_the_tests_softens_nothing(copy):
    (copy / "conftest.py").write_text("import pytest\n\n@pytest.fixture(autouse=True)\n"
                                      "def soft(monkeypatch):\n    pytest.skip('softly')\n")
    result, = run(copy, trial_of("test_sees"))
    (copy / "conftest.py").unlink()
    assert result.red_with and not result.skipped


def test_the_digest_covers_what_a_test_leans_on_and_nothing_else(copy):
    node, tests = "tests/test_leaning.py::test_one", copy / "tests"
    conftest = (tests / "conftest.py").read_text()
    text = ("from leaned_on import LIMIT\nFACTOR = 2\n\ndef test_one():\n    assert LIMIT\n\n"
            "def test_two():\n    assert FACTOR\n")

    def digest(text, helper="LIMIT = 1\n", value=None):
        (tests / "test_leaning.py").write_text(text)
        (tests / "leaned_on.py").write_text(helper)
        return digest_of_tests(copy, [node], value)
    first = digest(text)
    assert digest("# a comment\n\n" + text) == first
    assert digest(text.replace("assert FACTOR", "pass")) == first, "another test"
    assert digest(text.replace("assert LIMIT", "pass")) != first
    assert digest(text.replace("FACTOR = 2", "FACTOR = 3")) != first
    assert digest(text, "LIMIT = 9\n") != first
    gate = Value("loss", "nats", 0.05, 8.35, None)
    assert digest(text, value=gate) != first
    assert digest(text, value=gate) != digest(text, value=replace(gate, upper=99.0))
    alone = text.replace("from leaned_on import LIMIT", "LIMIT = 1")
    assert digest(alone) == digest(alone, "LIMIT = 9\n")
    for lean in ("import os, leaned_on", "CODE = 'from leaned_on import LIMIT'",
                 "SCRIPT = 'leaned_on.py'"):
        leaning = f"{lean}\n{alone}"
        assert digest(leaning) != digest(leaning, "LIMIT = 9\n"), lean
    (tests / "conftest.py").write_text(f"import leaned_on\n{conftest}")
    assert digest(alone) != digest(alone, "LIMIT = 9\n"), "through conftest.py"
    (tests / "conftest.py").write_text(conftest)


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
