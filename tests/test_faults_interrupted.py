"""`faults run` that is ended by a signal leaves no process and no folder behind."""
import os
import signal
import subprocess
import sys
import time

import processes
import pytest
import small_checkout as small
from test_processes import alive

WAITS = """
import os, pathlib, time
from aprnb.errors import NotFoundError

def test_sees():
    assert NotFoundError.exit_code == 3

def test_waits():
    if NotFoundError.exit_code == {code}:
        here = pathlib.Path({here!r})
        here.with_suffix(".new").write_text(f"{{os.getpid()}} {{os.getppid()}}")
        here.with_suffix(".new").rename(here)
        time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("code", [3, 4], ids=["without the fault", "with the fault"])
def test_it_ends_with_130_and_leaves_nothing(tmp_path, number, code):
    root, here, folder = small.make(tmp_path / "house"), tmp_path / "here", tmp_path / "tmp"
    folder.mkdir()
    (root / "tests/test_small.py").write_text(WAITS.format(code=code, here=str(here)))
    small.contract(root, "slow-v1", ("test_sees", "cpu", {}), ("test_waits", "cpu", {}))
    env = os.environ | {"PYTHONPATH": str(root), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "aprnb", "faults", "run", "wrong-code", "--workers", "1"]
    with processes.started(command, cwd=root, env=env, stderr=subprocess.PIPE, text=True) as run:
        while not here.exists():
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        run.send_signal(number)
        _, said = run.communicate()
    assert run.returncode == 130 and "error: interrupted" in said
    assert not any(alive(pid) for pid in here.read_text().split())
    assert os.listdir(folder) == []
