"""Runs tests against mutants, in a copy of the checkout and in forked processes.

A first run without any mutant shows which tests pass, how long each takes and which lines it runs,
those of its shared fixtures and of its child processes included. A mutant is then judged by the
tests that run its statement, by all if that runs on import. The copy stands without ../shared, so
that the numbers are those of any machine.
"""
import contextlib
import importlib.util
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path

import line_trace
import pytest

from aprnb.errors import CheckError
from aprnb.proof.faults.planting import Workshop

PRELOADED = ("numpy", "ml_dtypes", "tokenizers", "safetensors.numpy", "click", "yaml")
NOT_HERE = {"gpu", "sim", "ptx"}  # lanes of conftest.py that are not run
LIMITS = {resource.RLIMIT_FSIZE: 1 << 30, resource.RLIMIT_AS: 16 << 30}  # bytes of one process
PATIENCE, LEAST_SECONDS = 3, 10  # of the processor: so many times what the tests took, and more
WALL = 10  # times as long by the clock, which says little on a busy machine
BROKEN = 70  # exit code of a child that failed before pytest ran


class Bench:
    """Context manager of a copy of the checkout in which one file at a time is mutated."""

    def __init__(self, checkout):
        self._shop = Workshop(checkout)

    def __enter__(self):
        self.root = self._shop.__enter__().root
        (self.root.parent / "shared").unlink(missing_ok=True)
        for name in PRELOADED:  # once, so that children need not
            importlib.import_module(name)
        return self

    def __exit__(self, *exception):
        self._shop.__exit__(*exception)

    def survey(self, files, tests):
        """A Survey of the test files, by one run without a mutant. Errors: CheckError if one fails.

        files: sources, relative to the checkout, whose lines are of interest.
        """
        lines, report = self.root.parent / "lines", self.root.parent / "survey.json"
        lines.mkdir(exist_ok=True)
        (self.root / "sitecustomize.py").write_text(
            f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport line_trace\n"
            "sys.path.pop(0)\n")
        os.environ[line_trace.FILES] = ":".join(str(self.root / f) for f in files)
        try:
            code = self._in_child(3600, tests, Surveyor(lines, report))
        finally:
            del os.environ[line_trace.FILES]
            (self.root / "sitecustomize.py").unlink()
        if code != 0:
            raise CheckError(f"the tests do not pass without a mutant:\n{self._last_output()}")
        return Survey({str(self.root / f): f for f in files}, json.loads(report.read_text()))

    def judge(self, file, mutant, survey, tests):
        """"killed", "timeout" or "survived": of a mutant of a file, by the test files in turn."""
        path = self.root / file
        healthy = path.read_text()
        # compiled, a mutant of the same length and second would pass for the one before
        Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
        path.write_text(mutant.source)
        try:
            for name in tests:
                chosen = survey.tests_of(file, mutant.lines, name)
                if chosen:
                    took = sum(survey.seconds[test] for test in chosen)
                    code = self._in_child(LEAST_SECONDS + round(PATIENCE * took), [name],
                                          Chosen(chosen))
                    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
                        return "timeout" if code in (None, -signal.SIGXCPU) else "killed"
        finally:
            path.write_text(healthy)
        return "survived"

    def _in_child(self, limit, tests, plugin):
        """Exit code of pytest in a fork of this process, of which each may take `limit` seconds
        of the processor; None if it was not done in WALL times as long by the clock."""
        child = os.fork()
        if child == 0:
            code = BROKEN
            try:
                code = self._run_tests(limit, tests, plugin)
            finally:
                os._exit(code)
        end, status = time.monotonic() + WALL * limit, None
        try:
            while status is None and time.monotonic() < end:
                status = _status(child)
        finally:
            try:
                os.killpg(child, signal.SIGKILL)  # what it left running too
            except ProcessLookupError:
                pass
            if status is None:
                os.waitpid(child, 0)
        if status == BROKEN:
            raise CheckError(f"tests could not be run:\n{self._last_output()}")
        return status

    def _run_tests(self, limit, tests, plugin):
        os.setsid()
        output = os.open(self.root.parent / "output", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for what, most in (LIMITS | {resource.RLIMIT_CPU: limit}).items():
            resource.setrlimit(what, (most, resource.getrlimit(what)[1]))
        surveying = isinstance(plugin, Surveyor)
        sys.dont_write_bytecode = not surveying
        os.environ |= {"PYTHONPATH": str(self.root)} | (
            {} if surveying else {"PYTHONDONTWRITEBYTECODE": "1"})
        for name in [n for n in sys.modules if n.partition(".")[0] in ("aprnb", "line_trace")]:
            del sys.modules[name]
        os.chdir(self.root)
        sys.path.insert(0, str(self.root))
        if surveying:
            importlib.import_module("line_trace")
        return pytest.main(["-q", "-x", "-p", "no:cacheprovider", "--no-header", "--tb=short",
                            f"--basetemp={self.root.parent / 'tmp'}", *tests], plugins=[plugin])

    def _last_output(self):
        text = (self.root.parent / "output").read_text(errors="replace")
        return "\n".join(text.splitlines()[-30:])


def _status(child):
    """Exit code of a child if it is done, after a moment's wait; else None."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid == 0:
        time.sleep(0.005)
        return None
    return os.waitstatus_to_exitcode(status)


class Survey:
    """What each test runs."""

    def __init__(self, files, rows):
        """files: path in the copy -> name;  rows: what Surveyor wrote."""
        self.seconds = {row["test"]: row["seconds"] for row in rows}
        self._lines = {}
        for row in rows:
            for line in row["lines"]:
                path, _, number = line.rpartition(":")
                if path in files:  # a test of a full disk may cut a line
                    self._lines.setdefault((files[path], int(number)), set()).add(row["test"])

    def tests_of(self, file, lines, test_file):
        """Tests of a test file that run one of these lines of a file; all for None."""
        found = self.seconds if lines is None else {
            test for number in lines for test in self._lines.get((file, number), ())}
        return {test for test in found if test.partition("::")[0] == test_file}


# ---------------------------------------------------------------- pytest plugins

class Chosen:
    """Runs these tests and no others."""

    def __init__(self, tests):
        self._tests = tests

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if item.nodeid in self._tests]


class Surveyor:
    """Notes seconds and lines of each test that passes.

    The lines of a fixture are all its users', those of an import of a test file all its tests'.
    """

    def __init__(self, folder, report):
        self._folder, self._report = folder, report
        self._rows, self._users, self._places = {}, {}, {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items
                    if not NOT_HERE & {mark.name for mark in item.iter_markers()}]

    @pytest.hookimpl(wrapper=True)
    def pytest_make_collect_report(self, collector):
        with self._lines_go_to(collector.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        definitions = item._fixtureinfo.name2fixturedefs.values()
        self._users[item.nodeid] = [d for several in definitions for d in several]
        with self._lines_go_to(item.nodeid):
            return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        with self._lines_go_to(fixturedef):
            return (yield)

    @contextlib.contextmanager
    def _lines_go_to(self, owner):
        place = self._places.setdefault(owner, str(self._folder / str(len(self._places))))
        before = os.environ.get(line_trace.WHERE, "")
        os.environ[line_trace.WHERE] = place
        try:
            yield
        finally:
            os.environ[line_trace.WHERE] = before

    def pytest_runtest_logreport(self, report):
        row = self._rows.setdefault(report.nodeid, {"test": report.nodeid, "seconds": 0.0,
                                                    "passed": False})
        row["seconds"] += report.duration
        row["passed"] |= report.when == "call" and report.passed

    def pytest_sessionfinish(self):
        rows = [row | {"lines": self._lines_of(row["test"])}
                for row in self._rows.values() if row["passed"]]
        self._report.write_text(json.dumps(rows))

    def _lines_of(self, test):
        owners = (test, test.partition("::")[0], *self._users[test])
        places = [self._places[owner] for owner in owners
                  if owner in self._places]
        return sorted({line for place in places if os.path.exists(place)
                       for line in Path(place).read_text().splitlines()})
