"""The pytest plugin behind observe.py: one JSON line for every test that ended, as it ended."""
import json
import os
from pathlib import Path

import pytest

import aprnb
from aprnb.errors import (AprnbError, DeviceError, DeviceMemoryError, MissingPackageError,
                          StorageError)
from aprnb.proof.observe import NOW, UNTIL_RED, WANTED, WHERE

JUDGEMENTS = AssertionError, pytest.fail.Exception, AprnbError
OF_THE_MACHINE = DeviceError, DeviceMemoryError, MissingPackageError, StorageError  # no judgements
MOST = 1000  # characters of what a test says

_seen = {}  # node -> what its phases have said so far


def pytest_configure(config):
    judged = Path(aprnb.__file__).resolve()
    if not judged.is_relative_to(Path(config.rootpath).resolve()):
        raise pytest.UsageError(f"the tests of {config.rootpath} would judge {judged}")


def pytest_collection_modifyitems(config, items):
    wanted = os.environ[WANTED].splitlines()
    kept = [item for item in items if any(_is_of(item.nodeid, node) for node in wanted)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _is_of(name, node):
    return name == node or name.startswith((f"{node}[", f"{node}::"))


def pytest_runtest_logstart(nodeid):
    _now(nodeid)


def pytest_runtest_logfinish():
    _now("")


def _now(node):
    Path(os.environ[WHERE] + NOW).write_text(node)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.excinfo is not None:
        report.judged = (call.excinfo.errisinstance(JUDGEMENTS)
                         and not call.excinfo.errisinstance(OF_THE_MACHINE))
        report.says = _first_line(call.excinfo)
        report.where = _place(call.excinfo, Path(item.config.rootpath))
        if report.judged and report.when == "call" and os.environ[UNTIL_RED] == "1":
            item.session.shouldfail = "red"
    return report


def pytest_runtest_logreport(report):
    seen = _seen.setdefault(report.nodeid, {"node": report.nodeid, "outcome": "passed",
                                            "seconds": 0.0})
    seen["seconds"] += report.duration
    seen["properties"] = _properties(report)
    if report.skipped:
        seen |= {"outcome": "skipped", "reason": _skip_reason(report)}
    elif report.failed and seen["outcome"] in ("passed", "skipped"):
        seen |= {"outcome": "failed" if report.when == "call" else "error", **_failure(report)}
    if report.when == "teardown":
        _write(_seen.pop(report.nodeid))


def _properties(report):
    """Name -> what a test reported; if it did so more than once all of it, which is no number."""
    said = {}
    for name, value in report.user_properties:
        said.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else str(values) for name, values in said.items()}


def _failure(report):
    if not hasattr(report, "says"):  # failed without an exception: it was to fail, and passes
        return {"reason": str(report.longrepr)}
    return {"judged": report.judged, "reason": report.says, "where": report.where}


def pytest_collectreport(report):
    if report.failed:
        _write({"node": report.nodeid, "outcome": "error",
                "reason": str(report.longrepr).strip().splitlines()[-1]})


def _write(seen):
    with open(os.environ[WHERE], "a", encoding="utf-8") as out:
        out.write(json.dumps(seen, default=_plain) + "\n")


def _plain(value):
    """JSON of what json does not know, such as a number of NumPy."""
    return float(value) if hasattr(value, "__float__") else repr(value)


def _first_line(error):
    """Type and first line of an exception, of one too that cannot say what it is."""
    lines = error.exconly().partition(": ")[2].strip().splitlines()
    return f"{error.type.__name__}: {lines[0][:MOST] if lines else ''}".rstrip(": ")


def _place(error, root):
    """The last line of ours that was on the way: of the tests, else of anything."""
    entries = [(Path(entry.path), entry.lineno + 1) for entry in error.traceback]
    tests = [(path, line) for path, line in entries if path.is_relative_to(root / "tests")]
    path, line = (tests or entries)[-1]
    return f"{path.relative_to(root) if path.is_relative_to(root) else path.name}:{line}"


def _skip_reason(report):
    if hasattr(report, "wasxfail"):
        return f"it is expected to fail: {report.wasxfail}".rstrip(": ")
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
