"""Contracts as the rest of the room sees them: valid, and without YAML."""
from dataclasses import dataclass
from pathlib import Path

from ...errors import CheckError, NotFoundError
from ..checkout import checkout
from .document import read_document
from .finding import ERROR
from .rules import check_all
from .rules_pv import name_of


class ContractError(CheckError):
    """A contract file breaks a rule."""


@dataclass(frozen=True)
class Value:
    """A number that a falsifier reports, with the bounds that it is judged by."""

    quantity: str
    unit: str
    lower: float
    upper: float
    plausible: tuple | None
    """(low, high) within the bounds; a value outside it is suspect, though it passes."""


@dataclass(frozen=True)
class Binding:
    """What decides about a falsifier."""

    tests: tuple
    """Nodes of pytest, such as "tests/test_rope.py::test_rotation"."""
    faults: tuple
    """Ids of planted faults, each of which must turn one of the tests red."""
    hardware: str
    """cpu, simulator or gpu: where the tests run."""
    value: Value | None
    run: str | None
    """FILE.json:KEY of a training run's folder, where the value is read from there."""


@dataclass(frozen=True)
class Falsifier:
    """A rule that can turn out false, and what would show it."""

    id: str
    rule: str
    binding: Binding


@dataclass(frozen=True)
class Contract:
    """A promise about one op, format or procedure."""

    name: str
    path: Path
    falsifiers: tuple


def contract_files(paths=None):
    """Contract files that `paths` name, folders searched; default: contracts/ of the checkout,
    relative to the current folder where that is possible.

    Errors: NotFoundError for a path that is neither, and for a folder without a contract.
    """
    files = {}  # by what they resolve to: no contract is read twice
    for path in map(Path, paths or [_nearer(checkout() / "contracts")]):
        for file in _inside(path) if path.is_dir() else [path]:
            if not file.is_file():
                raise NotFoundError(f"{file}: no such contract file or folder")
            files.setdefault(file.resolve(), file)
    return list(files.values())


def _nearer(path):
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _inside(folder):
    files = sorted(p for p in folder.rglob("*") if p.suffix in (".yaml", ".yml"))
    if not files:
        raise NotFoundError(f"{folder}: holds no contract, a .yaml file")
    return files


def load_contracts(paths=None):
    """Contracts of files and folders (default: contracts/ of the checkout), by name.

    Errors: NotFoundError; ContractError naming file and line of the first error.
    """
    documents = [read_document(path) for path in contract_files(paths)]
    errors = [f for f in check_all(documents) if f.severity == ERROR]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise ContractError(f"{errors[0].path}:{errors[0].line}: {errors[0].rule}: "
                            f"{errors[0].message}{more}; see aprnb contracts validate")
    return [_contract(document) for document in documents]


def _contract(document):
    tests = document.root.maps("falsification_tests")
    return Contract(document.path.stem, document.path, tuple(map(_falsifier, tests)))


def _falsifier(test):
    return Falsifier(test.text("id"), test.text(name_of(test, "rule")),
                     _binding(test.get("aprnb")))


def _binding(node):
    value = node.get("value")
    return Binding(tuple(node.get("tests").plain()), tuple(node.get("faults").plain()),
                   node.text("hardware"), None if value is None else _value(value.plain()),
                   node.text("run") or None)


def _value(value):
    band = value.get("plausible")
    return Value(value["quantity"], value["unit"], value["lower"], value["upper"],
                 None if band is None else tuple(band))
