"""The disk cache of compiled kernels: found again, damaged, unwritable, invalidated by an edit."""
import shutil
from dataclasses import replace

import pytest

from aprnb.kernels.cuda import SIMULATOR

pytestmark = pytest.mark.skipif(SIMULATOR, reason="this process simulates CUDA")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    from aprnb.kernels import cache
    monkeypatch.setenv("APRNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("APRNB_KERNELS", raising=False)
    return cache


@pytest.fixture
def entry():
    from aprnb.kernels.convert import convert_kernel
    return convert_kernel.entry


@pytest.fixture
def cubin():
    from aprnb.kernels.build import Cubin
    return Cubin(b"\x7fELF machine\ncode", "symbol", 32, 0, 0, 0)


def test_what_was_stored_is_found(disk, entry, cubin):
    assert disk.load(entry, "f1 h1", "sm_90a") is None
    assert disk.store(entry, "f1 h1", "sm_90a", cubin)
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin
    assert disk.load(entry, "h1 f1", "sm_90a") is None
    assert disk.load(entry, "f1 h1", "sm_80") is None


def test_a_damaged_file_counts_as_absent(disk, entry, cubin):
    disk.store(entry, "f1 h1", "sm_90a", cubin)
    file, = disk.own_folder().iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:-1], whole[:40], whole[:-1] + b"x", b"[]\n" + whole):
        file.write_bytes(damaged)
        assert disk.load(entry, "f1 h1", "sm_90a") is None
    file.write_bytes(whole)
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin


def test_a_cache_that_cannot_be_written_is_no_error(disk, entry, cubin, tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="every start compiles them anew.*APRNB_CACHE"):
        assert not disk.store(entry, "f1 h1", "sm_90a", cubin)
    assert disk.load(entry, "f1 h1", "sm_90a") is None


def test_kernels_built_elsewhere_are_read_whatever_tools_built_them(disk, entry, cubin, tmp_path,
                                                                    monkeypatch):
    disk.store(entry, "f1 h1", "sm_90a", cubin)
    shutil.copytree(disk.own_folder(), tmp_path / "carried")
    shutil.rmtree(tmp_path / "cache")
    assert disk.load(entry, "f1 h1", "sm_90a") is None
    monkeypatch.setenv("APRNB_KERNELS", str(tmp_path / "carried"))
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin


def test_an_edit_of_an_imported_file_changes_the_key(disk, tmp_path, monkeypatch):
    home = tmp_path / "aprnb/kernels"
    shutil.copytree(disk.HOME, home)
    monkeypatch.setattr(disk, "HOME", home)

    def key(module="aprnb.kernels.swiglu"):
        disk.source_digest.cache_clear()
        disk._imported.cache_clear()
        return disk.source_digest(module)
    before = key()
    for name, same in (("swiglu", False), ("cast", False), ("block", False), ("rope", True),
                       ("build", False)):
        file = home / f"{name}.py"
        text = file.read_text()
        file.write_text(text + "\n# edited\n")
        assert (key() == before) is same, name
        file.write_text(text)
    assert key() == before
    disk.source_digest.cache_clear()
    disk._imported.cache_clear()


def test_launch_bounds_and_the_linker_are_part_of_the_key(disk, entry, monkeypatch):
    """They change the machine code, and stand in none of the files that a kernel imports."""
    name = disk._file_name(entry, "f1 h1", "sm_90a")
    assert disk._file_name(replace(entry, launch_bounds=(256, 7)), "f1 h1", "sm_90a") != name
    folders = set()
    for linker in ("12.9.86", "12.9.90"):
        disk._tools.cache_clear()
        known = {"nvidia-nvjitlink-cu12": linker}
        monkeypatch.setattr(disk, "version", lambda tool: known.get(tool, "1.0"))
        folders.add(disk.own_folder())
    disk._tools.cache_clear()
    assert len(folders) == 2


@pytest.mark.ptx
def test_a_built_kernel_comes_back_from_the_disk(disk, entry):
    from aprnb.kernels.launch import prepare
    wanted = {(entry.name, "f1 h1"), (entry.name, "h1 f1")}
    assert prepare(wanted, "sm_80") == 2
    assert prepare(wanted, "sm_80") == 0
    found = disk.load(entry, "f1 h1", "sm_80")
    assert found.code[:4] == b"\x7fELF" and entry.function.__name__ in found.symbol
