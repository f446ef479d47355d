"""contracts run: verdicts are drawn by tests that really run, and recorded."""
import hashlib
import io
import json
from dataclasses import replace

import pytest
import small_checkout as small
from judged_checkout import OF_A_RUN, PLAUSIBLE, SMALL, house, status, told, verdicts
from runs import refused

from aprnb.proof.contracts.contract import Binding
from aprnb.proof.observe import run_tests
from aprnb.proof.verdicts.status import read_evidence
from aprnb.proof.verdicts.verdict import judge


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


def test_tests_that_take_too_long_are_red_and_what_they_printed_is_kept(house, monkeypatch):
    here = house[0] / "here"
    small.out_of_time(monkeypatch, here)
    (house[0] / "tests/test_small.py").write_text(
        "import time\n\ndef test_passes():\n    pass\n\n"
        f"def test_hangs():\n    open({str(here)!r}, 'w').close()\n    time.sleep(600)\n")
    nodes = [f"tests/test_small.py::test_{name}" for name in ("passes", "hangs")]
    seen = run_tests(house[0], nodes, "cpu", 6, log := io.StringIO())
    binding = Binding(tuple(nodes), (), "cpu", None, None)
    assert judge(binding, seen).word == "RED"
    assert "not done after 6 s" in judge(binding, seen).reason
    assert judge(replace(binding, tests=(nodes[0],)), seen).word == "DISCHARGED"
    assert log.getvalue().startswith(".")
