"""A small checkout in a folder of its own: the package, one test file, contracts, one fault."""
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import processes

from aprnb.proof.faults.fault import ROOMS

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TESTS = '''
import pytest

def test_passes():
    assert True

def test_fails():
    assert 1 + 1 == 3

def test_is_skipped():
    pytest.skip("no such thing here")

@pytest.mark.parametrize("n", [1, 2, 3])
def test_reports(n, record_property):
    record_property("first_loss", n / 2)

def test_reports_nan(record_property):
    record_property("first_loss", float("nan"))

@pytest.mark.sim
def test_in_the_simulator():
    from aprnb.kernels.cuda import SIMULATOR
    assert SIMULATOR

@pytest.mark.gpu
def test_on_a_gpu():
    assert True
'''
FAULTS = '''
from ..fault import fault
PLANT = ("aprnb/errors.py", "exit_code = 3", "exit_code = 4")
FAULTS = [fault("wrong-code", "a missing file ends with 4", "ours",
                cpu=[PLANT], simulator=[PLANT], gpu=[PLANT])]
'''
VALUE = {"quantity": "first_loss", "unit": "nats", "lower": 0.05, "upper": 8.35}


def make(root):
    """The checkout at `root`, with no contract and no evidence yet."""
    shutil.copytree(ROOT / "aprnb", root / "aprnb", ignore=shutil.ignore_patterns("__pycache__"))
    for room in ROOMS:
        text = FAULTS if room == "forward" else "FAULTS = []\n"
        (root / f"aprnb/proof/faults/planted/{room}.py").write_text(text)
    (root / "tests").mkdir()
    (root / "tests/test_small.py").write_text(TESTS)
    for name in ("campaign.py", "conftest.py", "processes.py"):
        shutil.copy(ROOT / "tests" / name, root / "tests")
    shutil.copy(ROOT / "setup.cfg", root)
    (root / "contracts").mkdir()
    return root


def out_of_time(monkeypatch, here):
    """From now on the time of observed tests is over as soon as the file `here` is there, however
    long the machine takes to get so far."""
    def wait(process, timeout=None, real=subprocess.Popen.wait):
        if timeout is None:
            return real(process)
        while not here.exists():
            assert process.poll() is None, "ended by itself"
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(process.args, timeout)
    monkeypatch.setattr(subprocess.Popen, "wait", wait)


def contract(root, name, *falsifiers, **metadata):
    """Write contracts/<name>.yaml; a falsifier is (test, hardware, other keys of its binding)."""
    tests = [falsifier(f"FALSIFY-{name.upper()}-{i:03}", test, hardware, **more)
             for i, (test, hardware, more) in enumerate(falsifiers, 1)]
    path = root / f"contracts/{name}.yaml"
    path.write_text(json.dumps({
        "metadata": {"version": "1.0.0", "description": "A small promise", "kind": "pattern",
                     "references": ["ours"], **metadata}, "falsification_tests": tests}, indent=1))
    return path


def falsifier(id, test, hardware, **more):
    return {"id": id, "rule": "a rule", "prediction": "a prediction", "if_fails": "what it means",
            "test": f"pytest tests/test_small.py::{test}",
            "aprnb": {"tests": [f"tests/test_small.py::{test}"], "faults": ["wrong-code"],
                      "hardware": hardware, **more}}


def contracts(root, *arguments, cwd=None):
    """`aprnb contracts ...` of that checkout, in its folder or another."""
    return processes.run([sys.executable, "-m", "aprnb", "contracts", *map(str, arguments)],
                         cwd=cwd or root, env=os.environ | {"PYTHONPATH": str(root)})
