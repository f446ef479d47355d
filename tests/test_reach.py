"""What a test reaches, and so what its entry in the ledger of planted faults depends on."""
import shutil
from dataclasses import replace

import pytest

from aprnb.proof.checkout import checkout
from aprnb.proof.contracts.contract import Value, load_contracts
from aprnb.proof.faults.ledger import changed, digest_of_tests, read_ledger
from aprnb.proof.faults.reach import Reach

TESTS = """
import pytest
import leaned_on
from leaned_on import LIMIT, double as twice

FACTOR = 2

@pytest.fixture
def here():
    return FACTOR

def helper(x):
    return twice(x)

def test_one():
    assert helper(LIMIT)

def test_module():
    assert leaned_on.attribute

def test_fixtures(here, there):
    assert here

def test_local():
    from aprnb.errors import NotFoundError
    from local import near
    assert near and NotFoundError

def test_program():
    code = "from programs import started\\nstarted()"

def test_script():
    file = "script.py"

def test_op():
    op = "rmsnorm_forward"

def test_class():
    assert Inner().method()

class Inner:
    def method(self):
        return Outer

class Outer:
    pass
"""
CONFTEST = """
import pytest
import far

@pytest.fixture
def there():
    return far.VALUE

def pytest_configure(config):
    pass
"""
FILES = {"test_small": TESTS, "conftest": CONFTEST, "far": "VALUE = 1\n", "local": "near = 1\n",
         "leaned_on": "LIMIT = 1\nattribute = 1\n\ndef double(x):\n    return x + more\n\n"
                      "more = 1\nmore += 1\nunrelated = 1\n",
         "programs": "def started():\n    pass\n\ndef another():\n    pass\n",
         "script": "import far\nprint(far.VALUE)\n"}


@pytest.fixture
def place(tmp_path):
    """A checkout of a few small files, and the package's own."""
    shutil.copytree(checkout() / "aprnb", tmp_path / "aprnb",
                    ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").mkdir()
    for name, text in FILES.items():
        (tmp_path / f"tests/{name}.py").write_text(text)
    return tmp_path


def reached(root, test):
    """Of a small test "file.name" of everything in tests/ that it reaches."""
    return {f"{piece.file[6:-3]}.{piece.name}" for piece in Reach(root).of(
        f"tests/test_small.py::{test}") if piece.file.startswith("tests/")}


@pytest.mark.parametrize("test, names", [
    ("test_one", "helper leaned_on.LIMIT leaned_on.double leaned_on.more"),
    ("test_module", "leaned_on.attribute"),
    ("test_fixtures", "here FACTOR conftest.there far.VALUE"),
    ("test_local", "local.near"),
    ("test_program", "programs.started"),
    ("test_script", "script.print script.far far.VALUE"),
    ("test_class[3]", "Inner Outer")])
def test_names_are_followed(place, test, names):
    want = {name if "." in name else f"test_small.{name}" for name in names.split()}
    assert reached(place, test) == want | {f"test_small.{test.partition('[')[0]}"}


def test_the_package_is_followed_through_imports_and_names_of_ops(place):
    def files(test, wanted):
        return {piece.file for piece in Reach(place).of(f"tests/test_small.py::{test}")
                if piece.name == wanted}
    assert files("test_local", "AprnbError") == {"aprnb/errors.py"}, "the base of what it names"
    assert {"aprnb/oracle/rmsnorm.py", "aprnb/kernels/sm80/rmsnorm.py"} <= files(
        "test_op", "rmsnorm_forward")
    assert files("test_op", "block_sum") == {"aprnb/kernels/block.py"}, "what its kernel calls"


def digest(root, test="test_one", value=None):
    return digest_of_tests(Reach(root), [f"tests/test_small.py::{test}"], value)


@pytest.mark.parametrize("file, old, new, counts", [
    ("test_small", "def test_one", "# a comment\n\ndef test_one", False),
    ("test_small", "assert here", "pass", False),
    ("test_small", "FACTOR = 2", "FACTOR = 3", False),
    ("test_small", "assert helper(LIMIT)", "pass", True),
    ("test_small", "def test_one", "@pytest.mark.skip\ndef test_one", True),
    ("test_small", "FACTOR = 2", "pytestmark = pytest.mark.skip", True),
    ("test_small", "@pytest.fixture", "@pytest.fixture(autouse=True)", True),
    ("leaned_on", "LIMIT = 1", "LIMIT = 9", True),
    ("leaned_on", "more += 1", "more += 2", True),
    ("leaned_on", "unrelated = 1", "unrelated = 2", False),
    ("leaned_on", "unrelated = 1", "vars().update(unrelated=1)\nunrelated = 1", False),
    ("conftest", "    pass", "    config.softer = True", False),
    ("conftest", "@pytest.fixture", "@pytest.fixture(autouse=True)", True)])
def test_the_digest_covers_what_a_test_reaches_and_nothing_else(place, file, old, new, counts):
    before, path = digest(place), place / f"tests/{file}.py"
    assert path.read_text().count(old) == 1
    path.write_text(path.read_text().replace(old, new))
    assert (digest(place) != before) is counts


def test_the_gate_of_a_number_judges_too(place):
    gate = Value("loss", "nats", 0.05, 8.35, None)
    known = {digest(place), digest(place, value=gate), digest(place, value=replace(gate, upper=99))}
    assert len(known) == 3


@pytest.mark.parametrize("helper, added, stale", [
    ("conftest", "\nADDED = 1\n", "none"), ("judge", "\nADDED = 1\n", "none"),
    ("judge", "def _guard(dtype):\n    print(dtype)", "run_kernel"),
    ("tolerance", "def in_order(a, b):\n    print(a)", "in_order")])
def test_one_line_in_a_helper_makes_only_those_entries_stale_that_reach_it(
        tmp_path, helper, added, stale):
    """Of the ledger of this checkout."""
    root = checkout()
    for room in ("aprnb", "tests"):
        shutil.copytree(root / room, tmp_path / room,
                        ignore=shutil.ignore_patterns("__pycache__", "data"))
    ledger, now = read_ledger(root), Reach(root)
    entries = {f: ledger[f.id] for c in load_contracts() for f in c.falsifiers if f.id in ledger}
    fresh = {f for f, entry in entries.items() if not changed(now, f, entry)}
    path = tmp_path / f"tests/{helper}.py"
    head = added.partition("\n")[0]
    text = path.read_text()
    path.write_text(text.replace(head, added) if head else text + added)
    after = Reach(tmp_path)
    want = {f for f in fresh if any(piece.name == stale and piece.file == f"tests/{helper}.py"
                                    for node in f.binding.tests for piece in now.of(node))}
    assert {f for f in fresh if changed(after, f, entries[f])} == want
    assert (want == set()) is (stale == "none") and len(want) < len(fresh)
