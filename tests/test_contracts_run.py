"""Verdicts of contracts: drawn by tests that really run, recorded, and drawn again by status."""
import hashlib
import io
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import runs
import small_checkout as small
from runs import refused

from aprnb.proof.contracts.contract import Binding, Contract, Falsifier, Value
from aprnb.proof.faults.ledger import digest_of_tests
from aprnb.proof.observe import Observation, run_tests
from aprnb.proof.verdicts.status import Proven, proven, read_evidence, supported_status
from aprnb.proof.verdicts.verdict import judge, read_value

LOSS = {"value": small.VALUE}
PLAUSIBLE = {"value": small.VALUE | {"plausible": [0.5, 1.2]}}
GATE = {"value": small.VALUE | {"upper": 1.2}}
OF_A_RUN = LOSS | {"run": "summary.json:final_val_loss"}
SMALL = (  # test, hardware, binding, the verdict and what its reason says
    ("test_passes", "cpu", {}, "DISCHARGED", ""),
    ("test_fails", "cpu", {}, "RED", "tests/test_small.py:8 AssertionError: assert (1 + 1) == 3"),
    ("test_is_skipped", "cpu", {}, "NOT-RUN", "no such thing here"),
    ("test_reports", "cpu", LOSS, "DISCHARGED", ""),
    ("test_reports", "cpu", PLAUSIBLE, "SUSPECT", "first_loss 1.5 nats is inside its gate"),
    ("test_reports", "cpu", GATE, "RED", "first_loss 1.5 nats is outside its gate 0.05 to 1.2"),
    ("test_reports[2]", "cpu", GATE, "DISCHARGED", ""),
    ("test_reports_nan", "cpu", LOSS, "RED", "first_loss is nan, not finite"),
    ("test_passes", "cpu", LOSS, "RED", "no test reported first_loss"),
    ("test_in_the_simulator", "simulator", {}, "DISCHARGED", ""),
    ("test_in_the_simulator", "cpu", {}, "RED", "no such test ran on cpu"),
    ("test_passes", "cpu", OF_A_RUN, "DISCHARGED", ""),
    ("test_passes", "cpu", LOSS | {"run": "summary.json:best"}, "RED", "says no summary.json:best"),
    ("test_passes", "cpu", OF_A_RUN | GATE, "RED", "outside its gate 0.05 to 1.2"),
)


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """(checkout with evidence of one run of all contracts, result of that run)."""
    base = tmp_path_factory.mktemp("told")
    runs.train(base)
    root = small.make(base / "house")
    small.contract(root, "small-v1", *((*entry[:3],) for entry in SMALL))
    small.contract(root, "good-v1", ("test_passes", "cpu", {}), ("test_reports", "cpu", LOSS))
    small.contract(root, "far-v1", ("test_passes", "cpu", {}), ("test_on_a_gpu", "gpu", {}))
    digest = digest_of_tests(root, ["tests/test_small.py::test_passes"])
    (root / "contracts/seen-red.json").write_text(json.dumps({"falsifiers": {
        "FALSIFY-GOOD-V1-001": {"digest": digest, "red": {"wrong-code": "tests/x.py:1"}}}}))
    return root, small.contracts(root, "run", "--run-dir", base / "run", "--output", "evidence",
                                 "--name", "first", "--commit", small.COMMIT, "--json")


@pytest.fixture
def house(told, tmp_path):
    """A copy of that checkout, and its folder of evidence."""
    root = Path(shutil.copytree(told[0], tmp_path / "house"))
    return root, next(root.glob("evidence/*-first"))


def verdicts(document):
    return {row["falsifier"]: row for row in document["verdicts"]}


def status(root, *arguments):
    result = small.contracts(root, "status", "--json", *arguments)
    return result, json.loads(result.stdout)


def falsifier_of(report, id):
    return next(f for c in report["contracts"] for f in c["falsifiers"] if f["falsifier"] == id)


# ---------------------------------------------------------------- run

@pytest.mark.parametrize("i", range(len(SMALL)), ids=lambda i: f"{i + 1}-{SMALL[i][0]}")
def test_a_verdict_follows_from_what_the_tests_did(told, i):
    row = verdicts(json.loads(told[1].stdout))[f"FALSIFY-SMALL-V1-{i + 1:03}"]
    assert (row["verdict"], row["hardware"]) == (SMALL[i][3], SMALL[i][1])
    assert SMALL[i][4] in row["reason"] and bool(row["reason"]) == bool(SMALL[i][4])


def test_a_red_falsifier_ends_with_5_and_is_named(told):
    red = sum(entry[3] == "RED" for entry in SMALL)
    refused(told[1], 5, f"{red} of {len(SMALL) + 4} falsifiers", "FALSIFY-SMALL-V1-002",
            "assert (1 + 1) == 3")


def test_a_gpu_that_is_not_there_is_a_reason(told):
    row = verdicts(json.loads(told[1].stdout))["FALSIFY-FAR-V1-002"]
    if row["verdict"] == "DISCHARGED":
        pytest.skip("there is a GPU here")
    assert row["verdict"] == "NOT-RUN" and "no CUDA driver or GPU" in row["reason"]
    assert row["device"] is None and row["observations"] == [] and row["seconds"] == 0


def test_a_row_holds_all_that_its_verdict_was_drawn_from(told):
    root, result = told
    document = json.loads(result.stdout)
    row = verdicts(document)["FALSIFY-SMALL-V1-005"]
    assert row["commit"] == small.COMMIT and row["device"] and row["value"] == 1.5
    assert row["bounds"] == {**PLAUSIBLE["value"]} and row["seconds"] >= 0
    assert [o["properties"]["first_loss"] for o in row["observations"]] == [0.5, 1.0, 1.5]
    assert row["command"].endswith("tests/test_small.py::test_reports")
    for name in ("contracts/small-v1.yaml", "tests/test_small.py"):
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        assert row["inputs"][name] == digest
    simulated = verdicts(document)["FALSIFY-SMALL-V1-010"]
    assert simulated["command"].startswith("NUMBA_ENABLE_CUDASIM=1 python -m pytest -m sim tests/")
    assert simulated["seconds"] > 0  # it imports the simulator
    of_a_run = verdicts(document)["FALSIFY-SMALL-V1-012"]
    summary = json.loads((root.parent / "run/summary.json").read_text())
    assert of_a_run["value"] == summary["final_val_loss"]
    assert of_a_run["device"] == summary["device"] == document["run"]["device"]
    assert "run/summary.json" in of_a_run["inputs"]


def test_what_is_recorded_is_what_was_printed(told):
    root, result = told
    folder = next(root.glob("evidence/*-first"))
    assert json.loads((folder / "verdicts.json").read_text()) == json.loads(result.stdout)
    record = json.loads((folder / "record.json").read_text())
    assert record["exit_code"] == 5 and record["commit"] == small.COMMIT
    assert "failed" in (folder / "dispatch.txt").read_text()
    assert {"epoch-000.metadata.json", "summary.json"} <= set(record["files"])
    assert any(name.endswith("shard-00000.bin") for name in record["inputs"])


def test_the_page_tells_the_ledger_the_hypotheses_and_the_limits(told):
    text = next(told[0].glob("evidence/*-first/README.md")).read_text()
    assert ("| FALSIFY-GOOD-V1-002 | cpu | NOT-RUN | **DISCHARGED** | 0.5 nats | 0.05 to 8.35 |"
            in text)
    assert "| `wrong-code`: a missing file ends with 4 | OPEN-suspected |" in text
    assert "- FALSIFY-SMALL-V1-003: NOT-RUN on cpu, no such thing here" in text
    assert "## Training, epoch by epoch" in text


def test_without_output_nothing_is_written(told):
    root, before = told[0], sorted(told[0].rglob("*"))
    result = small.contracts(root, "run", "contracts/good-v1.yaml")
    assert result.returncode == 0, result.stderr
    assert "DISCHARGED cpu       FALSIFY-GOOD-V1-002: first_loss 0.5 nats, gate" in result.stdout
    assert result.stdout.endswith("2 DISCHARGED\n")
    assert [p for p in sorted(root.rglob("*")) if "__pycache__" not in p.parts] == [
        p for p in before if "__pycache__" not in p.parts]


def test_a_run_that_is_wanted_and_not_given_is_a_reason(house):
    small.contract(house[0], "run-v1", ("test_passes", "cpu", OF_A_RUN),
                   ("test_passes", "cpu", {}))
    result = small.contracts(house[0], "run", "contracts/run-v1.yaml", "--json", "--output",
                             "evidence/second", "--commit", small.COMMIT)
    row = verdicts(json.loads(result.stdout))["FALSIFY-RUN-V1-001"]
    assert (result.returncode, row["verdict"]) == (0, "NOT-RUN") and "--run-dir" in row["reason"]
    report = status(house[0], "contracts/run-v1.yaml")[1]
    assert report["evidence"][0]["problems"] == []
    assert report["contracts"][0]["status"] == "DRAFT_PARTIAL_DISCHARGE"


def test_only_fault_looked_for_and_refuted_is_falsified(house):
    """The second falsifier of the contract passes too, but was never seen red with the fault."""
    result = small.contracts(house[0], "run", "contracts/good-v1.yaml", "--output",
                             "evidence/second", "--commit", small.COMMIT)
    assert result.returncode == 0
    assert ("| `wrong-code`: a missing file ends with 4 | FALSIFIED | FALSIFY-GOOD-V1-001 (cpu); "
            "open: FALSIFY-GOOD-V1-002 (cpu) was not seen red with it |"
            ) in (house[0] / "evidence/second/README.md").read_text()
    assert (house[0] / "evidence/second/output.txt").read_text().strip().endswith("s")


def test_a_test_that_changed_since_it_was_seen_red_refutes_nothing(house):
    (house[0] / "tests/test_small.py").write_text(small.TESTS.replace("assert True", "assert 1"))
    result = small.contracts(house[0], "run", "contracts/good-v1.yaml", "--output",
                             "evidence/second", "--commit", small.COMMIT)
    assert result.returncode == 0
    assert ("| `wrong-code`: a missing file ends with 4 | OPEN | open: FALSIFY-GOOD-V1-001 (cpu) "
            "was not seen red with it;") in (house[0] / "evidence/second/README.md").read_text()


def test_a_process_that_dies_turns_red_what_it_did_not_say(house):
    (house[0] / "tests/test_small.py").write_text(
        small.TESTS + "\ndef test_dies():\n    import os\n    os._exit(9)\n"
                      "\ndef test_comes_later():\n    pass\n")
    small.contract(house[0], "dead-v1", ("test_comes_later", "cpu", {}), ("test_dies", "cpu", {}),
                   ("test_passes", "cpu", {}))
    result = small.contracts(house[0], "run", "contracts/dead-v1.yaml", "--json")
    rows = verdicts(json.loads(result.stdout))
    assert [row["verdict"] for row in rows.values()] == ["RED", "RED", "DISCHARGED"]
    for name in ("FALSIFY-DEAD-V1-001", "FALSIFY-DEAD-V1-002"):
        assert rows[name]["reason"] == "the process ended with 9 in tests/test_small.py::test_dies"


def test_a_file_that_cannot_be_read_turns_red_with_the_reason(house):
    (house[0] / "tests/test_small.py").write_text("import nonsense\n" + small.TESTS)
    result = small.contracts(house[0], "run", "contracts/good-v1.yaml", "--json")
    row = verdicts(json.loads(result.stdout))["FALSIFY-GOOD-V1-001"]
    assert row["verdict"] == "RED" and "No module named 'nonsense'" in row["reason"]


@pytest.mark.parametrize("arguments, code, words", [
    (["--output", "evidence/x"], 2, ["--commit"]),
    (["--commit", "the newest"], 2, ["7 to 40 hexadecimal digits", "'the newest'"]),
    (["--output", "evidence", "--name", "first", "--commit", small.COMMIT], 5, ["--force"]),
    (["--name", "x"], 2, ["--output"]),
    *((["--output", "evidence", "--name", name, "--commit", small.COMMIT], 2, [repr(name), "'_'"])
      for name in ("../../x", "a/b", ".x", "", "a b", "a\n", "\u00e4")),
    (["--run-dir", "contracts", "contracts/good-v1.yaml"], 2, ["none", "reads a training run"]),
    (["--run-dir", "contracts", "--hardware", "simulator"], 2, ["none", "reads a training run"]),
    (["--hardware", "cpu,tpu"], 2, ["cpu,simulator,gpu"]),
    (["--run-dir", "contracts"], 3, ["no folder of a training run"]),
    (["contracts/none.yaml"], 3, ["none.yaml"]),
    (["contracts/good-v1.yaml", "--hardware", "simulator"], 5, ["nothing to run", "not asked"]),
])
def test_what_cannot_be_meant_is_refused_before_any_test_runs(told, arguments, code, words):
    beside = sorted(f.name for f in told[0].parent.iterdir())
    refused(small.contracts(told[0], "run", *arguments), code, *words)
    assert [f.name[11:] for f in (told[0] / "evidence").iterdir()] == ["first"]
    assert sorted(f.name for f in told[0].parent.iterdir()) == beside


def test_a_gpu_that_is_asked_for_by_name_is_an_error(told):
    from aprnb.proof.hardware import unusable
    if "gpu" not in unusable():
        pytest.skip("there is a GPU here")
    refused(small.contracts(told[0], "run", "--hardware", "gpu,cpu"), 14, "no CUDA driver")


def test_with_force_a_record_is_replaced(house):
    result = small.contracts(house[0], "run", "contracts/good-v1.yaml", "--output", house[1],
                             "--commit", "f" * 40, "--force", "--note", "Once more.")
    assert result.returncode == 0, result.stderr
    assert read_evidence(house[0] / "evidence")[0].commit == "f" * 40
    assert "Once more." in (house[1] / "README.md").read_text()
    assert not (house[1] / "summary.json").exists()


# ---------------------------------------------------------------- status

REPORTS_BREAK = '''
def pytest_runtest_setup(item):
    assert "reports" not in item.name
'''


def test_status_draws_every_verdict_again(told):
    result, report = status(told[0])
    refused(result, 5, "FALSIFY-SMALL-V1-002", "RED")
    drawn = {f["falsifier"]: f["verdict"] for c in report["contracts"] for f in c["falsifiers"]}
    assert drawn == {id: row["verdict"] for id, row in verdicts(json.loads(told[1].stdout)).items()}
    assert report["evidence"][0]["problems"] == []
    one = falsifier_of(report, "FALSIFY-GOOD-V1-002")
    assert (one["days"], one["commit"], one["value"]) == (0, small.COMMIT, 0.5)
    states = {c["name"]: (c["status"], c["proven"]) for c in report["contracts"]}
    assert states["good-v1"] == ("ACTIVE_ALGORITHM_LEVEL", {"cpu": {"discharged": 2, "bound": 2}})
    assert states["small-v1"][0] == "DRAFT_RED"


def test_the_table_says_where_and_how_old(house):
    record = json.loads((house[1] / "record.json").read_text())
    rewrite(house[1], record | {"date_utc": "2026-01-02T03:04:05+00:00"})
    result = small.contracts(house[0], "status", "contracts/far-v1.yaml", "contracts/good-v1.yaml")
    assert result.returncode == 0, result.stderr
    assert "far-v1  " in result.stdout and "cpu 1 of 1, gpu " in result.stdout
    line = next(line for line in result.stdout.splitlines() if "FALSIFY-GOOD-V1-001" in line)
    assert line.startswith("  DISCHARGED cpu ") and f" d, {small.COMMIT[:9]}, " in line
    assert int(line.split(" d,")[0].split()[-1]) >= 323  # days from then to the day of this test


def test_without_evidence_all_is_draft(house):
    shutil.rmtree(house[0] / "evidence")
    result, report = status(house[0])
    assert result.returncode == 0 and {c["status"] for c in report["contracts"]} == {"DRAFT"}
    assert report["counts"] == {"NOT-RUN": 18}


def rewrite(folder, record):
    """Seal a forged record again, as a forger would."""
    from aprnb.proof.evidence.folder import _digest
    from aprnb.proof.evidence.origin import sha256
    record["files"] = {name: sha256(folder / name) for name in record["files"]}
    (folder / "record.json").write_text(json.dumps(record | {"seal": _digest(record)}))


@pytest.mark.parametrize("name, old, new", [
    ("verdicts.json", '"verdict": "RED"', '"verdict": "DISCHARGED"'),
    ("verdicts.json", '"lower": 0.05', '"lower": 0.04'),
    ("summary.json", '"final_val_loss"', '"final_val_lost"'),
    ("dispatch.txt", "failed", "passed"),
    ("README.md", "RED", "DISCHARGED"),
    ("record.json", '"exit_code": 5', '"exit_code": 0'),
])
def test_a_changed_file_makes_every_verdict_of_it_tampered(house, name, old, new):
    file = house[1] / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    result, report = status(house[0], "contracts/good-v1.yaml")
    refused(result, 5, f"{name}: changed")
    assert {f["verdict"] for f in report["contracts"][0]["falsifiers"]} == {"TAMPERED"}
    assert report["contracts"][0]["status"] == "DRAFT_RED"


def test_a_file_that_is_gone_or_was_added_is_named(house):
    (house[1] / "summary.json").unlink()
    (house[1] / "more.txt").write_text("")
    result = small.contracts(house[0], "status", "contracts/good-v1.yaml")
    assert result.returncode == 5
    for line in ("summary.json: missing", "more.txt: extra"):
        assert f"TAMPERED {house[1].name}: {line}" in result.stdout
    (house[1] / "record.json").unlink()
    refused(small.contracts(house[0], "status", "contracts/good-v1.yaml"), 5,
            "record.json: missing")


def test_a_forged_verdict_is_found_even_with_the_right_digests(house):
    text = (house[1] / "verdicts.json").read_text()
    (house[1] / "verdicts.json").write_text(text.replace('"RED"', '"DISCHARGED"'))
    rewrite(house[1], json.loads((house[1] / "record.json").read_text()))
    result, report = status(house[0], "contracts/small-v1.yaml")
    refused(result, 5, "FALSIFY-SMALL-V1-002 is called DISCHARGED, its own data say RED")
    assert falsifier_of(report, "FALSIFY-SMALL-V1-002")["verdict"] == "TAMPERED"


def test_a_number_of_a_run_is_read_again_from_the_copy(house):
    summary = json.loads((house[1] / "summary.json").read_text())
    (house[1] / "summary.json").write_text(json.dumps(summary | {"final_val_loss": 19.8}))
    rewrite(house[1], json.loads((house[1] / "record.json").read_text()))
    refused(status(house[0])[0], 5, "FALSIFY-SMALL-V1-012 is called DISCHARGED", "19.8 nats")


@pytest.mark.parametrize("key, value", [("date_utc", "yesterday"), ("date_utc", None),
                                        ("tree_clean", ...), ("commit", ...)])
def test_a_record_that_does_not_say_when_and_of_what_is_named(house, key, value):
    record = json.loads((house[1] / "record.json").read_text())
    record |= {key: value} if value is not ... else {}
    if value is ...:
        del record[key]
    rewrite(house[1], record)
    result, report = status(house[0], "contracts/good-v1.yaml")
    refused(result, 5, "record.json: ")
    assert {f["verdict"] for f in report["contracts"][0]["falsifiers"]} == {"TAMPERED"}


@pytest.mark.parametrize("key, value", [
    ("files", {"\ud800": ""}), ("files", {"a" * 300: ""}), ("commit", "\ud800")])
def test_a_hostile_record_is_a_finding_of_its_folder_alone(house, key, value):
    """The report goes on: what other folders say is told, on a terminal too."""
    small.contracts(house[0], "run", "contracts/good-v1.yaml", "--output", "evidence/second",
                    "--commit", small.COMMIT)
    record = json.loads((house[1] / "record.json").read_text())
    (house[1] / "record.json").write_text(json.dumps(record | {key: value}))
    result = small.contracts(house[0], "status")
    refused(result, 5, f"{house[1].name}: record.json: changed")
    assert f"TAMPERED {house[1].name}: record.json: changed" in result.stdout
    assert result.stdout.count("2 folders of evidence") == 1
    assert "TAMPERED second" not in result.stdout


@pytest.mark.parametrize("key", ["reason", "inputs"])
def test_a_row_without_what_is_told_of_it_is_named(house, key):
    document = json.loads((house[1] / "verdicts.json").read_text())
    del document["verdicts"][0][key]
    (house[1] / "verdicts.json").write_text(json.dumps(document))
    rewrite(house[1], json.loads((house[1] / "record.json").read_text()))
    refused(small.contracts(house[0], "status"), 5,
            f"verdicts.json: cannot be judged: KeyError '{key}'")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema": "x"}', '{"schema": "aprnb-verdicts-v1"}',
                                  '{"schema": "aprnb-verdicts-v1", "run": null, "verdicts": [1]}'])
def test_verdicts_that_cannot_be_judged_are_named(house, text):
    (house[1] / "verdicts.json").write_text(text)
    rewrite(house[1], json.loads((house[1] / "record.json").read_text()))
    (found,) = read_evidence(house[0] / "evidence")
    assert len(found.problems) == 1 and "verdicts.json: cannot be judged" in found.problems[0]


@pytest.mark.parametrize("changes, word", [
    ({"value": small.VALUE | {"upper": 2.0}}, "bounds"), ({"hardware": "simulator"}, "hardware"),
    ({"tests": ["tests/test_small.py::test_passes"]}, "tests"),
    ({"run": "summary.json:final_val_loss"}, "run")])
def test_evidence_of_another_binding_does_not_count(house, changes, word):
    path = house[0] / "contracts/good-v1.yaml"
    document = json.loads(path.read_text())
    document["falsification_tests"][1]["aprnb"] |= changes
    path.write_text(json.dumps(document))
    result, report = status(house[0], path)
    one = falsifier_of(report, "FALSIFY-GOOD-V1-002")
    assert result.returncode == 0 and one["verdict"] == "NOT-RUN"
    assert f"its {word} changed since {house[1].name}" in one["reason"]


def test_a_test_that_was_gutted_since_counts_no_more(house):
    """Nor does the verdict of the other test of its file; without a change all stand."""
    tests = house[0] / "tests/test_small.py"
    assert good(house[0]) == {("DISCHARGED", "")}
    tests.write_text(small.TESTS.replace("assert True", "return"))
    assert good(house[0]) == {("NOT-RUN", f"tests/test_small.py changed since {house[1].name}")}
    assert good(house[0], cwd=house[0] / "contracts") == good(house[0])
    tests.write_text(small.TESTS)
    assert good(house[0], cwd=house[0] / "contracts") == {("DISCHARGED", "")}


def test_a_contract_that_changed_since_asks_for_its_falsifiers_again(house):
    path = house[0] / "contracts/good-v1.yaml"
    path.write_text(path.read_text().replace("a prediction", "another"))
    assert good(house[0]) == {("NOT-RUN", f"contracts/good-v1.yaml changed since {house[1].name}")}


def test_what_is_recorded_from_another_folder_is_of_the_same_files(house):
    shutil.rmtree(house[1])
    result = small.contracts(house[0], "run", "good-v1.yaml", "--output", house[1], "--commit",
                             small.COMMIT, cwd=house[0] / "contracts")
    assert result.returncode == 0 and good(house[0]) == {("DISCHARGED", "")}
    assert "contracts/good-v1.yaml" in json.loads((house[1] / "record.json").read_text())["inputs"]


def test_a_hardware_that_was_not_asked_for_is_told_by_the_folder(house):
    """Where an older folder says more, that is told."""
    root, older = house
    record = json.loads((older / "record.json").read_text())
    rewrite(older, record | {"date_utc": "2026-01-02T03:04:05+00:00"})
    small.contracts(root, "run", "--hardware", "simulator", "--output", "evidence/second",
                    "--commit", "f" * 40)
    assert good(root) == {("DISCHARGED", "")}
    (root / "tests/test_small.py").write_text(small.TESTS.replace("assert True", "return"))
    assert good(root) == {("NOT-RUN", f"tests/test_small.py changed since {older.name}")}
    shutil.rmtree(older)
    assert good(root) == {("NOT-RUN", "not run in second")}


def good(root, cwd=None):
    """(verdict, reason) of the falsifiers of good-v1, as status tells them."""
    result = small.contracts(root, "status", root / "contracts/good-v1.yaml", "--json", cwd=cwd)
    (contract,) = json.loads(result.stdout)["contracts"]
    return {(f["verdict"], f["reason"]) for f in contract["falsifiers"]}


def test_the_newest_evidence_counts_and_one_that_was_not_run_does_not(house):
    root = house[0]
    record = json.loads((house[1] / "record.json").read_text())
    rewrite(house[1], record | {"date_utc": "2026-01-02T03:04:05+00:00"})
    (root / "tests/conftest.py").write_text(REPORTS_BREAK)
    small.contracts(root, "run", "contracts", "--output", "evidence/second", "--commit", "f" * 40)
    report = status(root)[1]
    one = falsifier_of(report, "FALSIFY-GOOD-V1-002")
    assert (one["verdict"], one["evidence"], one["commit"]) == ("RED", "second", "f" * 40)
    assert falsifier_of(report, "FALSIFY-SMALL-V1-012")["evidence"] == house[1].name
    assert [e["name"] for e in report["evidence"]] == ["second", house[1].name]
    second = json.loads((root / "evidence/second/verdicts.json").read_text())
    assert verdicts(second)["FALSIFY-GOOD-V1-002"]["before"] == {"verdict": "DISCHARGED",
                                                                 "evidence": house[1].name}
    (root / "evidence/second/record.json").unlink()  # then nobody knows how new it is
    assert falsifier_of(status(root)[1], "FALSIFY-GOOD-V1-002")["verdict"] == "TAMPERED"


@pytest.mark.parametrize("known, want", [
    ("", "DRAFT"), ("c-", "DRAFT"), ("c+ c-", "DRAFT_PARTIAL_DISCHARGE"),
    ("c+ c?", "DRAFT_PARTIAL_DISCHARGE"), ("c+ cR", "DRAFT_RED"), ("c+ gT", "DRAFT_RED"),
    ("c+ s+", "ACTIVE_ALGORITHM_LEVEL"), ("c+ s-", "DRAFT_PARTIAL_DISCHARGE"),
    ("c+ g-", "ACTIVE_ALGORITHM_LEVEL"), ("c+ g+ g-", "ACTIVE_ALGORITHM_LEVEL"),
    ("c+ s+ g+", "ACTIVE_RUNTIME"), ("c- g+", "DRAFT_PARTIAL_DISCHARGE"), ("g-", "DRAFT"),
    ("g+", "ACTIVE_RUNTIME"), ("g?", "DRAFT")])
def test_a_status_follows_from_the_verdicts(known, want):
    sides = {"c": "cpu", "s": "simulator", "g": "gpu"}
    words = {"+": "DISCHARGED", "-": "NOT-RUN", "?": "SUSPECT", "R": "RED", "T": "TAMPERED"}
    all_ = [Proven(Falsifier(f"F-{i}", "", Binding((), (), sides[side], None, None)),
                   words[word], "") for i, (side, word) in enumerate(known.split())]
    contract = Contract("x", Path("x.yaml"), tuple(p.falsifier for p in all_))
    assert supported_status(contract, {p.falsifier.id: p for p in all_}) == want


# ---------------------------------------------------------------- verdicts of a number

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


def test_tests_that_take_too_long_are_red_and_what_they_printed_is_kept(house):
    (house[0] / "tests/test_small.py").write_text(
        "import time\n\ndef test_passes():\n    pass\n\ndef test_hangs():\n    time.sleep(60)\n")
    nodes = [f"tests/test_small.py::test_{name}" for name in ("passes", "hangs")]
    seen = run_tests(house[0], nodes, "cpu", 6, log := io.StringIO())
    binding = replace(BINDING, value=None, tests=tuple(nodes))
    assert judge(binding, seen).word == "RED"
    assert "not done after 6 s" in judge(binding, seen).reason
    assert judge(replace(binding, tests=(nodes[0],)), seen).word == "DISCHARGED"
    assert log.getvalue().startswith(".")
