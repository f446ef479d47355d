"""From a catalogue entry to machine code: LTO-IR, linked by nvJitLink for one architecture.

Only LTO-IR keeps what the tensor-core kernels need: PTX through the linker loses the register
hand-over between warpgroups and serialises wgmma, without an error. Such a report is refused here.
No GPU and no driver is needed.
"""
import importlib
import pkgutil
import re
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from ..errors import AprnbError, MissingPackageError
from .cuda import catalogue, compile_to_ltoir

SERIALISED = re.compile(r"\bC75(0[4-9]|1[0-5])\b")  # setmaxnreg ignored, wgmma serialised


class BuildError(AprnbError):
    """A kernel could not be compiled, or not into the code that was meant."""


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel for one architecture, and the linker's report on it."""

    code: bytes
    symbol: str
    """The kernel's name in the code."""
    registers: int
    stack: int
    """Bytes of local memory a thread has."""
    spills: int
    """Bytes of spill stores and loads, as counted in the code."""
    shared: int
    """Bytes of static shared memory."""


def build(entry, signature, architecture):
    """Compile and link one kernel.

    Errors: BuildError with the linker's report; MissingPackageError without a compiler.
    """
    from cuda.pathfinder import DynamicLibNotFoundError
    try:
        return assemble(entry, compile_to_ltoir(entry, signature, architecture), architecture)
    except DynamicLibNotFoundError as error:
        raise MissingPackageError(
            f"the CUDA compiler that builds kernels is missing ({str(error).split(': ')[0]}); "
            "try `pip install 'aprnb[cu12]'` or cu13, whichever the driver is of, or point "
            "APRNB_KERNELS at a folder of built kernels") from error


def assemble(entry, ltoir, architecture):
    """The Cubin of a kernel's LTO-IR.  Errors: BuildError, also for code that is not what was
    meant."""
    code, report = link(ltoir, architecture, entry.name)
    if SERIALISED.search(report):
        raise BuildError(f"{entry.name} for {architecture}: {SERIALISED.search(report)[0]}: the "
                         f"linker gave up what makes this kernel fast\n{report}")
    stores, loads = (_reported(rf"(\d+) bytes spill {way}", report) for way in ("stores", "loads"))
    return Cubin(code, _symbol(report, entry.name), _reported(r"Used (\d+) registers", report),
                 _reported(r"(\d+) bytes stack frame", report), stores + loads,
                 _reported(r"(\d+) bytes smem", report))


def link(ltoir, architecture, name, *options, ptx=False):
    """(cubin or PTX, report) of one LTO-IR module.  Errors: BuildError with the linker's log."""
    from cuda.bindings import nvjitlink
    options = [f"-arch={architecture}", "-lto", "-ptx" if ptx else "-verbose", *options]
    handle = nvjitlink.create(len(options), options)
    try:
        nvjitlink.add_data(handle, nvjitlink.InputType.LTOIR, ltoir, len(ltoir), name)
        nvjitlink.complete(handle)
        size, fetch = ((nvjitlink.get_linked_ptx_size, nvjitlink.get_linked_ptx) if ptx else
                       (nvjitlink.get_linked_cubin_size, nvjitlink.get_linked_cubin))
        code = bytearray(size(handle))
        fetch(handle, code)
        return bytes(code), _info_log(nvjitlink, handle)
    except nvjitlink.nvJitLinkError as error:
        log = bytearray(nvjitlink.get_error_log_size(handle))
        nvjitlink.get_error_log(handle, log)
        raise BuildError(f"{name} for {architecture}: {error}: {log.decode()}") from error
    finally:
        nvjitlink.destroy(handle)


def build_many(wanted, workers):
    """[(name, signature, architecture)] -> iterator of (that key, Cubin), on all cores."""
    wanted = list(wanted)
    if len(wanted) == 1:
        yield wanted[0], _build_named(wanted[0])
    elif wanted:
        # spawned, not forked: a driver context and the compiler's threads do not survive a fork
        known = [m for m in sys.modules if m.startswith(__package__ + ".")]
        with ProcessPoolExecutor(min(workers, len(wanted)), get_context("spawn"), import_these,
                                 (known,)) as pool:
            yield from zip(wanted, pool.map(_build_named, wanted))


def entry_named(name):
    """The catalogue entry of that name; its file must have been imported."""
    return next(e for e in catalogue if e.name == name)


def import_these(modules):
    for module in modules:
        importlib.import_module(module)


def import_all():
    """Import every kernel file, so that the catalogue is complete."""
    package = importlib.import_module(__package__)
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)


def _build_named(key):
    name, signature, architecture = key
    return build(entry_named(name), signature, architecture)


def _info_log(nvjitlink, handle):
    log = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, log)
    return log.decode(errors="replace")


def _reported(pattern, report):
    """A number of the report; newer linkers leave out what is zero."""
    found = re.search(pattern, report)
    return int(found[1]) if found else 0


def _symbol(report, name):
    found = re.search(r"Compiling entry function '([^']+)'", report)
    if not found:
        raise BuildError(f"{name}: the linker's report names no kernel\n{report}")
    return found[1]
