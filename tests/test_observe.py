"""What bound tests did, as it is seen from outside: one that goes wrong takes no other with it."""
import sys
import time

import pytest
import small_checkout as small
from test_processes import CHILD, alive

from aprnb.errors import MissingPackageError
from aprnb.proof.observe import environment, run_tests
from aprnb.proof.server import PytestServer

FILE = "tests/test_small.py"
MORE = '''
import os

def test_aborts():
    os._exit(9)

def test_leaves_without_a_word():
    os._exit(0)

def test_is_interrupted():
    raise KeyboardInterrupt

class Mute(Exception):
    def __str__(self):
        raise ValueError

def test_cannot_say_what_it_is():
    raise Mute

def test_says_much():
    assert False, "x" * 100_000

@pytest.mark.xfail(strict=True)
def test_was_to_fail():
    pass

@pytest.mark.xfail(reason="some day")
def test_fails_as_expected():
    assert False

def test_reports_twice(record_property):
    record_property("first_loss", 99.0)
    record_property("first_loss", 1.0)

def test_reports_what_is_no_number(record_property):
    record_property("first_loss", {1 + 2j})
'''


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    house = small.make(tmp_path_factory.mktemp("observed") / "house")
    (house / FILE).write_text(small.TESTS + MORE)
    (house / "tests/test_broken.py").write_text("import nonsense\n")
    return house


def observe(root, *names, hardware="cpu", timeout=100):
    """Name of a test, or of what else was said, -> its observation."""
    nodes = [name if "/" in name else f"{FILE}::{name}" for name in names]
    return {o.node.removeprefix(f"{FILE}::"): o for o in run_tests(root, nodes, hardware, timeout)}


def test_what_was_named_is_run_and_nothing_else(root):
    seen = observe(root, "test_passes", "test_reports[2]", "test_is_skipped")
    assert {name: o.outcome for name, o in seen.items()} == {
        "test_passes": "passed", "test_reports[2]": "passed", "test_is_skipped": "skipped"}
    assert set(observe(root, "test_reports")) == {f"test_reports[{n}]" for n in (1, 2, 3)}


def test_what_is_not_there_stops_no_other(root):
    seen = observe(root, "test_passes", "test_reports[7]", "test_is_no_more")
    assert list(seen) == ["test_passes"]
    assert observe(root, "test_in_the_simulator") == {}
    seen = observe(root, "test_passes", "tests/test_broken.py::test_one")
    assert seen["test_passes"].outcome == "passed"
    assert "No module named 'nonsense'" in seen["tests/test_broken.py"].reason


@pytest.mark.parametrize("name, code", [
    ("test_aborts", "9"), ("test_leaves_without_a_word", "0"), ("test_is_interrupted", "2")])
def test_the_test_in_which_the_process_ended_is_named(root, name, code):
    seen = observe(root, "test_passes", name)
    assert seen["test_passes"].outcome == "passed"
    assert seen[name].outcome == "error"
    assert seen[name].reason == f"the process ended with {code} in {FILE}::{name}"


@pytest.mark.parametrize("served", [False, True])
def test_the_test_that_took_too_long_is_named_and_leaves_nothing_running(root, served, tmp_path,
                                                                         monkeypatch):
    here = tmp_path / "here"
    (root / "tests/test_waiting.py").write_text(
        "import subprocess, sys\n\ndef test_waits():\n    subprocess.run([sys.executable, '-c', "
        f"{CHILD + '; time.sleep(600)'!r}, {str(here)!r}])\n")
    nodes = [f"{FILE}::test_passes", "tests/test_waiting.py::test_waits"]
    if served:
        monkeypatch.setattr("aprnb.proof.server.select.select", lambda *_: (wait_for(here), [], []))
        with PytestServer(root, environment(root, "cpu")) as server:
            passed, late = run_tests(root, nodes, "cpu", 7, server=server)
            (root / "tests/test_waiting.py").unlink()
            monkeypatch.undo()
            again, = run_tests(root, nodes[:1], "cpu", 100, server=server)
        assert again.outcome == "passed", "the server goes on"
    else:
        small.out_of_time(monkeypatch, here)
        passed, late = run_tests(root, nodes, "cpu", 7)
    assert (passed.outcome, late.outcome) == ("passed", "error")
    assert late.reason == "not done after 7 s in tests/test_waiting.py::test_waits"
    assert not alive(here.read_text())


def wait_for(file):
    """No stream that is ready, once the file is there."""
    while not file.exists():
        time.sleep(0.01)
    return []


def test_a_served_test_sees_what_stands_there_now(root):
    """The package is imported after the fork, so a fault that was planted meanwhile is seen."""
    errors, file = root / "aprnb/errors.py", root / "tests/test_errors.py"
    file.write_text("from aprnb.errors import NotFoundError\n\n"
                    "def test_code():\n    assert NotFoundError.exit_code == 3\n")
    before, seen = errors.read_text(), []
    with PytestServer(root, environment(root, "cpu")) as server:
        for text in (before, before.replace("exit_code = 3", "exit_code = 4"), before):
            errors.write_text(text)
            [one] = run_tests(root, ["tests/test_errors.py::test_code"], "cpu", 100, server=server)
            seen.append(one.outcome)
    assert seen == ["passed", "failed", "passed"]


def test_whatever_a_test_says_the_next_one_is_heard(root):
    seen = observe(root, "test_cannot_say_what_it_is", "test_says_much", "test_was_to_fail",
                   "test_fails_as_expected", "test_reports_what_is_no_number", "test_reports_twice",
                   "test_reports[1]")
    assert len(seen) == 7 and seen["test_reports[1]"].properties == {"first_loss": 0.5}
    assert seen["test_cannot_say_what_it_is"].reason.startswith("Mute")
    assert len(seen["test_says_much"].reason) < 1100 and seen["test_says_much"].judged
    assert seen["test_was_to_fail"].outcome == "failed"
    assert "strict" in seen["test_was_to_fail"].reason
    assert seen["test_fails_as_expected"].outcome == "skipped"
    assert seen["test_fails_as_expected"].reason == "it is expected to fail: some day"
    assert seen["test_reports_twice"].properties == {"first_loss": "[99.0, 1.0]"}


def test_packages_on_the_callers_path_are_found_behind_the_checkout(root, tmp_path, monkeypatch):
    """Where they are not installed: the path was once replaced, and other versions were seen."""
    for package in ("only_on_the_path", "aprnb"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    (root / "tests/test_path.py").write_text(
        "def test_path():\n    import only_on_the_path\n    import aprnb.errors\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    [seen] = run_tests(root, ["tests/test_path.py::test_path"], "cpu", 100)
    assert seen.outcome == "passed", seen.reason


@pytest.mark.parametrize("name, value", [("PYTHONOPTIMIZE", "1"), ("PYTEST_PLUGINS", "softener"),
                                         ("PYTEST_ADDOPTS", "-k test_passes")])
def test_nothing_around_it_softens_a_test(root, tmp_path, monkeypatch, name, value):
    """An assertion in a helper, as in the judge of the kernels: pytest does not rewrite it."""
    (tmp_path / "softener.py").write_text("def pytest_pyfunc_call(pyfuncitem):\n    return True\n")
    (root / "tests/helper.py").write_text("def judge():\n    assert 1 + 1 == 3\n")
    (root / "tests/test_judged.py").write_text(
        "import helper\n\ndef test_judged():\n    helper.judge()\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv(name, value)
    [seen] = run_tests(root, ["tests/test_judged.py::test_judged"], "cpu", 100)
    assert seen.outcome == "failed" and seen.judged


def test_a_test_of_the_cpu_does_not_wait_for_the_compiler(root):
    """Whether there is a GPU is asked for tests that are left, not for all of the file."""
    (root / "tests/test_both.py").write_text(
        "import sys\nimport pytest\n\n@pytest.mark.gpu\ndef test_gpu():\n    pass\n\n"
        "def test_cpu():\n    assert 'numba' not in sys.modules\n")
    [seen] = run_tests(root, ["tests/test_both.py"], "cpu", 100)
    assert seen.outcome == "passed", seen.reason


def test_without_pytest_nothing_is_called_red(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)
    with pytest.raises(MissingPackageError, match="tools/setup test"):
        observe(root, "test_passes")
