"""contracts/README.md tells how to add an op with its contract and faults: exactly that works."""
import json
import re
import sys
from os import environ, pathsep
from pathlib import Path

import processes
import pytest

from aprnb.proof.checkout import checkout
from aprnb.proof.faults.planting import Workshop

PAGE = (checkout() / "contracts/README.md").read_text()
QUICK = next(block for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S)
             if "check_house" in block).splitlines()
FENCE = re.compile(r"^```(\w+) (\S+)(?: (\w+))?\n(.*?)^```$", re.M | re.S)


@pytest.fixture(scope="module")
def followed():
    """A copy of the checkout in which every block of the page stands where the page says."""
    with Workshop(checkout()) as shop:
        contracts = shop.root / "contracts"
        sources = sorted(contracts.glob("*"))
        contracts.unlink()
        contracts.mkdir()
        for source in sources:
            (contracts / source.name).write_bytes((checkout() / "contracts" / source.name)
                                                  .read_bytes())
        for _, name, table, text in FENCE.findall(PAGE):
            path = shop.root / name
            if table:
                head = re.search(rf"^{table} = [{{\[].*\n", path.read_text(), re.M)
                text = path.read_text().replace(head[0], head[0] + text)
            path.write_text(text)
        yield shop.root


def aprnb(root, *words):
    done = processes.run([sys.executable, "-m", "aprnb", *words], cwd=root,
                         env=environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_contract_is_valid(followed):
    assert "0 error(s), 0 warning(s)" in aprnb(followed, "contracts", "validate",
                                               "contracts/softcap-v1.yaml")


def test_the_faults_are_seen_red_and_recorded(followed):
    command = re.search(r"^aprnb (faults run --record .*)$", PAGE, re.M)[1]
    rows = json.loads(aprnb(followed, *command.split(), "--json"))["faults"]
    assert len(rows) == 2 and all(row["red_with"] and row["green_without"] for row in rows)
    recorded = json.loads((followed / "contracts/seen-red.json").read_text())["falsifiers"]
    assert {"FALSIFY-SOFTCAP-001", "FALSIFY-SOFTCAP-002"} <= set(recorded)
    aprnb(followed, *command.replace("--record ", "").split())


def test_the_verdicts_are_discharged(followed):
    report = json.loads(aprnb(followed, "contracts", "run", "contracts/softcap-v1.yaml", "--json"))
    assert {row["verdict"] for row in report["verdicts"]} == {"DISCHARGED"}


@pytest.mark.parametrize("command", [pytest.param(c, marks=[pytest.mark.ptx] * ("-m ptx" in c))
                                     for c in QUICK])
def test_the_quick_set_passes(followed, command):
    """As it stands there, in a shell with the checkout's own Python in front."""
    path = f"{Path(sys.executable).parent}{pathsep}{environ['PATH']}"
    done = processes.run(["sh", "-c", command], cwd=followed,
                         env=environ | {"PYTHONPATH": str(followed), "PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout or "every arrow points down" in done.stdout


def test_a_line_above_its_columns_is_seen(followed):
    assert "Lines have at most 100 columns" in PAGE
    file = followed / "tests/test_softcap.py"
    good = file.read_text()
    file.write_text(good + "#" * 101 + "\n")
    done = processes.run(QUICK[0].split(), cwd=followed)
    file.write_text(good)
    assert done.returncode == 1 and "101 columns, cap 100" in done.stdout


def test_the_letters_of_a_signature_are_those_of_the_compiler():
    from aprnb.kernels.cuda import TYPES
    told = re.search(r'^`"s1 s1 f"` are.*?dimensions', PAGE, re.M | re.S)[0]
    names = dict(reversed(re.findall(r"`(\w)`\s+(?:the |an )?(\w+)", told)))  # the first counts
    assert names == {"s": "storage"} | {
        letter: "address" if letter == "p" else str(kind).removeprefix("__nv_")
        for letter, kind in TYPES.items()}
