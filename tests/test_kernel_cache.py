"""The disk cache of compiled kernels: found again, damaged, unwritable, another user's,
invalidated by an edit."""
import json
import os
import pwd
import shutil
import socket
import time
import warnings
from contextlib import chdir
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


@pytest.mark.parametrize("part", ["folder", "root"])
def test_a_sticky_folder_holds_a_cache_and_is_none(disk, entry, cubin, stored, tmp_path, part):
    """In a folder like /tmp everybody can make files: a private folder below it is believed."""
    tmp_path.chmod(0o1777)
    assert said(lambda: disk.load(entry, "f1 h1", "sm_90a")) == (cubin, [])
    path = {"folder": stored.parent, "root": tmp_path / "cache"}[part]
    path.chmod(0o1777)
    found, texts = said(lambda: disk.load(entry, "f1 h1", "sm_90a"))
    assert found is None and len(texts) == 1 and f"{path} can be written" in texts[0]
    assert "chmod" not in texts[0]  # it is everybody's on purpose: nobody shall close /tmp


def test_a_device_that_is_named_as_the_cache_is_no_folder(disk, entry, cubin, monkeypatch):
    """And nobody is told to change its mode."""
    monkeypatch.setenv("APRNB_CACHE", "/dev/null")
    found, texts = said(lambda: (disk.load(entry, "f1 h1", "sm_90a"),
                                 disk.store(entry, "f1 h1", "sm_90a", cubin)))
    assert found == (None, False) and len(texts) == 1
    assert "/dev/null" in texts[0] and "APRNB_CACHE" in texts[0] and "chmod" not in texts[0]


# ---------------------------------------------------------------- what lies under a kernel's name

def make_socket(path):
    with socket.socket(socket.AF_UNIX) as made, chdir(path.parent):
        made.bind(path.name)


def make_sparse(path):
    with open(path, "xb") as made:
        made.truncate(1 << 40)


OBSTACLES = {"fifo": os.mkfifo, "socket": make_socket, "folder": os.mkdir, "huge": make_sparse,
             "zero": lambda path: path.symlink_to("/dev/zero"),
             "loop": lambda path: path.symlink_to(path)}


@pytest.mark.parametrize("kind", OBSTACLES)
def test_what_is_no_file_of_a_kernel_is_said_and_replaced(disk, entry, cubin, stored, kind):
    """It neither holds up the reader nor fills the memory. A folder is left alone."""
    stored.unlink()
    OBSTACLES[kind](stored)
    found, texts = said(lambda: [disk.load(entry, "f1 h1", "sm_90a") for _ in range(2)])
    assert found == [None] * 2 and len(texts) == 1 and str(stored) in texts[0]
    kept, texts = said(lambda: disk.store(entry, "f1 h1", "sm_90a", cubin))
    assert kept is (kind != "folder") and len(texts) == (kind == "folder")
    assert all(f"{stored}: is a folder" in text and "remove it" in text for text in texts)
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin
    assert stored.is_file() is (kind != "folder")
    assert disk.store(entry, "h1 f1", "sm_90a", cubin)  # the others are kept all the same


@pytest.mark.parametrize("kind", OBSTACLES)
def test_the_same_in_a_folder_that_was_named(disk, entry, named, kind):
    named.unlink()
    OBSTACLES[kind](named)
    found, texts = said(lambda: disk.load(entry, "f1 h1", "sm_90a"))
    assert found is None and len(texts) == 1 and str(named) in texts[0]


def test_a_file_says_which_kernel_it_holds(disk, entry, cubin, stored):
    """One that bears another kernel's name would run in its place."""
    other = stored.with_name(disk._file_name(entry, "h1 f1", "sm_90a"))
    shutil.copy(stored, other)
    assert disk.load(entry, "h1 f1", "sm_90a") is None
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin


@pytest.fixture
def named(stored, tmp_path, monkeypatch):
    """The same file in a folder that the user names, and nothing in the cache."""
    stored.parent.rename(tmp_path / "carried")
    monkeypatch.setenv("APRNB_KERNELS", str(tmp_path / "carried"))
    return tmp_path / "carried" / stored.name


@pytest.mark.parametrize("harm", ["cut", "renamed", "no name"])
def test_an_unusable_file_of_a_named_folder_is_said(disk, entry, named, harm):
    """No build would replace it."""
    head, _, code = named.read_bytes().partition(b"\n")
    facts = json.loads(head)
    changed = {"cut": facts, "renamed": facts | {"file": "another"},
               "no name": {name: facts[name] for name in facts if name != "file"}}[harm]
    named.write_bytes(json.dumps(changed).encode() + b"\n" + code[:-1 if harm == "cut" else None])
    found, texts = said(lambda: [disk.load(entry, "f1 h1", "sm_90a") for _ in range(2)])
    assert found == [None] * 2 and len(texts) == 1 and "tools/build_kernels" in texts[0]


@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_a_named_folder_that_everybody_can_write_is_not_believed(disk, entry, named, mode):
    named.parent.chmod(mode)
    found, texts = said(lambda: disk.load(entry, "f1 h1", "sm_90a"))
    assert found is None and len(texts) == 1 and f"{named.parent} can be written" in texts[0]
    assert ("chmod" in texts[0]) is (mode == 0o777)


def test_a_named_folder_that_others_could_put_there_is_not_believed(disk, entry, cubin, named,
                                                                    tmp_path):
    """Who can rename a folder can replace it, which nobody can in a folder like /tmp."""
    tmp_path.chmod(0o1777)
    assert said(lambda: disk.load(entry, "f1 h1", "sm_90a")) == (cubin, [])
    tmp_path.chmod(0o777)
    found, texts = said(lambda: disk.load(entry, "f1 h1", "sm_90a"))
    assert found is None and len(texts) == 1 and f"{tmp_path} can be written" in texts[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="files of two users need root")
def test_a_file_in_a_named_folder_is_its_owners_ours_or_roots(disk, entry, cubin, named):
    for folder, file, believed in ((65534, 65534, True), (65534, 0, True), (0, 65534, False),
                                   (65534, 65533, False)):
        os.chown(named.parent, folder, -1)
        os.chown(named, file, -1)
        found, texts = said(lambda: disk.load(entry, "f1 h1", "sm_90a"))
        assert (found == cubin) is believed and len(texts) == (not believed)
        assert all(f"{named} belongs to user {file}" in text for text in texts)
        disk._said.clear()


def test_a_name_of_a_folder_that_is_none_is_said(disk, entry, named, monkeypatch):
    monkeypatch.setenv("APRNB_KERNELS", str(named))
    found, texts = said(lambda: disk.load(entry, "f1 h1", "sm_90a"))
    assert found is None and len(texts) == 1 and "APRNB_KERNELS" in texts[0]


# ---------------------------------------------------------------- where it is

@pytest.fixture
def homeless(disk, monkeypatch):
    """Neither $HOME nor an entry in /etc/passwd, as in a container under an arbitrary user id."""
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "APRNB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("variables", [{}, {"APRNB_CACHE": "~/kernels"},
                                       {"XDG_CACHE_HOME": "~no user/c"}])
def test_without_a_home_kernels_are_not_kept(disk, entry, cubin, homeless, tmp_path, variables):
    for name, value in variables.items():
        homeless.setenv(name, value)
    homeless.chdir(tmp_path)
    calls = [lambda: disk.load(entry, "f1 h1", "sm_90a"),
             *(lambda s=s: disk.store(entry, s, "sm_90a", cubin) for s in ("f1 h1", "h1 f1"))]
    try:
        results, texts = said(lambda: [call() for call in calls])
    except RuntimeError as error:
        pytest.fail(f"the run ends: {error}")
    assert results == [None, False, False] and len(texts) == 1
    assert "home" in texts[0] and "APRNB_CACHE" in texts[0]
    assert disk.load(entry, "f1 h1", "sm_90a") is cubin and not list(tmp_path.iterdir())


def test_a_named_folder_in_a_home_that_is_not_known_is_said(disk, entry, homeless, tmp_path):
    homeless.setenv("APRNB_CACHE", str(tmp_path / "cache"))
    homeless.setenv("APRNB_KERNELS", "~/kernels")
    found, texts = said(lambda: [disk.load(entry, "f1 h1", "sm_90a") for _ in range(2)])
    assert found == [None] * 2 and len(texts) == 1 and "APRNB_KERNELS" in texts[0]


@pytest.mark.parametrize("name, below", [("APRNB_CACHE", ""), ("XDG_CACHE_HOME", "aprnb")])
def test_a_tilde_is_the_home(disk, monkeypatch, tmp_path, name, below):
    monkeypatch.delenv("APRNB_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "~/kernels")
    assert disk.make_folder().parent == tmp_path / "kernels" / below


def test_a_tilde_in_the_name_of_built_kernels_is_the_home(disk, entry, cubin, named, monkeypatch):
    monkeypatch.setenv("HOME", str(named.parents[1]))
    monkeypatch.setenv("APRNB_KERNELS", f"~/{named.parent.name}")
    assert disk.load(entry, "f1 h1", "sm_90a") == cubin


def test_files_of_killed_processes_are_removed(disk, entry, cubin, stored):
    old, new = (stored.with_name(f".{stored.name}.{i}.tmp") for i in "ab")
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (time.time() - 2 * disk.ABANDONED,) * 2)
    hindrance = stored.with_name(".x.tmp")
    hindrance.mkdir()  # nobody's of ours: it stays, and hinders nothing
    os.utime(hindrance, (0, 0))
    stored.with_name(".link.tmp").symlink_to("nowhere")
    assert said(lambda: disk.store(entry, "h1 f1", "sm_90a", cubin)) == (True, [])
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
