"""The mutation tester: what it changes, and that it sees what tests do not."""
import sys
import textwrap
from pathlib import Path

import processes
import pytest

TOOLS = Path(__file__).parents[1] / "tools"
sys.path.append(str(TOOLS))
import mutants  # noqa: E402
import mutate  # noqa: E402


def changes(source, text=False):
    return [m.now for m in mutants.mutants_of(textwrap.dedent(source)) if m.is_text == text]


@pytest.mark.parametrize("line, want", [
    ("x = a < b", ["x = a <= b"]),
    ("x = a + b * 2", ["x = a - b * 2", "x = a + (b / 2)", "x = a + b * 3"]),
    ("x = -a & b", ["x = -a | b", "x = a & b"]),
    ("x = a and not b", ["x = a or not b", "x = a and b"]),
    ("x = 0.5, True, b'', 'a b'", ["x = 1.0, True, b'', 'a b'", "x = 0.5, False, b'', 'a b'",
                                   "x = 0.5, True, b'XXXX', 'a b'"]),
    ("x = f'{a + 1}.apr'", ["x = f'{a - 1}.apr'", "x = f'{a + 2}.apr'", "x = f'{a + 1}XX.aprXX'"]),
    ("x = np.minimum(a, min(b))", ["x = np.maximum(a, min(b))", "x = np.minimum(a, max(b))"]),
    ("x = f(a, key=b, **c)", ["x = f(a, **c)"]),
    ("x = a if b else c", ["x = a if (not b) else c"]),
    ("x = [a for a in b if a.c if a is d]", ["x = [a for a in b if not a.c if a is d]",
                                             "x = [a for a in b if a.c if a is not d]"]),
    ("x = a.reshape(-1, 4)", ["x = a.reshape(1, 4)", "x = a.reshape(-1, 5)"]),
    ("x: int = 1", ["x: int = 2"]),
])
def test_an_expression(line, want):
    assert changes(line) == want


def test_statements_of_a_function():
    assert changes('''
        def f(a):
            """No text of a docstring, 1 < 2, is changed."""
            once = a.b
            a = once
            a += a
            while a:
                break
            if a:
                raise ValueError(f"{a} is 1 too many")
            a()
            return a
    ''') == ["pass", "a -= a", "pass", "while not a:", "continue", "if not a:", "pass", "pass",
             "return None"]


def test_what_only_people_read_is_marked():
    source = 'def f(a):\n    say("two words, 1 < 2", "word")\n    raise E("word", 1 + a)\n'
    assert changes(source) == ["pass", 'say("two words, 1 < 2", \'XXwordXX\')', "pass"]
    assert len(changes(source, text=True)) == 4


def test_a_mutant_knows_its_place():
    source = "A = 1\n\n\nclass C:\n    B = 1\n\n    def f(self, d=1):\n        return (\n    1)\n"
    found = {m.where: m.lines for m in mutants.mutants_of(source)}
    assert found == {"module": None, "C": None, "C.f": range(8, 10)}
    first, *_, last = mutants.mutants_of(source)
    assert first.key == "module | A = 2" and last.key == "C.f | 2)" and last.was == "1)"
    (left_out, *_) = mutants.mutants_of("def f(a):\n    a.b(\n        1)\n")
    assert left_out.key == "f | a.b( 1) => pass"


def test_all_mutants_of_a_target_are_python():
    source = (TOOLS.parent / "aprnb/formats/apr_reader.py").read_text()
    found = mutants.mutants_of(source)
    assert len(found) > 300 and len({m.source for m in found} | {source}) == len(found) + 1
    for mutant in found:
        compile(mutant.source, "mutant", "exec")


SMALL = """
LIMIT = 1
NAMES = ("a",)

def has(name):
    return name in NAMES

def tested(a):
    return a > 0

def in_a_process(a):
    return a > 0

def in_a_fixture(a):
    return a > 0

def untested(a):
    return a > 0
"""
TESTS = """
import subprocess
import sys

import pytest
from aprnb import small

@pytest.fixture(scope="module")
def made():
    return small.in_a_fixture(0)

def test_tested():
    assert not small.tested(0) and small.tested(1) and small.LIMIT == 1

def test_process():
    script = "from aprnb import small; print(small.in_a_process(0))"
    assert subprocess.check_output([sys.executable, "-c", script]) == b"False\\n"

def test_fixture(made):
    pass

def test_the_same_fixture(made):
    assert not made

@pytest.mark.parametrize("name", small.NAMES)
def test_names(name):
    assert small.has(name)
"""
RUN = """
import mutation_bench, mutants, pathlib
with mutation_bench.Bench(pathlib.Path("checkout")) as bench:
    name, tests = "aprnb/small.py", ["tests/test_small.py"]
    survey = bench.survey([name], tests)
    for m in mutants.mutants_of((bench.root / name).read_text()):
        if m.now != "return None":
            print(m.key, bench.judge(name, m, survey, tests), sep=": ")
"""


def test_tests_are_chosen_and_judge(tmp_path):
    """Lines that a fixture or another process runs are known; what nobody asserts survives."""
    for name, text in (("aprnb/__init__.py", ""), ("aprnb/small.py", SMALL),
                       ("tests/test_small.py", TESTS)):
        (tmp_path / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "checkout" / name).write_text(text)
    done = processes.run([sys.executable, "-c", RUN], cwd=tmp_path, env={"PYTHONPATH": str(TOOLS)})
    assert done.stdout.splitlines() == [
        "module | LIMIT = 2: killed",
        "module | NAMES = ('XXaXX',): survived",  # the test of it is of another name
        "has | return name not in NAMES: killed",
        "tested | return a >= 0: killed", "tested | return a > 1: killed",
        "in_a_process | return a >= 0: killed", "in_a_process | return a > 1: survived",
        "in_a_fixture | return a >= 0: killed", "in_a_fixture | return a > 1: survived",
        "untested | return a >= 0: survived", "untested | return a > 1: survived"], done.stderr


def test_the_list_of_survivors_must_be_that_of_the_run():
    alive = [{"file": "f", "where": "g", "was": "a", "now": "b", "reason": None}]
    assert "- a\n+ b" in mutate.list_faults("f", ["g | b"], alive, {})[0]
    alive[0]["reason"] = "equal"
    assert mutate.list_faults("f", ["g | b"], alive, {"g | b": "equal"}) == []
    assert mutate.list_faults("f", ["g | b"], alive, {"g | b": "equal", "g | c": "gone"}) == [
        "listed, no such mutant: f: g | c"]


def test_a_listed_mutant_that_was_killed_is_reported(capsys):
    assert mutate.list_faults("f", ["g | b"], [], {"g | b": "equal"}) == []
    assert "listed, but killed: f: g | b" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, words", [
    (["aprnb/errors.py"], "aprnb/errors.py: no target; targets are aprnb/formats/apr_layout.py"),
    (["--report", "no/where.json"], "--report no/where.json: no such folder")])
def test_what_cannot_be_is_refused_at_once(arguments, words):
    done = processes.run([sys.executable, TOOLS / "mutate.py", *arguments])
    assert done.returncode == 2 and words in done.stderr
