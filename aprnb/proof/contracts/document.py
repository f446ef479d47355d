"""A contract file as a tree of plain values, each with its line.

PyYAML's safe composer reads the text, under caps that hold before anything is built; no YAML
constructor ever runs. Values mean what YAML 1.2 and 1.1 agree on: null, true, false, decimal
numbers, and text. `yes`, 0x1F, 1_000 and dates are text. A plain 1e-4 is a number to the one and
text to the other, so it is kept apart (Ambiguous) and refused wherever it stands.
"""
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

MOST_BYTES = 1 << 18  # a contract has some 10 KB; PyYAML's scanner reads 1 MB a second
MOST_NODES = 10_000
MOST_DEPTH = 32
DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]{0,39})(\.[0-9]{0,39})?(?:[eE][-+]?[0-9]{1,3})?")
SURROGATE = re.compile("[\ud800-\udfff]")  # half a character, written as an escape


class Ambiguous(str):
    """A number to YAML 1.2 and a text to YAML 1.1: an exponent without a point or a sign."""


@dataclass(frozen=True, eq=False)
class Node:
    """A value: dict of Nodes, list of Nodes, str, int, float, bool or None.

    `line` is that of its key in a map, else its own; it counts from 1.
    """

    value: object
    line: int

    def get(self, key):
        """The Node under key; None where there is none, or no value."""
        found = self.value.get(key) if isinstance(self.value, dict) else None
        return found if found is not None and found.value is not None else None

    def line_of(self, key):
        """Where key stands, or where this map does if it lacks the key."""
        found = self.value.get(key)
        return self.line if found is None else found.line

    def text(self, key):
        """The text under key without outer blanks; "" where there is none, None for another type.
        """
        found = self.get(key)
        if found is None:
            return ""
        return found.value.strip() if isinstance(found.value, str) else None

    def list(self, key):
        """The Nodes of the list under key; empty where there is none."""
        found = self.get(key)
        return found.value if found is not None and isinstance(found.value, list) else []

    def maps(self, key):
        """Those Nodes of the list under key that are maps."""
        return [node for node in self.list(key) if isinstance(node.value, dict)]

    def plain(self):
        """The value without lines, as json would load it."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


@dataclass(frozen=True)
class Document:
    """A file that was read: its tree, or None where it cannot be read, and what is wrong so far."""

    path: Path
    root: Node | None
    problems: tuple
    """Of (line, rule, message)."""


class _Refused(Exception):
    """Carries (line, rule, message) out of the composer."""


class _Composer(yaml.SafeLoader):
    """Builds PyYAML's nodes, and stops at the first that is over a cap."""

    def __init__(self, text):
        super().__init__(text)
        self._count = self._depth = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        self._count += 1
        self._refuse(event, event.start_mark.line + 1)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refuse(self, event, line):
        if self._count > MOST_NODES:
            raise _Refused(line, "APRNB-002", f"more than {MOST_NODES:,} keys and values")
        if self._depth >= MOST_DEPTH:
            raise _Refused(line, "APRNB-002", f"nested deeper than {MOST_DEPTH} levels")
        if event.anchor is not None:  # an alias has one too
            raise _Refused(line, "APRNB-003", f"{quoted(event.anchor)} is an anchor or an alias; "
                                              "write the value out")
        if event.tag is not None:
            raise _Refused(line, "APRNB-003", f"{quoted(event.tag)} is a tag; a contract holds "
                                              "text, numbers, lists and maps only")
        if isinstance(event, yaml.ScalarEvent) and SURROGATE.search(event.value):
            raise _Refused(line, "APRNB-001", "half of a surrogate pair is no character")


def quoted(text):
    """What a file says, for a message: in quotes, escaped, cut."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def read_document(path):
    """The Document of a file. Whatever is wrong with its content is in `problems`, never raised.

    Errors: OSError where it cannot be opened.
    """
    with open(path, "rb") as file:
        data = file.read(MOST_BYTES + 1)
    return parse_document(data, path)


def parse_document(data, path):
    """The Document of bytes that stand at `path`."""
    try:
        root, problems = _parse(data)
    except _Refused as refused:
        root, problems = None, [refused.args]
    return Document(Path(path), root, tuple(problems))


def _parse(data):
    if len(data) > MOST_BYTES:
        raise _Refused(1, "APRNB-002", f"larger than {MOST_BYTES >> 10} KB")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _Refused(line, "APRNB-001", f"not UTF-8: {error.reason}") from error
    top, problems = _compose(text), []
    if not isinstance(top, yaml.MappingNode):
        raise _Refused(1, "APRNB-001", "need one map with metadata, equations and so on at the top")
    return _tree(top, 1, problems), problems


def _compose(text):
    composer = None
    try:
        composer = _Composer(text)
        return composer.get_single_node()
    except yaml.reader.ReaderError as error:  # a control character; its position counts characters
        line = text.count("\n", 0, error.position) + 1
        raise _Refused(line, "APRNB-001", f"not YAML: {error.reason}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = "; ".join(filter(None, (error.context, error.problem)))
        raise _Refused(mark.line + 1, "APRNB-001", f"not YAML: {said}") from error
    except (ValueError, OverflowError) as error:  # an escape or a version beyond any number
        raise _Refused(composer.line + 1, "APRNB-001", f"not YAML: {error}") from error


def _tree(source, line, problems):
    """The Node of one of PyYAML's."""
    if isinstance(source, yaml.SequenceNode):
        return Node([_tree(item, item.start_mark.line + 1, problems) for item in source.value],
                    line)
    if isinstance(source, yaml.ScalarNode):
        return Node(_scalar(source), line)
    entries = {}
    for key, value in source.value:
        at = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            problems.append((at, "APRNB-001", "a key must be a word, not a list or a map"))
        elif key.value in entries:
            problems.append((at, "SCHEMA-020", f"{quoted(key.value)} stands here and in line "
                             f"{entries[key.value].line}; one of them would be lost"))
        else:
            entries[key.value] = _tree(value, at, problems)
    return Node(entries, line)


def _scalar(source):
    text, kind = source.value, source.tag.rpartition(":")[2]
    if source.style is not None:  # quoted or a block
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if DECIMAL.fullmatch(text):
        if kind in ("int", "float"):
            return int(text) if kind == "int" else float(text)
        return Ambiguous(text)
    return text
