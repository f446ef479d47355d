"""contracts/README.md tells how to add an op with its contract and faults: exactly that works."""
import json
import re
import subprocess
import sys
from os import environ

import pytest

from aprnb.proof.checkout import checkout
from aprnb.proof.faults.planting import Workshop

FENCE = re.compile(r"^```(\w+) (\S+)(?: (\w+))?\n(.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def followed():
    """A copy of the checkout in which every block of the page stands where the page says."""
    page = (checkout() / "contracts/README.md").read_text()
    with Workshop(checkout()) as shop:
        contracts = shop.root / "contracts"
        sources = sorted(contracts.glob("*"))
        contracts.unlink()
        contracts.mkdir()
        for source in sources:
            (contracts / source.name).write_bytes((checkout() / "contracts" / source.name)
                                                  .read_bytes())
        for _, name, table, text in FENCE.findall(page):
            path = shop.root / name
            if table:
                head = re.search(rf"^{table} = [{{\[].*\n", path.read_text(), re.M)
                text = path.read_text().replace(head[0], head[0] + text)
            path.write_text(text)
        yield shop.root


def aprnb(root, *words):
    done = subprocess.run([sys.executable, "-m", "aprnb", *words], cwd=root, text=True,
                          env=environ | {"PYTHONPATH": str(root)}, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_contract_is_valid(followed):
    assert "0 error(s), 0 warning(s)" in aprnb(followed, "contracts", "validate",
                                               "contracts/softcap-v1.yaml")


def test_the_faults_are_seen_red_and_recorded(followed):
    command = re.search(r"^aprnb (faults run --record .*)$",
                        (followed / "contracts/README.md").read_text(), re.M)[1]
    rows = json.loads(aprnb(followed, *command.split(), "--json"))["faults"]
    assert len(rows) == 2 and all(row["red_with"] and row["green_without"] for row in rows)
    recorded = json.loads((followed / "contracts/seen-red.json").read_text())["falsifiers"]
    assert {"FALSIFY-SOFTCAP-001", "FALSIFY-SOFTCAP-002"} <= set(recorded)
    aprnb(followed, *command.replace("--record ", "").split())


def test_the_verdicts_are_discharged(followed):
    report = json.loads(aprnb(followed, "contracts", "run", "contracts/softcap-v1.yaml", "--json"))
    assert {row["verdict"] for row in report["verdicts"]} == {"DISCHARGED"}


def test_the_house_stands_and_the_op_has_its_twin(followed):
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
           "tests/test_twins.py", "tests/test_softcap.py"]
    for command in ([sys.executable, "tools/check_house.py"], run):
        done = subprocess.run(command, cwd=followed, text=True, capture_output=True,
                              env=environ | {"PYTHONPATH": str(followed)})
        assert done.returncode == 0, done.stdout + done.stderr
