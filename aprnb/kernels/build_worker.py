"""A process that compiles kernels for another one (workers.py).

Questions, one JSON value a line: the modules to import, then [name, signature, architecture] of
each kernel that is wanted. An answer for each kernel: one JSON line, {"size", "spills"} and so many
bytes of machine code, or {"error", "exit_code"}. Both have pipes of their own.
"""
import importlib
import json
import os
import traceback

from ..errors import AprnbError
from .build import BuildError, build, entry_named


def main(asked, answered):
    """Serve until the questions end. The arguments are descriptors of the two pipes."""
    questions, answers = os.fdopen(asked, "rb"), os.fdopen(answered, "wb")
    try:
        for module in json.loads(questions.readline() or b"[]"):
            importlib.import_module(module)
        for line in questions:
            answer, code = _answer(*json.loads(line))
            answers.write(json.dumps(answer).encode() + b"\n" + code)
            answers.flush()
    except BrokenPipeError:
        os._exit(1)  # the parent is gone: nobody wants the rest


def _answer(name, signature, architecture):
    try:
        cubin = build(entry_named(name), signature, architecture)
        return {"size": len(cubin.code), "spills": cubin.spills}, cubin.code
    except AprnbError as error:
        return {"error": str(error), "exit_code": error.exit_code}, b""
    except Exception:
        text = f"{name} for {architecture}: could not be compiled\n{traceback.format_exc()}"
        return {"error": text, "exit_code": BuildError.exit_code}, b""
