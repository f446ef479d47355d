"""What is read from machine code; the facts themselves are compared in test_compile.py."""
import random
import struct
from functools import cache

import pytest

pytestmark = pytest.mark.ptx
SEED = 5


@cache
def built(architecture):
    """(code, report) of a kernel with shared memory."""
    from aprnb.kernels.build import link
    from aprnb.kernels.cuda import compile_to_ltoir
    from aprnb.kernels.reduce import column_sum_kernel
    entry = column_sum_kernel.entry
    code = compile_to_ltoir(entry, entry.signatures[0], architecture)
    return link(code, architecture, entry.name)


def refusal(code):
    """Why bytes are no kernel, or None; anything but a CubinError is a fault."""
    from aprnb.kernels.cubin import CubinError, read_cubin
    try:
        read_cubin(bytes(code), 0)
    except Exception as error:
        assert type(error) is CubinError, error
        return str(error)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_any_damage_is_one_named_error(architecture):
    """Bytes cut off and changed, in header, section table and everywhere."""
    code, _ = built(architecture)
    assert refusal(code) is None
    table = struct.unpack_from("<Q", code, 40)[0]
    drawn, refused = random.Random(SEED), 0
    for first, count in ((0, 64), (table, len(code) - table), (0, len(code))):
        for _ in range(400):
            damaged = bytearray(code)
            for _ in range(3):
                damaged[first + drawn.randrange(count)] = drawn.randrange(256)
            refused += refusal(damaged) is not None
    for length in range(0, len(code), 97):
        assert refusal(code[:length])
    assert refused > 400


def test_what_is_no_kernel_is_named():
    code, _ = built("sm_80")
    host = bytearray(code)
    struct.pack_into("<H", host, 18, 62)  # x86-64
    for foreign, word in ((b"", "no machine code"), (b"\x7fELF", "no machine code"),
                          (b"MZ" + code[2:], "no ELF file"), (host, "machine 62"),
                          (code.replace(b".text.", b".TEXT."), "0 kernels"),
                          (code.replace(b".nv.info\0", b".nv.inf0\0"), "no .nv.info"),
                          (code.replace(b".symtab", b".SYMTAB"), "no symbols")):
        assert word in refusal(foreign), foreign[:8]


def test_a_second_kernel_is_refused():
    code, _ = built("sm_80")
    assert "2 kernels" in refusal(code.replace(b".nv.callgraph\0", b".text.another\0"))


def test_a_report_that_does_not_name_the_kernel_is_no_clean_one():
    """A linker that takes code from its own cache reports nothing, or a remainder."""
    from aprnb.kernels.build import BuildError, judge
    code, report = built("sm_90a")
    assert judge(code, report, "kernel").shared == 1024
    for silent in ("", "\0", "info    : 16 bytes gmem\n", report.replace("column_sum", "others")):
        with pytest.raises(BuildError, match="reports nothing.*CUDA_CACHE_DISABLE=1"):
            judge(code, silent, "kernel")
    with pytest.raises(BuildError, match="C7508"):
        judge(code, report + "ptxas info : (C7508) Potential Performance Loss", "kernel")


def test_the_linker_is_told_to_cache_nothing(monkeypatch):
    """One that does not know the option links without it; another unknown option is an error."""
    from cuda.bindings import nvjitlink

    from aprnb.kernels.build import _linker
    asked, create = [], nvjitlink.create
    monkeypatch.setattr(nvjitlink, "create", lambda n, options: asked.append(options)
                        or create(n, [o.replace("-no-cache", "-not-known") for o in options]))
    try:
        nvjitlink.destroy(_linker(nvjitlink, ["-arch=sm_80", "-lto"]))
    except nvjitlink.nvJitLinkError as error:
        pytest.fail(f"an older linker cannot be used: {error}")
    assert asked == [["-arch=sm_80", "-lto", "-no-cache"], ["-arch=sm_80", "-lto"]]
    with pytest.raises(nvjitlink.nvJitLinkError, match="UNRECOGNIZED"):
        _linker(nvjitlink, ["-arch=sm_80", "-nonsense"])
    asked.clear()
    monkeypatch.setattr(nvjitlink, "create", lambda n, options: asked.append(options)
                        or create(n, options))
    nvjitlink.destroy(_linker(nvjitlink, ["-arch=sm_80", "-lto"]))
    assert asked == [["-arch=sm_80", "-lto", "-no-cache"]]


