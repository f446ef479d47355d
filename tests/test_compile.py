"""Every kernel, for every type it is used with, to machine code: no GPU and no driver needed.

Kernel -> LTO-IR (numba-cuda) -> linked with -lto by nvJitLink, once to a cubin with a report of
registers and spills, once to PTX, which is read for double-precision instructions. A missing
compiler fails: the `test` extra brings it.
"""
import importlib
import os
import pkgutil
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

pytestmark = pytest.mark.ptx
ARCHITECTURES = {"sm_80": (8, 0), "sm_90a": (9, 0, "a")}
SHARED_LIMIT = 48 * 1024  # bytes a block may declare without asking the driver for more


def catalogue():
    import aprnb.kernels
    for info in pkgutil.iter_modules(aprnb.kernels.__path__):
        importlib.import_module(f"aprnb.kernels.{info.name}")
    from aprnb.kernels.cuda import catalogue as entries
    return entries


def compile_one(case):
    """(report, PTX) of catalogue entry number `index`; runs in a worker process."""
    from aprnb.kernels.cuda import compile_to_ltoir
    index, signature, architecture = case
    code = compile_to_ltoir(catalogue()[index], signature, ARCHITECTURES[architecture])
    return link(code, architecture, "-verbose"), link(code, architecture, "-ptx")


def link(code, architecture, option):
    """nvJitLink's report, or with -ptx the linked PTX, of one LTO-IR module."""
    from cuda.bindings import nvjitlink
    options = [f"-arch={architecture}", "-lto", option]
    handle = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.LTOIR, code, len(code), "kernel")
        nvjitlink.complete(handle)
        if option == "-ptx":
            text = bytearray(nvjitlink.get_linked_ptx_size(handle))
            nvjitlink.get_linked_ptx(handle, text)
        else:
            assert nvjitlink.get_linked_cubin_size(handle) > 0
            text = bytearray(nvjitlink.get_info_log_size(handle))
            nvjitlink.get_info_log(handle, text)
        return text.decode()
    finally:
        nvjitlink.destroy(handle)


def cases():
    """Every (number, signature, architecture) of the catalogue, by a readable name."""
    return {f"{entry.name}-{architecture}-{signature.replace(' ', '_')}":
            (index, signature, architecture)
            for index, entry in enumerate(catalogue()) for signature in entry.signatures
            for architecture in ARCHITECTURES}


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
    with ProcessPoolExecutor(max(2, os.cpu_count() or 1), get_context("spawn")) as pool:
        yield {case: pool.submit(compile_one, case) for case in wanted}


def test_kernel(case, compiled):
    entry = catalogue()[case[0]]
    report, ptx = compiled[case].result()
    registers = int(re.search(r"Used (\d+) registers", report)[1])
    stack, stored, loaded = map(int, re.search(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads",
        report).groups())
    shared = re.search(r"(\d+) bytes smem", report)
    assert ".f64" not in ptx, "double-precision arithmetic: a literal without float32(...)?"
    assert (stack, stored, loaded) == (0, 0, 0), f"spills: {report}"
    assert registers <= entry.registers, f"{registers} registers, budget {entry.registers}"
    assert shared is None or int(shared[1]) <= SHARED_LIMIT


def test_no_kernel_bypasses_the_catalogue():
    """Only kernels/cuda.py calls the compiler, and what it compiles it enters under one name."""
    import aprnb.kernels
    names = [entry.name for entry in catalogue()]
    assert len(names) == len(set(names))
    for file in Path(aprnb.kernels.__path__[0]).glob("*.py"):
        assert file.name == "cuda.py" or "cuda.jit" not in file.read_text(), file
