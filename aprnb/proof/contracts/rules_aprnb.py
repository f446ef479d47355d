"""Our own rules: a claim is bound to tests that exist and to faults that they must catch; of the
number that it may report see rules_value.py.

Each function yields (line, rule, message). A value of the wrong type is schema.py's matter and
passes here.
"""
import ast
import functools
import re

from ..hardware import SIDES
from .document import quoted
from .rules_pv import name_of
from .rules_value import judge_value, unfilled

TEST = re.compile(r"(tests/[\w/-]+\.py)::(test\w*)(\[.+\])?")
IN_COMMAND = re.compile(r"(tests/[\w/-]+\.py)(?:::(\w+))?")
RUN = re.compile(r"[\w-]+(?:[/.][\w-]+)*\.json:[\w.]+")
TYPED = ("DRAFT", "DRAFT_RED", "PROPOSED")
"""The only statuses that may be typed: they claim nothing."""
DERIVED = ("discharge_status", "evidence_discharged_by", "full_discharge_blocks_on")


def judge_aprnb(root, checkout, faults):
    """Every breach in a contract.

    checkout: the folder that holds tests/;  faults: the registry, id -> Fault.
    """
    yield from _status(root)
    if not root.maps("falsification_tests"):
        yield (root.line_of("falsification_tests"), "APRNB-008",
               "no falsification test: a claim that nothing can refute")
    for i, test in enumerate(root.maps("falsification_tests")):
        where = f"falsification_tests[{i}]"
        yield from _typed_verdict(test, where)
        yield from _command(test, where, checkout)
        binding = test.get("aprnb")
        if binding is None:
            yield (test.line_of("aprnb"), "APRNB-009",
                   f"{where}: no `aprnb` map: bind it to tests and planted faults")
        elif isinstance(binding.value, dict):
            yield from _binding(binding, f"{where}.aprnb", checkout, faults)


def _status(root):
    metadata = root.get("metadata")
    if metadata is None or not isinstance(metadata.value, dict):
        return
    status = metadata.text("status")
    if status and status not in TYPED:
        yield (metadata.line_of("status"), "APRNB-020",
               f"metadata.status: {quoted(status)} is derived by `aprnb contracts status` from "
               f"evidence, never typed; at most {', '.join(TYPED)}")


def _typed_verdict(test, where):
    for key in DERIVED:
        if test.get(key) is not None:
            yield (test.line_of(key), "APRNB-020",
                   f"{where}: `{key}` is derived by `aprnb contracts status` from evidence, "
                   "never typed")


def _command(test, where, checkout):
    """A command that names tests is one that can be run."""
    key = name_of(test, "test")
    for file, function in IN_COMMAND.findall(test.text(key) or ""):
        problem = _missing(checkout / file, function)
        if problem:
            yield test.line_of(key), "APRNB-012", f"{where}.{key}: {quoted(file)}: {problem}"


def _binding(binding, where, checkout, faults):
    hardware = binding.text("hardware")
    if hardware is not None and hardware not in SIDES:
        yield (binding.line_of("hardware"), "APRNB-013",
               f"{where}.hardware: need one of {', '.join(SIDES)}, got {quoted(hardware)}")
    yield from _tests(binding, where, checkout)
    yield from _faults(binding, where, hardware, faults)
    yield from unfilled(binding, where, "value", "run")
    value = binding.get("value")
    if value is not None and isinstance(value.value, dict):
        yield from judge_value(value, f"{where}.value", binding.text("run"))
    yield from _run(binding, where)


def _tests(binding, where, checkout):
    if _empty(binding, "tests"):
        yield (binding.line_of("tests"), "APRNB-012",
               f"{where}.tests: name a test, such as tests/test_rope.py::test_rotation")
    for node in binding.list("tests"):
        if isinstance(node.value, str):
            problem = _missing_test(node.value, checkout)
            if problem:
                yield node.line, "APRNB-012", f"{where}.tests: {quoted(node.value)}: {problem}"


def _missing_test(node, checkout):
    """Why pytest could not run a node, or None."""
    named = TEST.fullmatch(node)
    if named is None:
        return "need tests/<file>.py::test_<name>, perhaps with [one case]"
    return _missing(checkout / named[1], named[2])


def _missing(path, function):
    """Why a function of a file cannot be run, or None; any at all if `function` is empty."""
    if not path.is_file():
        return "there is no such file"
    functions = _functions_of(path)
    if functions is None:
        return "the file is no Python"
    return None if function in ("", *functions) else f"the file has no function {function}"


@functools.cache
def _functions_of(path):
    """Names of the functions at the top of a Python file; None where it does not parse."""
    try:
        return {item.name for item in ast.parse(path.read_bytes()).body
                if isinstance(item, ast.FunctionDef)}
    except (SyntaxError, ValueError):
        return None


def _faults(binding, where, hardware, faults):
    if _empty(binding, "faults"):
        yield (binding.line_of("faults"), "APRNB-010",
               f"{where}.faults: name a planted fault that turns the tests red; a test that was "
               "never seen to fail proves nothing")
    for node in binding.list("faults"):
        if not isinstance(node.value, str):
            continue
        if node.value not in faults:
            yield (node.line, "APRNB-011",
                   f"{where}.faults: the registry has no {quoted(node.value)}; "
                   "`aprnb faults list` names them")
        elif hardware in SIDES and hardware not in faults[node.value].plants:
            yield (node.line, "APRNB-011",
                   f"{where}.faults: {node.value} has no plant for {hardware}, where the tests run")


def _empty(binding, key):
    found = binding.get(key)
    return found is None or found.value == []


def _run(binding, where):
    run = binding.text("run")
    if not run:
        return
    if RUN.fullmatch(run) is None:
        yield (binding.line_of("run"), "APRNB-019",
               f"{where}.run: need FILE.json:KEY of a run folder, got {quoted(run)}")
    elif binding.get("value") is None:
        yield (binding.line_of("run"), "APRNB-019",
               f"{where}.run: no `value` with unit and bounds to judge the number by")
