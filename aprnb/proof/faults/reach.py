"""What a test reaches: the functions, classes and constants that it names, and what those name.

Names are followed through one module, through imports (inside functions too), into tests/ and into
the package. A test reaches the fixtures that its arguments name, as pytest finds them, and what
pytest calls for every test. Of programs in a text, what they import from tests/ is reached; a text
that is the name of an op reaches the ops of that name, which is how tests ask for kernels. A module
of tests/ that is handed on is reached as a whole. A module's other statements belong to the names
that they assign or mention; one that acts on what is imported, to all that reaches the module. Of
conftest.py hooks do not count. What is found at run time in another way is not seen: a method
through an object whose class is not named, a verb that the command line loads by its name.
"""
import ast
import itertools
import re
from functools import cache, cached_property
from pathlib import Path
from threading import Lock
from typing import NamedTuple

CONFTEST = "conftest"
OPS = ("aprnb/oracle", "aprnb/kernels", "aprnb/kernels/sm80", "aprnb/kernels/sm90")
WORD = re.compile(r"\w+")
IMPORTED = re.compile(r"\bfrom (\w+) import ([\w, ]+|\([^)]*\))")  # in programs that a text holds
WHOLE = re.compile(r"\bimport ([\w, ]+)|\b(\w+)\.py\b")
BY_PYTEST = ("pytestmark", "pytest_generate_tests", "setup_module", "teardown_module",
             "setup_function", "teardown_function")  # what it looks for in a module of tests
EFFECTS = "on import"  # in place of a name: statements that act on what is imported


class Piece(NamedTuple):
    """A top-level statement that is reached."""

    file: str
    """Below the checkout."""
    name: str
    code: str
    """Its lines without comments and blank lines."""


class Reach:
    """The names of a checkout as it stands when they are first asked for, and where they lead."""

    def __init__(self, root):
        self.root = Path(root)
        self._modules, self._leads, self._fixtures, self._reached = {}, {}, {}, {}
        self._cut, self._one_at_a_time = {}, Lock()

    def of(self, node):
        """Every Piece that a test reaches, in the order of file and name.

        node: "tests/test_x.py::test_y", perhaps with a parametrisation behind it.
        """
        file, _, name = node.partition("::")
        key = file, re.split(r"\[|::", name)[0]
        with self._one_at_a_time:  # trials ask from threads: what is half found is no answer
            if key not in self._reached:
                self._reached[key] = self._pieces(self._module(self.root / file), key[1])
            return self._reached[key]

    def _pieces(self, module, test):
        conftest = self._beside(module.path, CONFTEST)
        places = [place for place in (module, conftest) if place]
        open_ = [(module, test), *((module, name) for name in BY_PYTEST)]
        open_ += [lead for place in places for lead, every in self._fixtures_in(place) if every]
        seen = set()
        while open_:
            lead = place, name = open_.pop()
            if lead in seen:
                continue
            seen.add(lead)
            if place is None:  # a fixture: pytest looks for it where the test stands
                open_ += [own for each in places for own, _ in self._fixtures_in(each, name)]
                continue
            open_ += self._leads_to(*lead)
            if place is not conftest:
                open_.append((place, EFFECTS))
        found = {piece for lead in seen if lead[0] for piece in self._pieces_of(*lead)}
        return sorted(found)

    def _pieces_of(self, module, name):
        """The statements about a name."""
        if (module, name) not in self._cut:
            file = module.path.relative_to(self.root).as_posix()
            self._cut[module, name] = [Piece(file, name, code) for code in module.codes(name)]
        return self._cut[module, name]

    def _leads_to(self, module, name):
        """[(module, name)] of everything that a name's statements name."""
        if (module, name) not in self._leads:
            leads = self._leads[module, name] = []
            for target in module.imports.get(name, ()):
                leads += self._imported(module, *target)
            for statement in module.statements.get(name, ()):
                leads += self._named(module, statement)
                if name in _globals(statement):
                    leads.append((module, statement.name))
            if name not in module.statements and name not in module.imports:
                for dots, path, _ in module.imports.get("*", ()):
                    leads += self._imported(module, dots, path, name)
        return self._leads[module, name]

    def _named(self, module, statement):
        said, inside = _Said(statement), _imports(statement)
        for head, *rest in said.chains:
            yield module, head
            for target in (*module.imports.get(head, ()), *inside.get(head, ())):
                yield from self._imported(module, *target, *rest, whole=not rest)
        if not self._in_tests(module):
            return
        yield from ((None, fixture) for fixture in said.fixtures)
        for text in said.texts:
            yield from self._in_text(module, text)

    def _in_tests(self, module):
        return module.path.is_relative_to(self.root / "tests")

    def _fixtures_in(self, module, wanted=None):
        """[((module, name), whether every test uses it)] of the fixtures that a module defines or
        imports; of those only that pytest knows as `wanted`."""
        if module not in self._fixtures:
            known = self._fixtures[module] = [(visible, (module, name), every)
                                              for visible, name, every in module.fixtures]
            for target in itertools.chain(*module.imports.values()):
                for found, name in self._imported(module, *target):
                    if self._in_tests(found):
                        self._fixtures_in(found)
                        known += [each for each in self._fixtures[found] if each[1][1] == name]
        return [each[1:] for each in self._fixtures[module] if wanted in (None, each[0])]

    def _imported(self, module, dots, path, *rest, whole=False):
        """What `rest` leads to, the first of it being imported from `path`: modules as far as there
        are any, then a name in the last one; none: nothing, or all if `whole` and it is a test's.
        """
        parts = [*filter(None, path.split(".")), *rest]
        folders = [module.path.parents[dots - 1]] if dots else [self.root, module.path.parent]
        for depth in range(len(parts), 0 if not dots else -1, -1):
            for folder in folders:
                if found := self._module(folder.joinpath(*parts[:depth])):
                    wanted = parts[depth:depth + 1]
                    if wanted == ["*"] or not wanted and whole and self._in_tests(found):
                        wanted = found.statements
                    return [(found, name) for name in wanted]
        return []

    def _in_text(self, module, text):
        if text.isidentifier():
            yield from ((op, text) for op in self._ops if text in op.functions)
            return
        for name, wanted in IMPORTED.findall(text):
            if found := self._beside(module.path, name):
                yield from ((found, each) for each in WORD.findall(wanted))
        for names, script in WHOLE.findall(IMPORTED.sub("", text)):
            for name in WORD.findall(names) + [script] * bool(script):
                if found := self._beside(module.path, name):
                    yield from ((found, each) for each in found.statements)

    @cached_property
    def _ops(self):
        files = (file for folder in OPS for file in (self.root / folder).glob("*.py"))
        return [self._module(file) for file in sorted(files)]

    def _beside(self, path, name):
        return self._module(path.parent / name)

    def _module(self, path):
        """The module of a path with or without its ending, a package's __init__ too, or None."""
        if path not in self._modules:
            files = path, path.parent / f"{path.name}.py", path / "__init__.py"
            file = next((f for f in files if f.suffix == ".py" and f.is_file()), None)
            self._modules[path] = (None if file is None else _Module(file) if file == path
                                   else self._module(file))
        return self._modules[path]


class _Module:
    """A file's top-level statements by the names that they are about."""

    def __init__(self, path):
        text = path.read_text()
        self.path, self._lines = path, text.splitlines()
        self.statements, self.imports, self._in_texts = _tables(text)

    def codes(self, name):
        """The code of every statement that is about a name."""
        return [self._code(statement) for statement in self.statements.get(name, ())]

    def _code(self, statement):
        first = min([statement.lineno, *(d.lineno for d in _decorators(statement))])
        lines = enumerate(self._lines[first - 1:statement.end_lineno], first - 1)
        return "\n".join(line.rstrip() for i, line in lines if i in self._in_texts  # or of code:
                         or line.strip() and not line.lstrip().startswith("#"))

    @cached_property
    def functions(self):
        """Names of its functions."""
        return {name for name, own in self.statements.items()
                if any(isinstance(statement, ast.FunctionDef) for statement in own)}

    @cached_property
    def fixtures(self):
        """[(name for pytest, name here, whether every test uses it)]."""
        found = []
        for name, own in self.statements.items():
            for call in (call for statement in own for call in _decorators(statement)):
                if "'fixture'" in ast.dump(call):
                    given = {k.arg: k.value for k in getattr(call, "keywords", ())}
                    visible = getattr(given.get("name"), "value", name)
                    found.append((visible, name, "autouse" in given))
        return found


@cache  # two checkouts that are compared differ in one file
def _tables(text):
    """({name: statements}, {name: imports}, lines within texts) of a module."""
    statements, imported, body = {}, {}, ast.parse(text)
    in_texts = {line for node in ast.walk(body) if isinstance(node, ast.JoinedStr | ast.Constant)
                for line in range(node.lineno, node.end_lineno)}
    for statement in body.body:
        for name, targets in _imports(statement).items():
            imported.setdefault(name, []).extend(targets)
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            acts = {EFFECTS} if _acted_on(statement) & imported.keys() else set()
            for name in _subjects(statement) | acts:
                statements.setdefault(name, []).append(statement)
    return statements, imported, in_texts


def _decorators(statement):
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Call):
        return [statement.value.func]  # name = decorator(function)
    return getattr(statement, "decorator_list", ())


@cache
def _globals(statement):
    """What a function of the module assigns in the module."""
    return {name for node in ast.walk(statement) if isinstance(node, ast.Global)
            for name in node.names} if isinstance(statement, ast.FunctionDef) else set()


def _acted_on(statement):
    """Names of which a top-level statement calls or changes something, beside functions."""
    nodes = [] if isinstance(statement, ast.FunctionDef | ast.ClassDef) else ast.walk(statement)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            found.add(_root(node.value.func))
        found |= {_root(t) for t in _targets(node) if not isinstance(t, ast.Name)}
    return found - {None}


def _subjects(statement):
    """The names that a statement is about: what it defines or changes, else all that it mentions.
    Of a branch at the top level, what it defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name} | _globals(statement)
    nodes = list(ast.walk(statement))
    changed = {_root(target) for n in nodes for target in _targets(n)}
    changed |= {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return changed - {None} or {n.id for n in nodes if isinstance(n, ast.Name)}


def _targets(node):
    if isinstance(node, ast.Assign | ast.Delete):
        return [part for target in node.targets for part in _unpacked(target)]
    if isinstance(node, ast.AnnAssign | ast.AugAssign | ast.For | ast.NamedExpr):
        return _unpacked(node.target)
    return []


def _unpacked(target):
    if isinstance(target, ast.Tuple | ast.List):
        return [part for each in target.elts for part in _unpacked(each)]
    return [target]


def _root(node):
    """The name at the head of a.b[c].d; None if there is none."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


@cache
def _imports(statement):
    """Local name -> [(dots, path, name)], of a module [(dots, path)], of the imports inside."""
    found = {}
    for node in ast.walk(statement):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                found.setdefault(alias.asname or alias.name, []).append(
                    (node.level, node.module or "", alias.name))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                path = alias.name if alias.asname else alias.name.partition(".")[0]
                found.setdefault(alias.asname or path, []).append((0, path))
    return found


@cache
class _Said:
    """The names, arguments and texts in one statement."""

    def __init__(self, statement):
        self.chains, self.texts, self.fixtures = set(), set(), set()
        heads = {id(n.value) for n in ast.walk(statement) if isinstance(n, ast.Attribute)}
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute):
                if chain := _chain(node):
                    self.chains.add(chain)
            elif isinstance(node, ast.Name) and id(node) not in heads:
                self.chains.add((node.id,))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.texts.add(node.value)
            elif isinstance(node, ast.Call) and node.args:
                self._called(ast.dump(node.func), [getattr(a, "value", None) for a in node.args])
            elif isinstance(node, ast.FunctionDef):
                self.fixtures |= {a.arg for a in (*node.args.args, *node.args.kwonlyargs)}
            elif isinstance(node, ast.List | ast.Tuple):
                words = [getattr(part, "value", None) for part in node.elts]
                self.texts |= {f"import {b}" for a, b in itertools.pairwise(words) if a == "-m"}

    def _called(self, function, words):
        if "'usefixtures'" in function or "'getfixturevalue'" in function:
            self.fixtures |= {word for word in words if isinstance(word, str)}
        elif "'import_module'" in function or "'importorskip'" in function:
            self.texts.add(f"import {words[0]}")


def _chain(node):
    """("a", "b", "c") of a.b.c; None if its head is no name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None
