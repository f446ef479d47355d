"""The pytest plugin behind observe.py: one JSON line for every test that ended, as it ended."""
import json
import os
from pathlib import Path

import pytest

import aprnb
from aprnb.errors import AprnbError
from aprnb.proof.observe import WHERE

JUDGEMENTS = AssertionError, pytest.fail.Exception, AprnbError

_seen = {}  # node -> what its phases have said so far


def pytest_configure(config):
    judged = Path(aprnb.__file__).resolve()
    if not judged.is_relative_to(Path(config.rootpath).resolve()):
        raise pytest.UsageError(f"the tests of {config.rootpath} would judge {judged}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.excinfo is not None:
        report.judged = call.excinfo.errisinstance(JUDGEMENTS)
        report.says = _first_line(call.excinfo)
        report.where = _place(call.excinfo, Path(item.config.rootpath))
    return report


def pytest_runtest_logreport(report):
    seen = _seen.setdefault(report.nodeid, {"node": report.nodeid, "outcome": "passed",
                                            "seconds": 0.0})
    seen["seconds"] += report.duration
    seen["properties"] = dict(report.user_properties)
    if report.skipped:
        seen |= {"outcome": "skipped", "reason": _skip_reason(report)}
    elif report.failed and seen["outcome"] in ("passed", "skipped"):
        seen |= {"outcome": "failed" if report.when == "call" else "error", "judged": report.judged,
                 "reason": report.says, "where": report.where}
    if report.when == "teardown":
        _write(_seen.pop(report.nodeid))


def pytest_collectreport(report):
    if report.failed:
        _write({"node": report.nodeid, "outcome": "error",
                "reason": str(report.longrepr).strip().splitlines()[-1]})


def _write(seen):
    with open(os.environ[WHERE], "a", encoding="utf-8") as out:
        out.write(json.dumps(seen, default=float) + "\n")


def _first_line(error):
    lines = str(error.value).strip().splitlines()
    return f"{error.type.__name__}: {lines[0] if lines else ''}".rstrip(": ")


def _place(error, root):
    """The last line of ours that was on the way: of the tests, else of anything."""
    entries = [(Path(entry.path), entry.lineno + 1) for entry in error.traceback]
    tests = [(path, line) for path, line in entries if path.is_relative_to(root / "tests")]
    path, line = (tests or entries)[-1]
    return f"{path.relative_to(root) if path.is_relative_to(root) else path.name}:{line}"


def _skip_reason(report):
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
