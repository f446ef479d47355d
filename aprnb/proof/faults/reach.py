"""What a test reaches: the functions, classes and constants that it names, and what those name.

Names are followed through one module, through imports (inside functions too), into tests/ and into
the package. A test reaches the fixtures that its arguments name and those that every test uses. Of
programs in a text, what they import from tests/ is reached; a text that is the name of an op
reaches the ops of that name, which is how tests ask for kernels. A module's other statements belong
to the names that they assign or mention. What is found at run time in another way is not seen: a
method through an object whose class is not named, a verb that the command line loads by its name.
"""
import ast
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

CONFTEST = "conftest"
OPS = ("aprnb/oracle", "aprnb/kernels", "aprnb/kernels/sm80", "aprnb/kernels/sm90")
WORD = re.compile(r"\w+")
IMPORTED = re.compile(r"\bfrom (\w+) import ([\w, ]+)")  # in programs that a text holds
WHOLE = re.compile(r"\bimport ([\w, ]+)|\b(\w+)\.py\b")


@dataclass(frozen=True)
class Piece:
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
        self._modules, self._leads = {}, {}

    def of(self, node):
        """Every Piece that a test reaches, in the order of file and name.

        node: "tests/test_x.py::test_y", perhaps with a parametrisation behind it.
        """
        file, _, name = node.partition("::")
        module, conftest = self._module(self.root / file), self._beside(self.root / file, CONFTEST)
        open_ = [(module, re.split(r"\[|::", name)[0]), (module, "pytestmark")]
        for place in filter(None, (module, conftest)):
            open_ += [(place, fixture) for fixture in place.used_by_every_test]
        seen = set()
        while open_:
            place = open_.pop()
            if place not in seen:
                seen.add(place)
                open_ += self._leads_to(*place)
        pieces = {Piece(module.path.relative_to(self.root).as_posix(), name, code)
                  for module, name in seen for code in module.codes(name)}
        return sorted(pieces, key=lambda p: (p.file, p.name, p.code))

    def _leads_to(self, module, name):
        """[(module, name)] of everything that a name's statements name."""
        if (module, name) not in self._leads:
            leads = self._leads[module, name] = []
            for target in module.imports.get(name, ()):
                leads += self._imported(module, *target)
            for statement in module.statements.get(name, ()):
                leads += self._named(module, statement)
        return self._leads[module, name]

    def _named(self, module, statement):
        said, inside = _Said(statement), _imports(statement)
        for head, *rest in said.chains:
            yield module, head
            for target in (*module.imports.get(head, ()), *inside.get(head, ())):
                yield from self._imported(module, *target, *rest)
        if not module.path.is_relative_to(self.root / "tests"):
            return
        conftest = self._beside(module.path, CONFTEST)
        for fixture in said.fixtures:
            yield from ((place, fixture) for place in (module, conftest) if place)
        for text in said.texts:
            yield from self._in_text(module, text)

    def _imported(self, module, dots, path, *rest):
        """What `rest` leads to, the first of it being imported from `path`: modules as far as there
        are any, then a name in the last one; none: nothing."""
        parts = [*filter(None, path.split(".")), *rest]
        folders = [module.path.parents[dots - 1]] if dots else [self.root, module.path.parent]
        for depth in range(len(parts), 0 if not dots else -1, -1):
            for folder in folders:
                if found := self._module(folder.joinpath(*parts[:depth])):
                    wanted = parts[depth:depth + 1]
                    return [(found, n) for n in (found.statements if wanted == ["*"] else wanted)]
        return []

    def _in_text(self, module, text):
        if text.isidentifier():
            files = (file for folder in OPS for file in (self.root / folder).glob("*.py"))
            yield from ((op, text) for op in map(self._module, files) if text in op.functions)
            return
        for name, wanted in IMPORTED.findall(text):
            if found := self._beside(module.path, name):
                yield from ((found, each) for each in WORD.findall(wanted))
        for names, script in WHOLE.findall(IMPORTED.sub("", text)):
            for name in WORD.findall(names) + [script] * bool(script):
                if found := self._beside(module.path, name):
                    yield from ((found, each) for each in found.statements)

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
        self.statements, self.imports = {}, {}
        for statement in ast.parse(text).body:
            imports = _imports(statement)
            for name, targets in imports.items():
                self.imports.setdefault(name, []).extend(targets)
            if not isinstance(statement, ast.Import | ast.ImportFrom):
                for name in _subjects(statement):
                    self.statements.setdefault(name, []).append(statement)

    def codes(self, name):
        """The code of every statement that is about a name."""
        return [self._code(statement) for statement in self.statements.get(name, ())]

    def _code(self, statement):
        first = min([statement.lineno, *(d.lineno for d in _decorators(statement))])
        lines = self._lines[first - 1:statement.end_lineno]
        return "\n".join(line.rstrip() for line in lines
                         if line.strip() and not line.lstrip().startswith("#"))

    @cached_property
    def functions(self):
        """Names of its functions."""
        return {name for name, own in self.statements.items()
                if any(isinstance(statement, ast.FunctionDef) for statement in own)}

    @cached_property
    def used_by_every_test(self):
        """Names of fixtures with autouse=True."""
        return [name for name, own in self.statements.items() for statement in own
                for decorator in _decorators(statement)
                if isinstance(decorator, ast.Call)
                and any(k.arg == "autouse" for k in decorator.keywords)]


def _decorators(statement):
    return getattr(statement, "decorator_list", ())


def _subjects(statement):
    """The names that a statement is about: what it defines or changes, else all that it mentions.
    Of a branch at the top level, what it defines."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
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


class _Said:
    """The names, arguments and texts in one statement."""

    def __init__(self, statement):
        self.chains, self.texts, self.fixtures = set(), set(), set()
        for node in ast.walk(statement):
            if isinstance(node, ast.Attribute):
                if chain := _chain(node):
                    self.chains.add(chain)
            elif isinstance(node, ast.Name):
                self.chains.add((node.id,))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                self.texts.add(node.value)
            elif isinstance(node, ast.Call) and "usefixtures" in ast.dump(node.func):
                self.fixtures |= {a.value for a in node.args if isinstance(a, ast.Constant)}
        if isinstance(statement, ast.FunctionDef):
            self.fixtures |= {a.arg for a in statement.args.args}


def _chain(node):
    """("a", "b", "c") of a.b.c; None if its head is no name."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return (node.id, *reversed(parts)) if isinstance(node, ast.Name) else None
