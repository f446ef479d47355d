"""Mutants of a Python source: one small change each, which a test of that source should notice.

    comparison   < and <=, > and >=, == and !=, is and is not, in and not in
    arithmetic   + and -, * and /, // to /, % to /, ** to *, << and >>, & and |, ^ to &
    logic        and and or, not x to x, -x to x, conditions turned round
    constant     n to n + 1, x to 2 x, True and False, texts and bytes framed by XX
    call         min and max, any and all, a keyword argument left out
    statement    return and yield of None, break and continue, anything else left out

Docstrings and annotations are not mutated, nor the -1 of a reshape, for which NumPy takes any
negative number. What changes only a text for people is marked, as
Mutant.is_text: all inside a `raise` (that it raises is mutated), and sentences, which are texts
with a space between two words.
"""
import ast
import re
from dataclasses import dataclass, replace

SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.Div, ast.Pow: ast.Mult, ast.LShift: ast.RShift,
    ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitAnd,
    ast.And: ast.Or, ast.Or: ast.And}
CALLS = {"min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum",
         "maximum": "minimum"}
SWAP_TURNS = (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn)
OPERATIONS = (ast.BinOp, ast.BoolOp, ast.Compare, ast.UnaryOp, ast.IfExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMMON = ("pass", "return None", "yield", "break", "continue")
NOT_CODE = ("annotation", "returns", "ctx")
SENTENCE = re.compile(r"\w[,;:.)]* \(?\w")


@dataclass(frozen=True)
class Mutant:
    """One change of one source."""

    where: str
    """Qualified name of the function or class around it, or "module"."""
    was: str
    now: str
    """The lines that change, before and after, as one line without indentation."""
    source: str
    lines: range | None
    """Lines of the statement around it; None if it runs on import."""
    is_text: bool

    @property
    def key(self):
        """Name in a list of survivors: stays when lines move."""
        return key_of(self.where, self.was, self.now)


def key_of(where, was, now):
    """The line as mutated, or before too where a whole statement gave way to a common one."""
    return f"{where} | {now}" if now not in COMMON else f"{where} | {was} => {now}"


def mutants_of(source):
    """Every mutant of a Python source, in the order of the text; equal ones once."""
    finder = Finder(source)
    finder.walk(ast.parse(source), Place("module"))
    return list({m.source: m for m in finder.found}.values())


@dataclass(frozen=True)
class Place:
    """What is known of where a node stands."""

    where: str
    lines: range | None = None
    bound: tuple = ()
    """Names that the function binds, each as often as it does."""
    anchor: ast.AST | None = None
    """The f-string around it: Python 3.11 does not know positions inside of one."""
    is_text: bool = False


class Finder:
    """Walks a tree; puts each variant of each node in its place and takes it out again."""

    def __init__(self, source):
        self.raw, self.found, self.starts = source.encode(), [], [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def walk(self, parent, place):
        for field, value in ast.iter_fields(parent):
            for i, node in enumerate(value if isinstance(value, list) else [value]):
                if isinstance(node, ast.AST) and field not in NOT_CODE and not _is_docstring(node):
                    self.visit(parent, field, i, node, place)

    def visit(self, parent, field, i, node, place):
        if isinstance(node, ast.stmt):
            place = _place_of_statement(node, parent, field, place)
        elif _is_sentence(node):
            place = replace(place, is_text=True)
        for new in _variants(node, field, place):
            _put(parent, field, i, new)
            self.note(node, new, parent, place)
        _put(parent, field, i, node)
        if not (isinstance(node, ast.UnaryOp) and _called(parent) == "reshape"):
            self.walk(node, _place_inside(node, place))

    def note(self, node, new, parent, place):
        """Keep the mutant whose tree stands now; text outside of the change stays as it is."""
        anchor = place.anchor or node
        text = ast.unparse(place.anchor or new)
        if anchor is node and isinstance(new, OPERATIONS) and isinstance(parent, OPERATIONS):
            text = f"({text})"
        a = self.starts[anchor.lineno - 1] + anchor.col_offset
        b = self.starts[anchor.end_lineno - 1] + anchor.end_col_offset
        first, last = self.starts[anchor.lineno - 1], self.starts[anchor.end_lineno]
        was, now = self.raw[first:last], self.raw[first:a] + text.encode() + self.raw[b:last]
        source = (self.raw[:first] + now + self.raw[last:]).decode()
        self.found.append(Mutant(place.where, _in_one_line(was), _in_one_line(now), source,
                                 place.lines, place.is_text))


def _put(parent, field, i, node):
    if isinstance(getattr(parent, field), list):
        getattr(parent, field)[i] = node
    else:
        setattr(parent, field, node)


def _in_one_line(raw):
    return " ".join(line.strip() for line in raw.decode().splitlines())


def _is_docstring(node):
    return (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str))


# ---------------------------------------------------------------- places

def _place_of_statement(node, parent, field, place):
    """The lines of a statement, without those of the statements in it."""
    if isinstance(parent, FUNCTIONS) and field == "body":
        names = [n.id if isinstance(n, ast.Name) else n.arg for n in ast.walk(parent)
                 if isinstance(n, ast.arg)
                 or isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        place = replace(place, lines=range(0), bound=tuple(names))
    if place.lines is None:
        return place
    body = getattr(node, "body", None)
    end = max(body[0].lineno, node.lineno + 1) if body else node.end_lineno + 1
    return replace(place, lines=range(node.lineno, end))


def _place_inside(node, place):
    if isinstance(node, (ast.ClassDef, *FUNCTIONS)):
        name = node.name if place.where == "module" else f"{place.where}.{node.name}"
        return replace(place, where=name)
    if isinstance(node, ast.Raise):
        return replace(place, is_text=True)
    if isinstance(node, ast.JoinedStr):
        return replace(place, anchor=place.anchor or node)
    return place


def _is_sentence(node):
    """Whether a text, or an f-string without its values, has a space between two words."""
    parts = getattr(node, "values", [node]) if isinstance(node, ast.JoinedStr) else [node]
    text = "".join(part.value if isinstance(part, ast.Constant) and isinstance(part.value, str)
                   else "0" for part in parts)
    return bool(SENTENCE.search(text))


# ---------------------------------------------------------------- variants

def _variants(node, field, place):
    """Nodes to stand where this one stands in a field of its parent."""
    if field in ("test", "ifs") and not _a_swap_turns(node):
        yield ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.stmt):
        yield from _statements(node, place)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            ops = [*node.ops[:i], SWAPS[type(op)](), *node.ops[i + 1:]]
            yield ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        yield ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(SWAPS[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant):
        yield from map(ast.Constant, _other_values(node.value))
    elif isinstance(node, ast.Call):
        yield from _calls(node)


def _a_swap_turns(node):
    """Whether another variant of this condition is its contrary already."""
    return (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
            or isinstance(node, ast.Compare) and len(node.ops) == 1
            and isinstance(node.ops[0], SWAP_TURNS))


def _other_values(value):
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield value + 1
    elif isinstance(value, float):
        yield 2 * value or 1.0
    elif isinstance(value, str):
        yield f"XX{value}XX"
    elif isinstance(value, bytes):
        yield b"XX" + value + b"XX"


def _called(node):
    """Name of the function or method that a node calls, or None."""
    function = getattr(node, "func", None)
    return getattr(function, "id", getattr(function, "attr", None))


def _calls(node):
    name = _called(node)
    if name in CALLS:
        other = (ast.Name(CALLS[name]) if isinstance(node.func, ast.Name)
                 else ast.Attribute(node.func.value, CALLS[name]))
        yield ast.Call(other, node.args, node.keywords)
    for i, keyword in enumerate(node.keywords):
        if keyword.arg and not isinstance(getattr(keyword.value, "value", None), bool):
            yield ast.Call(node.func, node.args, node.keywords[:i] + node.keywords[i + 1:])


def _statements(node, place):
    if isinstance(node, ast.Return):
        if node.value and getattr(node.value, "value", node) is not None:
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, (ast.Break, ast.Continue)):
        yield ast.Continue() if isinstance(node, ast.Break) else ast.Break()
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield):
        if node.value.value:
            yield ast.Expr(ast.Yield())
    elif isinstance(node, ast.AugAssign):
        if type(node.op) in SWAPS:
            yield ast.AugAssign(node.target, SWAPS[type(node.op)](), node.value)
        yield ast.Pass()
    elif isinstance(node, ast.Assign):
        # without its only binding a name is an error, whatever is tested
        names = [n.id for target in node.targets for n in ast.walk(target)
                 if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
        if place.lines is not None and all(place.bound.count(n) > 1 for n in names):
            yield ast.Pass()
    elif isinstance(node, (ast.Expr, ast.Raise, ast.Delete)):
        if not isinstance(getattr(node, "value", None), ast.YieldFrom):
            yield ast.Pass()
