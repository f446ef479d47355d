"""tools/test: every lane runs, one that fails or hangs is named, and nothing is left running.

In a folder of its own, where a shell script takes the place of Python: it does what the test says.
"""
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import processes
import pytest
from test_processes import alive

ROOT = Path(__file__).parents[1]
LANES = {"check_house": "house", "not sim and not ptx": "main",
         "test_other_cpu.py": "other-cpu", "-m sim": "sim", "-m ptx": "ptx",
         "faults run --all": "faults", "mutate.py": "mutants"}
HANGS = "sleep 600 & echo $! > pid.new; mv pid.new pid; wait"


@pytest.fixture
def lanes(tmp_path):
    """A function that makes the folder: what a lane does instead, in shell -> the command."""
    def make(**instead):
        for folder in ("tools", ".venv/bin"):
            (tmp_path / folder).mkdir(parents=True)
        shutil.copy(ROOT / "tools/test", tmp_path / "tools/test")
        cases = "".join(f'*"{words}"*) {instead.get(name, "true")} ;;\n'
                        for words, name in LANES.items())
        for name, text in (("tools/setup", instead.get("setup", "true")),
                           (".venv/bin/python", f'echo "$*" >> ran\ncase "$*" in\n{cases}esac')):
            (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
            (tmp_path / name).chmod(0o755)
        return tmp_path / "tools/test"
    return make


def ran(command):
    """The lanes that ran, by their arguments."""
    lines = (command.parents[1] / "ran").read_text().splitlines()
    return [next(name for words, name in LANES.items() if words in line) for line in lines]


def last_line(done):
    return done.stdout.splitlines()[-1]


def test_all_lanes_run_and_the_last_line_is_the_verdict(lanes):
    command = lanes()
    done = processes.run([command, "-x"])
    assert (done.returncode, last_line(done)) == (0, "tests: all lanes passed")
    assert ran(command) == ["house", "main", "other-cpu", "sim", "ptx", "faults"]
    assert (command.parents[1] / "ran").read_text().count(" -x\n") == 3, "arguments of pytest"


@pytest.mark.parametrize("instead, more, known", [({}, [], 1), ({"sim": "exit 3"}, [], 0),
                                                  ({}, ["-x"], 0)])
def test_faults_trust_the_lanes_before_only_where_all_of_them_passed(lanes, instead, more, known):
    command = lanes(**instead)
    processes.run([command, *more])
    assert (command.parents[1] / "ran").read_text().count("run --all --known-green") == known


def test_a_lane_that_fails_is_named_and_stops_no_other(lanes):
    command = lanes(main="exit 3", ptx="exit 2")
    done = processes.run([command])
    assert (done.returncode, last_line(done)) == (1, "tests: FAILED lanes: main ptx")
    assert "=== main: failed with 3" in done.stdout and "=== sim: passed" in done.stdout
    assert ran(command)[-1] == "faults"


def test_a_lane_that_hangs_is_ended_and_named(lanes, tmp_path):
    done = processes.run([lanes(sim=HANGS)], env=os.environ | {"LANE_SECONDS": "2"})
    assert "lane sim: not done after 2 s, ended" in done.stdout
    assert done.returncode == 1 and "sim" in last_line(done).split()  # whoever else was too slow
    pid = tmp_path / "pid"
    assert not pid.exists() or not alive(pid.read_text().strip())


def test_a_lane_that_is_killed_by_another_was_not_too_slow(lanes):
    """As where the machine has no memory left."""
    done = processes.run([lanes(sim="kill -KILL $$")])
    assert (done.returncode, last_line(done)) == (1, "tests: FAILED lanes: sim")
    assert "=== sim: failed with 137" in done.stdout and "not done after" not in done.stdout


def test_a_setup_that_fails_has_a_verdict_too(lanes):
    done = processes.run([lanes(setup="exit 9")])
    assert (done.returncode, last_line(done)) == (9, "tests: FAILED: no environment (tools/setup)")


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130),
                                          (signal.SIGHUP, 129)])
@pytest.mark.parametrize("lane", ["setup", "main"])
def test_a_signal_ends_the_lane_too(lanes, tmp_path, number, code, lane):
    with processes.started([lanes(**{lane: HANGS})], stdout=subprocess.PIPE, text=True) as run:
        while not (tmp_path / "pid").exists():
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(number)
        said, _ = run.communicate()
    assert run.returncode == code and said.endswith(f"tests: ended by a signal in {lane}\n")
    assert not alive((tmp_path / "pid").read_text().strip())


@pytest.mark.parametrize("start", ['exec "$0" <&-', 'trap "" HUP INT TERM; exec "$0"',
                                   'nohup "$0"'])
def test_no_terminal_is_needed(lanes, start):
    done = processes.run(["sh", "-c", start, lanes(main="read line; [ $? = 1 ]")])
    assert (done.returncode, last_line(done)) == (0, "tests: all lanes passed")


def test_quick_runs_files_that_are_there_and_long_runs_everything(lanes):
    command = lanes()
    assert processes.run([command, "quick"]).returncode == 0
    assert ran(command) == ["house", "main", "sim"]
    words = (command.parents[1] / "ran").read_text().split()
    files = [ROOT / word for word in words if word.startswith("tests/")]
    assert len(files) > 30 and all(file.is_file() for file in files)
    (command.parents[1] / "ran").unlink()
    assert processes.run([command, "long"]).returncode == 0
    assert ran(command) == ["house", "main", "other-cpu", "sim", "ptx", "faults", "mutants"]
