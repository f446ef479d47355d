"""From a catalogue entry to machine code: LTO-IR, linked by nvJitLink for one architecture.

Only LTO-IR keeps what the tensor-core kernels need: PTX through the linker loses the register
hand-over between warpgroups and serialises wgmma, without an error. Such a report is refused here,
and so is a linker that reports nothing. No GPU and no driver is needed.
"""
import importlib
import pkgutil
import re

from ..errors import AprnbError, MissingPackageError
from .cubin import CubinError, read_cubin
from .cuda import catalogue, compile_to_ltoir

UNCACHED = "-no-cache"
"""Beside a driver nvJitLink keeps a cache of its own (~/.nv/ComputeCache), and what it takes from
there it does not report on. It knows this option from 12.5 on."""
SERIALISED = re.compile(r"\bC75(0[4-9]|1[0-5])\b")  # setmaxnreg ignored, wgmma serialised


class BuildError(AprnbError):
    """A kernel could not be compiled, or not into the code that was meant."""


def build(entry, signature, architecture):
    """Compile and link one kernel.

    Errors: BuildError with the linker's report; MissingPackageError without a compiler.
    """
    from cuda.pathfinder import DynamicLibNotFoundError
    try:
        ltoir = compile_to_ltoir(entry, signature, architecture)
        code, report = link(ltoir, architecture, entry.name)
    except DynamicLibNotFoundError as error:
        raise MissingPackageError(
            f"the CUDA compiler that builds kernels is missing ({str(error).split(': ')[0]}); "
            "try `pip install 'aprnb[cu12]'` or cu13, whichever the driver is of, or point "
            "APRNB_KERNELS at a folder of built kernels") from error
    return judge(code, report, f"{entry.name} for {architecture}")


def judge(code, report, name):
    """The Cubin of linked code, if the linker's report on it has nothing against it.

    Errors: BuildError.
    """
    try:
        cubin = read_cubin(code, _spills(report))
    except CubinError as error:
        raise BuildError(f"{name}: the linker made {error}") from error
    silent = f"Compiling entry function '{cubin.symbol}'" not in report
    if silent or cubin.stack and "bytes spill stores" not in report:
        raise BuildError(
            f"{name}: the linker reports nothing on this kernel, so that nobody knows if it gave "
            "up what makes it fast; it took it from a cache of its own: set CUDA_CACHE_DISABLE=1, "
            f"or install nvJitLink 12.5 or newer\n{report}")
    if SERIALISED.search(report):
        raise BuildError(f"{name}: {SERIALISED.search(report)[0]}: the linker gave up what makes "
                         f"this kernel fast\n{report}")
    return cubin


def link(ltoir, architecture, name, *options, ptx=False):
    """(cubin or PTX, report) of one LTO-IR module.  Errors: BuildError with the linker's log."""
    from cuda.bindings import nvjitlink
    try:
        handle = _linker(nvjitlink, [f"-arch={architecture}", "-lto",
                                     "-ptx" if ptx else "-verbose", *options])
    except nvjitlink.nvJitLinkError as error:
        raise BuildError(f"{name} for {architecture}: {error}") from error
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


def entry_named(name):
    """The catalogue entry of that name; its file must have been imported."""
    return next(e for e in catalogue if e.name == name)


def import_all():
    """Import every kernel file, so that the catalogue is complete."""
    package = importlib.import_module(__package__)
    for info in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(info.name)


def _linker(nvjitlink, options):
    """A handle with these options and without a cache."""
    options = [*options, UNCACHED]
    try:
        return nvjitlink.create(len(options), options)
    except nvjitlink.nvJitLinkError as error:
        if error.status != nvjitlink.Result.ERROR_UNRECOGNIZED_OPTION:
            raise
    return nvjitlink.create(len(options) - 1, options[:-1])  # if another is unknown, this says so


def _info_log(nvjitlink, handle):
    log = bytearray(nvjitlink.get_info_log_size(handle))
    nvjitlink.get_info_log(handle, log)
    return log.decode(errors="replace")


def _spills(report):
    """Bytes of spill stores and loads of all functions that the report lists."""
    return sum(map(int, re.findall(r"(\d+) bytes spill (?:stores|loads)", report)))
