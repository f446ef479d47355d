"""Every kernel, for every type it is used with, to machine code: no GPU and no driver needed.

Kernel -> LTO-IR (numba-cuda) -> linked with -lto by nvJitLink, once to a cubin with a report of
registers and spills, once to PTX, which is read for double-precision instructions. Where products
are meant, the machine code must hold them, with no local memory in the loop around them. A missing
compiler or disassembler fails: the `test` extra brings both.
"""
import inspect
import os
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path

import pytest
from processes import LIMIT

from sass import instructions, loops

pytestmark = pytest.mark.ptx
SHARED_LIMIT = 48 * 1024  # bytes a block may declare without asking the driver for more
SHARED_ANYWHERE = 99 * 1024  # bytes a block can have on every GPU from 8.0 on: consumers' cards
ASKS_FIRST = {"sm80_embedding_places_kernel"}  # its misfit asks the device whether it has enough


def catalogue():
    from aprnb.kernels.build import import_all
    from aprnb.kernels.cuda import catalogue as entries
    import_all()
    return entries


def compile_one(case):
    """(Cubin, report, PTX, instructions of every loop around a product) of one catalogue entry;
    runs in a worker process."""
    from aprnb.kernels.build import entry_named, import_all, judge, link
    from aprnb.kernels.cuda import compile_to_ltoir
    name, signature, architecture = case
    import_all()
    entry = entry_named(name)
    code = compile_to_ltoir(entry, signature, architecture)
    linked, report = link(code, architecture, name)
    cubin, product = judge(linked, report, name), product_instruction(entry)
    return (cubin, report, link(code, architecture, name, ptx=True)[0],
            loops(instructions(cubin.code), product) if product else [])


def cases():
    """Every (name, signature, architecture) of the catalogue, by a readable name."""
    return {f"{entry.name}-{architecture}-{signature.replace(' ', '_')}":
            (entry.name, signature, architecture)
            for entry in catalogue() for signature in entry.signatures
            for architecture in entry.architectures}


def pytest_generate_tests(metafunc):
    if "case" in metafunc.fixturenames:
        known = {} if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1" else cases()
        metafunc.parametrize("case", list(known.values()), ids=list(known))


@pytest.fixture(scope="module")
def compiled(request):
    """Case -> future, of the cases that this run selected; compiled on all cores."""
    wanted = [item.callspec.params["case"] for item in request.session.items
              if item.module is request.module and "case" in getattr(item, "fixturenames", ())]
    # spawned, not forked: the compiler's threads do not survive a fork
    pool = ProcessPoolExecutor(max(2, os.cpu_count() or 1), get_context("spawn"))
    try:
        yield {case: pool.submit(compile_one, case) for case in wanted}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for worker in active_children():  # one that hangs too
            worker.kill()


def test_kernel(case, compiled):
    from aprnb.kernels.build import entry_named
    entry = entry_named(case[0])
    cubin, report, ptx, inner = compiled[case].result(LIMIT)
    assert facts(cubin) == reported(report), "the code says something else than the linker"
    assert b".f64" not in ptx, "double-precision arithmetic: a literal without float32(...)?"
    assert max(cubin.stack, cubin.spills) <= entry.spills, (
        f"{cubin.stack} bytes of stack, {cubin.spills} of spills, allowed {entry.spills}")
    assert cubin.registers <= entry.registers, (
        f"{cubin.registers} registers, budget {entry.registers}")
    assert cubin.shared <= SHARED_LIMIT
    if "sm_80" in entry.architectures and entry.name not in ASKS_FIRST:
        assert cubin.shared + entry.shared <= SHARED_ANYWHERE
    product = product_instruction(entry)
    assert inner or not product, f"no {product} in the code"
    for loop in inner:
        local = [line for line in loop if re.search(r"\b(LDL|STL)\b", line)]
        assert not local, f"local memory between the products: {local[:3]}"


def facts(cubin):
    """What was read from the code."""
    return {what: getattr(cubin, what) for what in ("symbol", "registers", "stack", "shared")}


def reported(report):
    """The same in the linker's words; it leaves out shared memory where there is none."""
    def number(pattern):
        return int(re.search(pattern, report)[1])
    return {"symbol": re.search(r"Compiling entry function '([^']+)'", report)[1],
            "registers": number(r"Used (\d+) registers"),
            "stack": number(r"(\d+) bytes stack frame"),
            "shared": number(r"(\d+) bytes smem") if "bytes smem" in report else 0}


def product_instruction(entry):
    """The tensor-core instruction that a kernel's file asks for, or None."""
    source = Path(inspect.getsourcefile(entry.function)).read_text()
    if "make_product" not in source:
        return None
    return r"\bHGMMA\b" if "ptx.wgmma" in source else r"\bHMMA\b"


def test_no_kernel_bypasses_the_catalogue():
    """Only kernels/cuda.py calls the compiler, and what it compiles it enters under one name."""
    import aprnb.kernels
    names = [entry.name for entry in catalogue()]
    assert len(names) == len(set(names))
    for file in Path(aprnb.kernels.__path__[0]).rglob("*.py"):
        assert file.name == "cuda.py" or "cuda.jit" not in file.read_text(), file
