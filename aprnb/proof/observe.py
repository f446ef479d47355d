"""Runs bound tests in a process of their own and says what each of them did."""
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from ..errors import MissingPackageError
from .paths import shorten
from .processes import session

PLUGIN = "aprnb.proof.observer"
WHERE = "APRNB_OBSERVATIONS"  # environment: the file that the plugin writes
WANTED = "APRNB_WANTED"  # environment: the nodes that it keeps, one a line
UNTIL_RED = "APRNB_UNTIL_RED"  # environment: "1" to end with the first judgement
NOW = ".now"  # behind the name of the file that it writes: one with the test that runs
SELECTION = {"cpu": "not sim and not gpu", "simulator": "sim", "gpu": "gpu"}
SOFTENERS = ("PYTHONOPTIMIZE", "PYTHONWARNINGS")  # no assertions; no warnings that are errors
NO_TESTS = 5  # exit code of pytest


@dataclass(frozen=True)
class Observation:
    """One test, as it ended."""

    node: str
    outcome: str
    """passed, failed, skipped, or error: outside the test's own judgement."""
    reason: str = ""
    """Why it was skipped, or the first line of what it said; its paths are shortened."""
    where: str = ""
    """file:line at which it failed."""
    judged: bool = False
    """Whether it failed by an assertion or a refusal of ours, not by an accident such as NameError.
    """
    seconds: float = 0.0
    properties: dict = field(default_factory=dict)
    """What it reported with record_property."""

    def belongs_to(self, node):
        """Whether it is the test that `node` names, or one parametrisation of it."""
        return self.node == node or self.node.startswith((f"{node}[", f"{node}::"))


def run_tests(root, nodes, hardware, timeout, log=None, server=None, until_red=False):
    """Observations of all tests that `nodes` name and that run on `hardware`.

    root: the checkout;  hardware: cpu, simulator or gpu;  timeout: seconds for all of them;
    log: text file that gets what pytest printed;  server: PytestServer of this checkout and
    hardware that runs them; without one they get an interpreter of their own;
    until_red: what follows the first test that fails by its own judgement is not run.
    Whole files are collected, so that a node which is not there, or a file that cannot be read,
    stops no other. A process that ends in any other way than with a report is one observation, an
    error, of the test that ran. Whatever the tests started has ended too.
    Errors: MissingPackageError without pytest.
    """
    if find_spec("pytest") is None:
        raise MissingPackageError(f"bound tests are run by pytest, which {sys.executable} does not "
                                  "have; in a checkout `tools/setup test` brings it into .venv")
    with tempfile.TemporaryDirectory(prefix="aprnb-observe-") as folder:
        report, printed = Path(folder) / "observations.jsonl", Path(folder) / "printed.txt"
        wanted = {WHERE: str(report), WANTED: "\n".join(nodes), UNTIL_RED: str(int(until_red))}
        # a conftest.py above tests/ could soften them, and no digest knows of it
        arguments = ["-q", "-p", PLUGIN, "-p", "no:cacheprovider",
                     "--continue-on-collection-errors", "--confcutdir=tests",
                     "-m", SELECTION[hardware], *sorted({n.partition("::")[0] for n in nodes})]
        if server is None:
            code = _pytest(root, arguments, environment(root, hardware) | wanted, printed, timeout)
        else:
            code = server.pytest(arguments, wanted, printed, timeout)
        text, seen = printed.read_text(errors="replace"), _read(report, root)
        if log is not None:
            log.write(text)
        if code is None:
            seen.append(_ended(report, nodes, f"not done after {timeout} s"))
        elif _running(report):
            seen.append(_ended(report, nodes, f"the process ended with {code}"))
        elif code not in (0, 1, NO_TESTS):
            last = (text.strip().splitlines() or [""])[-1]
            seen.append(_ended(report, nodes, f"pytest ended with {code}: {shorten(last, root)}"))
        return seen


def _pytest(root, arguments, env, output, timeout):
    """Exit code of one pytest, or None if it was ended after `timeout` seconds."""
    command = [sys.executable, "-m", "pytest", *arguments]
    with open(output, "wb") as out, session(command, cwd=root, env=env, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None


def environment(root, hardware):
    """Variables of tests: the caller's, but for what would soften one: no -k or -x, no plugin, no
    -O decides what is observed."""
    kept = {name: value for name, value in os.environ.items()
            if not name.startswith("PYTEST_") and name not in SOFTENERS}
    # the checkout in front of whatever packages the caller has put on the path
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    return kept | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1",
                   "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
                   "NUMBA_ENABLE_CUDASIM": "1" if hardware == "simulator" else "0"}


def _running(report):
    """The test that has begun and not ended; "" if none has."""
    file = report.with_name(report.name + NOW)
    return file.read_text() if file.exists() else ""


def _ended(report, nodes, how):
    during = _running(report)
    return Observation(during or " ".join(nodes), "error", f"{how} in {during}" if during else how)


def _read(report, root):
    if not report.exists():
        return []
    said = [json.loads(line) for line in report.read_text().splitlines()]
    return [Observation(**one | {"reason": shorten(one.get("reason", ""), root)}) for one in said]
