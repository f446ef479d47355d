"""The disk cache of compiled kernels: found again, damaged, unwritable, another user's,
invalidated by an edit."""
import json
import os
import shutil
import time
import warnings
from dataclasses import replace
from hashlib import sha256

import pytest

from aprnb.kernels.cuda import SIMULATOR

pytestmark = [pytest.mark.skipif(SIMULATOR, reason="this process simulates CUDA"), pytest.mark.ptx]


@pytest.fixture
def disk(tmp_path, monkeypatch):
    from aprnb.kernels import cache
    monkeypatch.setenv("APRNB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("APRNB_KERNELS", raising=False)
    monkeypatch.setattr(cache, "unkept", {})
    monkeypatch.setattr(cache, "_said", set())
    return cache


@pytest.fixture
def entry():
    from aprnb.kernels.convert import convert_kernel
    return convert_kernel.entry


@pytest.fixture(scope="module")
def cubin():
    """Real machine code: only that is believed."""
    from aprnb.kernels.build import build
    from aprnb.kernels.convert import convert_kernel
    return build(convert_kernel.entry, "f1 h1", "sm_90a")


@pytest.fixture
def stored(disk, entry, cubin):
    """The file of that kernel in the cache."""
    assert disk.store(entry, "f1 h1", "sm_90a", cubin)
    file, = disk.own_folder().iterdir()
    return file


def test_what_was_stored_is_found(disk, entry, cubin):
    assert disk.load(entry, "f1 h1", "sm_90a") is None
    assert disk.store(entry, "f1 h1", "sm_90a", cubin)
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin
    assert disk.load(entry, "h1 f1", "sm_90a") is None
    assert disk.load(entry, "f1 h1", "sm_80") is None


def test_what_is_written_is_this_users_alone(disk, stored, tmp_path):
    """Whatever the umask is: folders of the cache 0700, files not for others to write."""
    before = os.umask(0)
    try:
        shutil.rmtree(tmp_path / "cache")
        disk.make_folder()
    finally:
        os.umask(before)
    modes = [p.stat().st_mode & 0o777 for p in (tmp_path / "cache", disk.own_folder())]
    assert modes == [0o700, 0o700]


def test_a_damaged_file_counts_as_absent(disk, entry, cubin, stored):
    file, whole = stored, stored.read_bytes()
    head, code = json.loads(whole.partition(b"\n")[0]), b"no ELF file"
    sound = json.dumps(head | {"sha256": sha256(code).hexdigest()}).encode()
    for damaged in (b"", whole[:-1], whole[:40], whole[:-1] + b"x", b"[]\n" + whole,
                    b"[" * 100_000 + b"\n", json.dumps(head | {"spills": "0"}).encode()
                    + b"\n" + cubin.code, sound + b"\n" + code):
        file.write_bytes(damaged)
        assert disk.load(entry, "f1 h1", "sm_90a") is None
    file.write_bytes(whole)
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin


def said(call):
    """(result, texts of the warnings) of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return result, [str(warning.message) for warning in caught]


def test_a_cache_that_cannot_be_written_is_no_error(disk, entry, cubin, tmp_path):
    """Said once, not for every kernel; what was compiled serves this process."""
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.warns(UserWarning, match="every start compiles them anew.*APRNB_CACHE"):
        assert not disk.store(entry, "f1 h1", "sm_90a", cubin)
    assert said(lambda: disk.store(entry, "h1 f1", "sm_90a", cubin)) == (False, [])
    assert disk.load(entry, "f1 h1", "sm_90a") is cubin
    assert len(disk.unkept) == 2 and (tmp_path / "cache").is_file()


@pytest.fixture
def give_away(monkeypatch):
    """Make a file or folder another user's, as far as this one can tell."""
    def give(path):
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
        else:
            other = os.geteuid() + 1
            monkeypatch.setattr(os, "geteuid", lambda: other)
    return give


@pytest.mark.parametrize("mode", [None, 0o020, 0o002], ids=["owner", "group", "others"])
@pytest.mark.parametrize("part", ["file", "folder", "root"])
def test_what_others_wrote_is_not_believed(disk, entry, stored, tmp_path, give_away, part, mode):
    """Machine code of another user would run on the GPU. Said once, with the way out."""
    path = {"file": stored, "folder": stored.parent, "root": tmp_path / "cache"}[part]
    if mode:
        path.chmod(path.stat().st_mode | mode)
    else:
        give_away(path)
    found, texts = said(lambda: [disk.load(entry, "f1 h1", "sm_90a") for _ in range(3)])
    assert found == [None] * 3 and len(texts) == 1
    for word in ([f"{path} can be written by other users", "chmod -R go-w"] if mode else
                 ["belongs to user", "set APRNB_CACHE"]):
        assert word in texts[0]


@pytest.mark.parametrize("part", ["file", "folder", "root"])
def test_a_file_of_others_is_replaced_and_a_folder_left_alone(disk, entry, cubin, stored, tmp_path,
                                                              part):
    path = {"file": stored, "folder": stored.parent, "root": tmp_path / "cache"}[part]
    path.chmod(path.stat().st_mode | 0o002)
    before = stored.stat().st_mtime_ns
    (kept, found), texts = said(lambda: (disk.store(entry, "f1 h1", "sm_90a", cubin),
                                         disk.load(entry, "f1 h1", "sm_90a")))
    assert found == cubin and kept is (part == "file") and len(texts) == (part != "file")
    assert (stored.stat().st_mtime_ns != before) is kept


def test_a_folder_like_tmp_may_hold_the_cache(disk, entry, cubin, stored, tmp_path):
    """Nobody can rename or replace what is in a sticky folder and not his."""
    (tmp_path / "cache").chmod(0o1777)
    assert said(lambda: disk.load(entry, "f1 h1", "sm_90a")) == (cubin, [])


def test_files_of_killed_processes_are_removed(disk, entry, cubin, stored):
    old, new = (stored.with_name(f".{stored.name}.{i}.tmp") for i in "ab")
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * disk.ABANDONED,) * 2)
    disk.store(entry, "h1 f1", "sm_90a", cubin)
    assert not old.exists() and new.exists()  # somebody may be writing that one


def test_kernels_built_elsewhere_are_read_whatever_tools_built_them(disk, entry, cubin, tmp_path,
                                                                    monkeypatch, give_away):
    disk.store(entry, "f1 h1", "sm_90a", cubin)
    shutil.copytree(disk.own_folder(), tmp_path / "carried")
    shutil.rmtree(tmp_path / "cache")
    assert disk.load(entry, "f1 h1", "sm_90a") is None
    monkeypatch.setenv("APRNB_KERNELS", str(tmp_path / "carried"))
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin
    give_away(tmp_path / "carried")  # whoever built them: the user has named the folder
    assert said(lambda: disk.load(entry, "f1 h1", "sm_90a")) == (cubin, [])
    (tmp_path / "carried").chmod(0o777)
    found, texts = said(lambda: disk.load(entry, "f1 h1", "sm_90a"))
    assert found is None and len(texts) == 1 and "chmod -R o-w" in texts[0]


def test_a_named_folder_that_is_not_there_is_said(disk, entry, tmp_path, monkeypatch):
    monkeypatch.setenv("APRNB_KERNELS", str(tmp_path / "mistyped"))
    found, texts = said(lambda: [disk.load(entry, "f1 h1", "sm_90a") for _ in range(2)])
    assert found == [None] * 2 and len(texts) == 1 and "mistyped" in texts[0]


def test_an_edit_of_an_imported_file_changes_the_key(disk, tmp_path, monkeypatch):
    home = tmp_path / "aprnb/kernels"
    shutil.copytree(disk.HOME, home)
    monkeypatch.setattr(disk, "HOME", home)
    monkeypatch.setattr(disk, "HOST_SIDE", {home / file.name for file in disk.HOST_SIDE})

    def key(module="aprnb.kernels.swiglu"):
        disk.source_digest.cache_clear()
        disk._imported.cache_clear()
        return disk.source_digest(module)
    before = key()
    for name, same in (("swiglu", False), ("cast", False), ("block", False), ("rope", True),
                       ("build", False), ("cubin", False), ("workers", True)):
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


def test_a_built_kernel_comes_back_from_the_disk(disk, entry):
    from aprnb.kernels.launch import prepare
    wanted = {(entry.name, "f1 h1"), (entry.name, "h1 f1")}
    assert prepare(wanted, "sm_80") == 2
    assert prepare(wanted, "sm_80") == 0
    found = disk.load(entry, "f1 h1", "sm_80")
    assert found.code[:4] == b"\x7fELF" and entry.function.__name__ in found.symbol
