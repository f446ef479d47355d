"""What a test starts ends with it, and begins with signals of its own."""
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest

from aprnb.proof.processes import end_all_sessions

HERE = Path(__file__).parent
ENV = os.environ | {"PYTHONPATH": str(HERE.parent)}
CHILD = ("import os, pathlib, sys, time; new = pathlib.Path(sys.argv[1] + '.new'); "
         "new.write_text(str(os.getpid())); new.rename(sys.argv[1])")
FAMILY = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD + '; time.sleep(600)'!r}, sys.argv[1]]).wait()
"""


def alive(pid):
    """A process that nobody has taken note of yet (a zombie) is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def pid_in(file, process):
    """What a grandchild of ours wrote, once it has."""
    while not file.exists():
        assert process.poll() is None
        time.sleep(0.01)
    return int(file.read_text())


def family(tmp_path, **options):
    """A process that waits for another one, which writes its id to `pid`."""
    return processes.started([sys.executable, "-c", FAMILY, tmp_path / "pid"], **options)


def test_a_failing_assertion_leaves_nothing_running(tmp_path):
    with pytest.raises(AssertionError, match="on purpose"):
        with family(tmp_path) as parent:
            child = pid_in(tmp_path / "pid", parent)
            assert alive(parent.pid) and alive(child)
            raise AssertionError("on purpose")
    assert not alive(parent.pid) and not alive(child)


def test_nor_does_a_limit(tmp_path):
    """Whoever waits for it is told, however long the machine took to get there."""
    with pytest.raises(pytest.fail.Exception, match=r"not done after 0.5 s: .*python"):
        with family(tmp_path, limit=0.5) as parent:
            parent.wait()
    with pytest.raises(subprocess.TimeoutExpired):
        processes.run([sys.executable, "-c", FAMILY, tmp_path / "again"], limit=0.5)
    for file in ("pid", "again"):
        assert not (tmp_path / file).exists() or not alive((tmp_path / file).read_text())


@pytest.mark.parametrize("whom", ["itself", "its group"])
def test_nor_does_the_end_of_who_can_clear_up_nothing(tmp_path, whom):
    """SIGKILL of the process that opened the session."""
    kill = {"itself": os.kill, "its group": os.killpg}[whom]
    text = f"""
import sys
from aprnb.proof.processes import session
with session([sys.executable, "-c", {FAMILY!r}, {str(tmp_path / "pid")!r}]) as parent:
    parent.wait()
"""
    with processes.started([sys.executable, "-c", text], env=ENV) as opener:
        child = pid_in(tmp_path / "pid", opener)
        kill(opener.pid, signal.SIGKILL)
        opener.wait()
        while alive(child):  # its limit is that of this test
            time.sleep(0.01)


def test_all_sessions_are_ended_without_a_wait_for_those_that_ended(tmp_path, monkeypatch):
    """Also where nobody else takes note of their end: until then a process counts as running."""
    monkeypatch.setattr("aprnb.proof.processes.GRACE", processes.LIMIT)
    with family(tmp_path) as parent:
        pid_in(tmp_path / "pid", parent)
        with processes.time_limit(processes.LIMIT / 2, "end_all_sessions"):
            end_all_sessions()
        assert parent.returncode == -signal.SIGTERM


def test_a_child_that_does_not_hear_sigterm_is_ended_too(tmp_path, monkeypatch):
    monkeypatch.setattr("aprnb.proof.processes.GRACE", 0.1)
    deaf = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {CHILD}; time.sleep(600)"
    with processes.started([sys.executable, "-c", deaf, tmp_path / "pid"]) as child:
        pid_in(tmp_path / "pid", child)
    assert child.returncode == -signal.SIGKILL


# ---------------------------------------------------------------- a pytest around it

@pytest.fixture
def inner(tmp_path):
    """The command of a pytest of its own, with this conftest.py, on the tests in the text."""
    def command(text):
        for name in ("campaign.py", "conftest.py", "processes.py"):
            shutil.copy(HERE / name, tmp_path)
        (tmp_path / "test_inner.py").write_text(text)
        return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir",
                tmp_path, tmp_path / "test_inner.py"]
    return command


def test_what_the_parent_ignores_or_blocks_reaches_no_child(inner, tmp_path):
    """As under nohup, as a background job of sh, as in many a CI; and the tests stay as deaf to it
    as they were meant to be."""
    def deaf():
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGQUIT, signal.SIGTERM))
    text = """
import os, signal
import processes
def test_child():
    os.kill(os.getpid(), signal.SIGHUP)
    done = processes.run(["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"])
    assert done.stdout.split()[1::2] == ["0" * 16] * 2, done.stdout
"""
    done = processes.run(inner(text), env=ENV, preexec_fn=deaf)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_tests_that_are_ended_by_a_signal_end_what_they_started(number, inner, tmp_path):
    text = f"""
import sys
import processes
def test_waits():
    with processes.started([sys.executable, "-c", {FAMILY!r}, {str(tmp_path / "pid")!r}]) as parent:
        parent.wait()
"""
    with processes.started(inner(text), env=ENV, stdout=subprocess.PIPE) as tests:
        child = pid_in(tmp_path / "pid", tests)
        tests.send_signal(number)
        tests.communicate()
    assert tests.returncode == 2 and not alive(child)


def test_a_test_that_waits_for_ever_is_named(inner):
    text = """
import threading
import processes
def test_before():
    processes.TEST_LIMIT = 0.5
def test_waits():
    processes.TEST_LIMIT = 600
    threading.Barrier(2).wait()
def test_after():
    pass
"""
    done = processes.run(inner(text), env=ENV)
    assert "not done after 0.5 s: test_inner.py::test_waits" in done.stdout
    assert done.returncode == 1 and "1 failed, 2 passed" in done.stdout


def test_one_that_does_not_hear_that_ends_the_process_and_is_named(inner):
    """As code that was compiled, which comes back to no line of Python."""
    text = """
import signal, time
import processes
def test_before():
    processes.END_LIMIT = 0.5
def test_waits():
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    time.sleep(600)
"""
    done = processes.run(inner(text), env=ENV)
    assert done.returncode == 1 and "test_inner.py\", line 8 in test_waits" in done.stderr
