"""What a test reaches, and so what its entry in the ledger of planted faults depends on."""
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from aprnb.proof.checkout import checkout
from aprnb.proof.contracts.contract import Value, load_contracts
from aprnb.proof.faults.ledger import blank_entry, changed, digest_of_tests
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


def test_threads_that_ask_at_once_get_the_same(place):
    """Trials run side by side and share one index: what is half found is nobody's answer."""
    asked = [f"tests/test_small.py::test_{what}" for what in ("one", "fixtures", "op")] * 4
    alone, interval = [Reach(place).of(node) for node in asked], sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(5):
            shared = Reach(place)
            with ThreadPoolExecutor(len(asked)) as pool:
                assert list(pool.map(shared.of, asked)) == alone
    finally:
        sys.setswitchinterval(interval)


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


WAYS = {  # what a test says -> a line of tests/soft.py that judges it; {} stands for 1 or 2
    "star import": ("from soft import *\ndef test_way():\n    assert limit()",
                    "def limit():\n    return {}"),
    "module by another name": ("import soft\ndef test_way():\n    own = soft\n    own.limit()",
                               "def limit():\n    return {}"),
    "module as an argument": ("import soft\ndef test_way(monkeypatch):\n"
                              "    monkeypatch.setattr(soft, 'A', 1)", "A = {}"),
    "keyword-only argument": ("from soft import here\ndef test_way(*, here):\n    pass",
                              "import pytest\n@pytest.fixture\ndef here():\n    return {}"),
    "argument of a method": ("from soft import here\nclass test_way:\n"
                             "    def test_method(self, here):\n        pass",
                             "import pytest\n@pytest.fixture\ndef here():\n    return {}"),
    "fixture with another name": ("from soft import _own\ndef test_way(here):\n    assert here",
                                  "import pytest\n@pytest.fixture(name='here')\ndef _own():\n"
                                  "    return {}"),
    "fixture asked for by its name": ("from soft import here\ndef test_way(request):\n"
                                      "    request.getfixturevalue('here')",
                                      "import pytest\n@pytest.fixture\ndef here():\n    return {}"),
    "fixture that is imported and used by all": (
        "from soft import here\ndef test_way():\n    pass",
        "import pytest\n@pytest.fixture(autouse=True)\ndef here():\n    return {}"),
    "fixture of a fixture elsewhere": (
        "import pytest\nimport soft\nfrom outer import outer\n@pytest.fixture\n"
        "def inner():\n    return soft.A\ndef test_way(outer):\n    pass", "A = {}"),
    "setup of pytest": ("import soft\ndef setup_function(f):\n    soft.limit()\n"
                        "def test_way():\n    pass", "def limit():\n    return {}"),
    "parametrised by a hook": ("import soft\ndef pytest_generate_tests(metafunc):\n"
                               "    metafunc.parametrize('x', soft.CASES)\n"
                               "def test_way(x):\n    assert x", "CASES = [{}]"),
    "change of an imported module": ("import soft, other\nother.LIMIT = soft.A\n"
                                     "def test_way():\n    assert 1", "A = {}"),
    "call when it is imported": ("import pytest\nimport soft\npytest.skip(soft.A)\n"
                                 "def test_way():\n    assert 1", "A = {}"),
    "name of a with": ("from soft import A\ndef test_way():\n    assert A",
                       "with open('x', {}) as A:\n    pass"),
    "global of a function": ("from soft import A\ndef test_way():\n    assert A",
                             "A = 1\ndef change():\n    global A\n    A = {}\nchange()"),
    "program, in brackets": ("def test_way():\n    'from soft import (one,\\n        limit)'",
                             "def limit():\n    return {}"),
    "program by -m": ("import sys\ndef test_way():\n    [sys.executable, '-m', 'soft', 'x']",
                      "print({})"),
    "import by name": ("import importlib\ndef test_way():\n    importlib.import_module('soft')",
                       "A = {}"),
    "line with # in a text": ("from soft import A\ndef test_way():\n    assert A",
                              'A = """\n# {}\n"""'),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_a_line_that_judges_is_followed(place, way):
    test, line = WAYS[way]
    (place / "tests/test_small.py").write_text(test + "\n")
    (place / "tests/other.py").write_text("LIMIT = 1\n")
    (place / "tests/outer.py").write_text(
        "import pytest\n@pytest.fixture\ndef outer(inner):\n    return inner\n")
    known = set()
    for value in 1, 2:
        (place / "tests/soft.py").write_text(line.replace("{}", str(value)) + "\n")
        known.add(digest(place, "test_way"))
    assert len(known) == 2


def test_the_gate_of_a_number_judges_too(place):
    gate = Value("loss", "nats", 0.05, 8.35, None)
    known = {digest(place), digest(place, value=gate), digest(place, value=replace(gate, upper=99))}
    assert len(known) == 3


@pytest.fixture(scope="module")
def now():
    """(Reach of this checkout, {falsifier: what the ledger would be if it were recorded now})."""
    reach = Reach(checkout())
    return reach, {f: blank_entry(reach, f) for c in load_contracts() for f in c.falsifiers}


@pytest.mark.parametrize("helper, added, stale", [
    ("conftest", "\nADDED = 1\n", "none"), ("judge", "\nADDED = 1\n", "none"),
    ("judge", "def _guard(dtype):\n    print(dtype)", "run_kernel"),
    ("tolerance", "def in_order(a, b):\n    print(a)", "in_order")])
def test_one_line_in_a_helper_makes_only_those_entries_stale_that_reach_it(
        tmp_path, now, helper, added, stale):
    root, (reach, entries) = checkout(), now
    for room in ("aprnb", "tests"):
        shutil.copytree(root / room, tmp_path / room,
                        ignore=shutil.ignore_patterns("__pycache__", "data"))
    path = tmp_path / f"tests/{helper}.py"
    head = added.partition("\n")[0]
    text = path.read_text()
    path.write_text(text.replace(head, added) if head else text + added)
    after = Reach(tmp_path)
    want = {f for f in entries if any(piece.name == stale and piece.file == f"tests/{helper}.py"
                                    for node in f.binding.tests for piece in reach.of(node))}
    assert {f for f in entries if changed(after, f, entries[f])} == want
    assert (want == set()) is (stale == "none") and len(want) < len(entries)
