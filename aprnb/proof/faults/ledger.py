"""What was seen red, and what the tests looked like then: contracts/seen-red.json.

A falsifier counts because a planted fault turned it red. When its test changes afterwards, nobody
knows whether it still would, in every assertion: so the ledger keeps a digest of the test and of
the code in tests/ that it leans on, and a change asks to be read and recorded again. Files of data
are not in it.
"""
import ast
import hashlib
import json
import re
from pathlib import Path

from ...errors import CheckError
from ...formats.atomic import write_text

NAME = "contracts/seen-red.json"
NAMED = re.compile(r"\b(?:import|from) [\w., ]+|\w+\.py\b")  # in programs that a text holds too


def read_ledger(root):
    """Falsifier id -> {"digest": of its tests, "hardware", "red": {fault id: where it went red}}.

    Errors: CheckError if the file is damaged.
    """
    path = Path(root) / NAME
    if not path.exists():
        return {}
    try:
        entries = json.loads(path.read_text())["falsifiers"]
        return {id: e | {"digest": e["digest"], "red": dict(e["red"])}
                for id, e in entries.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckError(f"{NAME}: damaged ({type(error).__name__} {error}); take it from git, or "
                         "delete it and run aprnb faults run --all --record") from error


def seen_red(root, falsifier, ledger):
    """Ids of its faults with which a falsifier's tests, as they stand now, were seen red."""
    entry = ledger.get(falsifier.id)
    if entry is None or not fits(root, falsifier, entry):
        return set()
    return set(entry["red"]) & set(falsifier.binding.faults)


def write_ledger(root, falsifiers):
    """Replace the ledger; its order does not depend on the order of the trials."""
    path = Path(root) / NAME
    text = json.dumps({"schema": "aprnb-seen-red-v1", "falsifiers": falsifiers}, indent=1,
                      sort_keys=True)
    write_text(path, text + "\n")


def blank_entry(root, falsifier):
    """The entry of a falsifier as it stands, of which nothing was seen red."""
    binding = falsifier.binding
    return {"digest": digest_of_tests(root, binding.tests, binding.value),
            "hardware": binding.hardware, "red": {}}


def fits(root, falsifier, entry):
    """Whether an entry is about the falsifier as it stands: its tests, its bounds, its hardware,
    without which it would be skipped where there is none."""
    blank = blank_entry(root, falsifier)
    return blank == blank | entry | {"red": {}}


def digest_of_tests(root, nodes, value=None):
    """SHA-256 of the test functions and of the code in tests/ that they can lean on: the rest of
    their module without its other tests, the modules of tests/ that it imports or names,
    conftest.py. Comments and blank lines do not count.

    value: contract.Value, the gate of a number that the tests report: it judges too.
    """
    digest = hashlib.sha256(repr(value).encode() if value else b"")
    for node in sorted(nodes):
        file, _, name = node.partition("::")
        path = Path(root) / file
        digest.update(node.encode())
        digest.update(_module(path, keep=name.partition("[")[0]).encode())
        conftest = path.parent / "conftest.py"
        around = _helpers(conftest, _helpers(path, {path, conftest})) - {path}
        for helper in sorted(around):
            digest.update(_code(helper.read_text().splitlines()).encode())
    return digest.hexdigest()


def _module(path, keep):
    """The module's code without the tests that are not meant."""
    text = path.read_text()
    lines = text.splitlines()
    for item in ast.parse(text).body:
        if _is_test(item) and item.name != keep:
            first = min([item.lineno, *(d.lineno for d in item.decorator_list)])
            lines[first - 1:item.end_lineno] = [""] * (item.end_lineno - first + 1)
    return _code(lines)


def _is_test(item):
    return isinstance(item, ast.FunctionDef) and item.name.startswith("test_")


def _code(lines):
    return "\n".join(line.rstrip() for line in lines
                     if line.strip() and not line.lstrip().startswith("#"))


def _helpers(path, seen):
    """`seen` and, in it now, the files beside `path` that it imports or names, a program in a text
    included, and those that they lean on."""
    for words in NAMED.findall(path.read_text()):
        for name in re.findall(r"\w+", words):
            helper = path.parent / f"{name}.py"
            if helper.is_file() and helper not in seen:
                seen.add(helper)
                _helpers(helper, seen)
    return seen
