"""contracts status: every verdict is drawn again from the evidence; nothing else is believed."""
import json
import shutil
from pathlib import Path

import pytest
import small_checkout as small
from judged_checkout import falsifier_of, house, status, told, verdicts
from runs import refused

from aprnb.proof.contracts.contract import Binding, Contract, Falsifier
from aprnb.proof.verdicts.status import Proven, read_evidence, supported_status

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
    assert "pending" not in line, "the ledger has its fault"
    other = next(line for line in result.stdout.splitlines() if "FALSIFY-GOOD-V1-002" in line)
    assert other.endswith("; pending on cpu: wrong-code never seen red")


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
