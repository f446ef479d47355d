"""Reading machine code: which instructions stand in the innermost loop around the products.

The disassembler comes with the `test` extra (nvidia-cuda-nvdisasm).
"""
import re
import tempfile
from importlib.metadata import files

import processes

LINE = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?);")
LABEL = re.compile(r"^(\.L_x_\d+):")
JUMP = re.compile(r"BRA\w*(?:\.\w+)* .*?`\((\.L_x_\d+)\)")


def instructions(code):
    """[instruction] of one cubin, with [label] lines of their own, in order of address."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        text = processes.run([_disassembler(), file.name], check=True).stdout
    out = []
    for line in text.splitlines():
        found = LINE.match(line) or LABEL.match(line)
        if found:
            out.append(found[2] if LINE.match(line) else found[1])
    return out


def loops(lines, around):
    """Every innermost loop, as its list of instructions, that holds one matching `around`."""
    at = {line: i for i, line in enumerate(lines) if line.startswith(".L_x_")}
    spans = []
    for i, line in enumerate(lines):
        jump = JUMP.search(line)
        if jump and at.get(jump[1], i) < i:
            span = range(at[jump[1]], i + 1)
            if any(re.search(around, lines[j]) for j in span):
                spans.append(span)
    inner = []
    for span in sorted(spans, key=len):  # an outer loop may begin in the middle of an inner one
        if not any(span.start < o.stop and o.start < span.stop for o in inner):
            inner.append(span)
    return [[lines[j] for j in span] for span in inner]


def _disassembler():
    for file in files("nvidia-cuda-nvdisasm"):
        if file.name == "nvdisasm":
            return str(file.locate())
    raise FileNotFoundError("nvdisasm: install the test extra")
