"""Planted faults: they still fit the code, and the engine tells seen from unseen."""
from dataclasses import replace
from pathlib import Path

import pytest
from runs import aprnb_here

from aprnb.errors import CheckError, DeviceError, UsageError
from aprnb.proof.checkout import checkout
from aprnb.proof.contracts.contract import Binding, Contract, Falsifier, Value
from aprnb.proof.faults.fault import fault, registry
from aprnb.proof.faults.ledger import blank_entry, enter, pending, read_ledger
from aprnb.proof.faults.planting import Workshop
from aprnb.proof.faults.reach import Reach
from aprnb.proof.faults.trials import all_trials, record, run_trials
from aprnb.proof.observe import run_tests
from aprnb.proof.hardware import SIDES, UNASKED, idle, unusable

PROBE = '''
import pytest
from aprnb.errors import (CheckError, DeviceError, DeviceMemoryError, MissingPackageError,
                          NotFoundError, StorageError)
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

@pytest.mark.parametrize("error", [StorageError, MissingPackageError, DeviceError,
                                   DeviceMemoryError])
def test_lacks(error):
    if CODE != 3:
        raise error("this machine has none")

def test_leaves():
    if CODE != 3:
        pytest.skip("no such code here")

@pytest.mark.parametrize("n", [1, 2, 3])
def test_counts(n):
    with open("counted", "a") as out:
        print(n, file=out)
    assert n < 2 or CODE == 3

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
ON_BOTH = replace(WRONG_CODE, plants=WRONG_CODE.plants | {"gpu": WRONG_CODE.plants["cpu"]})


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


def test_what_was_just_seen_green_is_not_run_without_the_fault_again(copy, monkeypatch):
    monkeypatch.setattr("aprnb.proof.faults.trials._green", None)
    asked = [trial_of(name) for name in ("test_sees", "test_is_blind", "test_is_skipped")]
    seen, blind, skipped = run_trials(copy, asked, {}, 2, known_green=True)
    assert "tests/test_probe.py:8 AssertionError: assert 4 == 3" in seen.red_with
    assert "green with the fault" in blind.problem
    assert skipped.skipped == "no such thing here" and not skipped.problem
    result = aprnb_here("faults", "run", "--all", "--record", "--known-green")
    assert result.returncode == 2 and "leave one of them out" in result.stderr


def test_seen_and_unseen_faults_are_told_apart(copy):
    before = (copy / "aprnb/errors.py").read_text()
    seen, refused, blind, stumbled, red, skipped = run(copy, *map(trial_of, (
        "test_sees", "test_refuses", "test_is_blind", "test_stumbles", "test_is_red_anyway",
        "test_is_skipped")))
    assert "tests/test_probe.py:8 AssertionError: assert 4 == 3" in seen.red_with
    assert seen.green_without and not seen.problem and not seen.skipped
    assert "CheckError: three is right" in refused.red_with and not refused.problem
    assert "green with the fault" in blind.problem and blind.red_with is None
    assert "red by accident" in stumbled.problem and "KeyError" in stumbled.problem
    assert "red without the fault" in red.problem and red.green_without is False
    assert skipped.skipped == "no such thing here" and not skipped.problem
    assert (copy / "aprnb/errors.py").read_text() == before, "planted in the checkout"


def test_what_a_machine_lacks_is_no_judgement(copy):
    """Of a full disk, a busy GPU or a package that is gone no fault is to blame."""
    lacks, leaves = run(copy, trial_of("test_lacks"), trial_of("test_leaves"))
    assert "red by accident" in lacks.problem and "this machine has none" in lacks.problem
    assert leaves.problem == "skipped with the fault: no such code here" and not leaves.red_with


def test_a_trial_ends_with_its_first_judgement(copy):
    """What follows says no more; of models in the simulator it takes a minute."""
    with Workshop(copy) as shop, shop.planted(WRONG_CODE.plants["cpu"]):
        seen = run_tests(shop.root, [trial_of("test_counts").tests[0]], "cpu", 100, until_red=True)
        assert (shop.root / "counted").read_text().split() == ["1", "2"]
    assert [o.outcome for o in seen] == ["passed", "failed"]
    result, = run(copy, trial_of("test_counts"))
    assert "assert (2 < 2 or 4 == 3)" in result.red_with and not result.problem
    (copy / "counted").unlink()


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


def test_a_test_that_skips_itself_where_it_was_seen_red_is_noticed(copy):
    trial, file = trial_of("test_sees"), copy / "tests/test_probe.py"
    record(copy, [trial], run(copy, trial), every=True)
    ledger, mark = read_ledger(copy), "@pytest.mark.skip(reason={!r})\ndef test_sees"
    file.write_text(PROBE.replace("def test_sees", mark.format("slow")))
    result, = run(copy, trial, ledger=ledger)
    assert result.skipped == "slow" and "changed since they were recorded" in result.problem
    file.write_text(PROBE)
    hook = "\ndef pytest_runtest_setup(item):\n    import pytest\n    pytest.skip({!r})\n"
    conftest = (copy / "tests/conftest.py").read_text()
    for reason, problem in (("softly", "skipped, where it was seen red before"),
                            ("torch is not installed", "")):
        (copy / "tests/conftest.py").write_text(conftest + hook.format(reason))
        result, = run(copy, trial, ledger=ledger)
        assert (result.skipped, result.problem) == (reason, problem)
    (copy / "tests/conftest.py").write_text(conftest)


def test_hardware_that_is_not_there_leaves_a_change_pending(copy):
    trial, away = trial_of("test_sees"), {"cpu": "no CPU found"}

    def waits(trial=trial):
        result, = run(copy, trial, ledger=read_ledger(copy), unusable=away)
        assert result.skipped == "no CPU found" and not result.problem
        return result.pending
    (copy / "contracts/seen-red.json").unlink(missing_ok=True)
    assert waits() == "never seen red"
    record(copy, [trial], run(copy, trial), every=True)
    assert waits() == ""
    weaken(copy)
    assert waits() == "its tests or bounds changed since it was seen red"
    (copy / "tests/test_probe.py").write_text(PROBE)
    moved = replace(trial, fault=replace(WRONG_CODE, plants={"gpu": WRONG_CODE.plants["cpu"]}),
                    falsifier=replace(trial.falsifier, binding=replace(
                        trial.falsifier.binding, hardware="gpu")))
    result, = run(copy, moved, ledger=read_ledger(copy), unusable={"gpu": "no GPU found"})
    assert "its hardware changed since" in result.pending and not result.problem


def test_on_a_gpu_the_code_that_a_test_reaches_counts_too(copy):
    """Elsewhere every trial is run each time, and what is run needs no digest of what it judges."""
    errors = copy / "aprnb/errors.py"
    text = errors.read_text()
    for hardware, waits in (("gpu", "the code that it reaches changed since it was seen red"),
                            ("cpu", "")):
        trial = trial_of("test_refuses")
        trial = replace(trial, falsifier=replace(trial.falsifier, binding=replace(
            trial.falsifier.binding, hardware=hardware)))
        entry = blank_entry(Reach(copy), trial.falsifier)
        enter(entry, ON_BOTH, "there")
        for change, expect in ((text + "\nUNRELATED = 1\n", ""),
                               (text.replace("exit_code = 3", "exit_code = 4"), waits)):
            errors.write_text(change)
            assert pending(Reach(copy), trial.falsifier, ON_BOTH, entry) == expect
        errors.write_text(text)


def on_a_gpu(trial, *faults):
    return replace(trial, falsifier=replace(trial.falsifier, binding=replace(
        trial.falsifier.binding, hardware="gpu", faults=("wrong-code", *faults))))


def test_recording_one_fault_vouches_for_no_other_that_was_seen_in_other_code(copy):
    trial, errors = on_a_gpu(trial_of("test_refuses"), "another"), copy / "aprnb/errors.py"
    trial = replace(trial, fault=ON_BOTH)
    text, seen = errors.read_text(), run(copy, trial_of("test_refuses"))[0]
    (copy / "contracts/seen-red.json").unlink(missing_ok=True)
    another = replace(trial, fault=replace(ON_BOTH, id="another"))
    record(copy, [trial, another], [seen, replace(seen, id="another")], every=True)

    def waits():
        entry = read_ledger(copy)[trial.falsifier.id]
        return [pending(Reach(copy), trial.falsifier, f, entry) for f in (ON_BOTH, another.fault)]
    assert waits() == ["", ""]
    record(copy, [trial], [seen], every=False)
    assert waits() == ["", ""], "nothing changed"
    errors.write_text(text.replace("exit_code = 5", "exit_code = 50"))
    assert all("the code that it reaches changed" in why for why in waits())
    record(copy, [trial], [seen], every=False)
    assert waits()[0] == "" and waits()[1]
    errors.write_text(text)


def test_on_a_gpu_another_plant_of_a_fault_waits_too(copy):
    trial = replace(on_a_gpu(trial_of("test_refuses")), fault=ON_BOTH)
    seen = run(copy, trial_of("test_refuses"))
    (copy / "contracts/seen-red.json").unlink(missing_ok=True)
    record(copy, [trial], seen, every=True)
    entry, reach = read_ledger(copy)[trial.falsifier.id], Reach(copy)
    assert pending(reach, trial.falsifier, ON_BOTH, entry) == ""
    plant, = ON_BOTH.plants["gpu"]
    softer = replace(ON_BOTH, plants={"gpu": (replace(plant, new="another text"),)})
    assert pending(reach, trial.falsifier, softer, entry) == (
        "the fault itself changed since it was seen red")


def test_hardware_that_was_not_asked_for_is_left_out():
    assert idle("faults run", (), {"cpu", "simulator"}) == {}
    assert idle("faults run", (), SIDES) == unusable()
    left = idle("faults run", ("cpu",), {"cpu", "simulator"})
    assert left == {"simulator": UNASKED, "gpu": UNASKED}
    if unusable():
        with pytest.raises(DeviceError, match="faults run: --hardware gpu: no CUDA driver or GPU"):
            idle("faults run", ("gpu",), {"cpu"})


def test_what_is_recorded_where_nothing_can_run_stays_as_it_was(copy):
    trial, away = trial_of("test_sees"), {"cpu": "no CPU found"}

    def recorded(*results):
        record(copy, [trial], results, every=True)
        return read_ledger(copy)["FALSIFY-test_sees"]
    (copy / "contracts/seen-red.json").unlink(missing_ok=True)
    assert recorded(*run(copy, trial, unusable=away))["red"] == {}
    assert "never recorded" in run(copy, trial, ledger=read_ledger(copy))[0].problem
    seen = recorded(*run(copy, trial))
    assert list(seen["red"]) == ["wrong-code"]
    weaken(copy)
    assert recorded(*run(copy, trial, unusable=away)) == seen, "the digest of what was seen red"
    assert "changed since" in run(copy, trial, ledger=read_ledger(copy))[0].problem
    (copy / "tests/test_probe.py").write_text(PROBE)


@pytest.mark.parametrize("text", [
    "", "<<<<<<< HEAD", "[]", "{}", '{"falsifiers": []}', '{"falsifiers": {"F": 3}}',
    '{"falsifiers": {"F": {"digest": ""}}}', '{"falsifiers": {"F": {"digest": "", "red": 3}}}'])
def test_a_damaged_ledger_is_named(copy, text):
    (copy / "contracts/seen-red.json").write_text(text)
    with pytest.raises(CheckError, match="^contracts/seen-red.json: damaged .* take it from git"):
        read_ledger(copy)
    (copy / "contracts/seen-red.json").unlink(missing_ok=True)


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
