"""A small checkout whose contracts were run and recorded once, for tests of what follows."""
import json
import shutil
from pathlib import Path

import pytest
import runs
import small_checkout as small

from aprnb.proof.faults.ledger import digest_of_tests
from aprnb.proof.faults.reach import Reach

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
    ("test_passes", "cpu", LOSS | {"run": "summary.json:worst"}, "RED",
     "says no summary.json:worst"),
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
    digest = digest_of_tests(Reach(root), ["tests/test_small.py::test_passes"])
    (root / "contracts/seen-red.json").write_text(json.dumps({"falsifiers": {
        "FALSIFY-GOOD-V1-001": {
            "digest": digest, "hardware": "cpu", "red": {"wrong-code": "tests/x.py:1"}}}}))
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
