"""Folders and files that appear whole or not at all, whatever fails and whenever."""
import errno
import os
import re
from stat import S_ISREG

import pytest

from aprnb.errors import CheckError, NotFoundError, StorageError
from aprnb.formats.atomic import (refuse_existing, replace_file, replace_folder, write_json,
                                  write_text)

OURS = re.compile(r"[a-z]\.txt")


def put(path, text="new", force=False):
    with replace_folder(path, OURS, force) as folder:
        write_text(folder / "a.txt", text)


def failing(monkeypatch, name, at):
    """Let the `at`-th call of os.<name> fail with EIO."""
    calls, real = [], getattr(os, name)

    def call(*args, **options):
        calls.append(args)
        if len(calls) == at:
            named = [str(a) for a in args[:1] if isinstance(a, os.PathLike)]
            raise OSError(errno.EIO, os.strerror(errno.EIO), *named)
        return real(*args, **options)
    monkeypatch.setattr(os, name, call)


def watched(monkeypatch):
    """Every flush and rename of a block, as (call, inode, bytes if it is a file)."""
    calls = []

    def watch(name, stat):
        real = getattr(os, name)

        def call(what, *to):
            found = stat(what)
            size = found.st_size if S_ISREG(found.st_mode) else None
            calls.append((name, found.st_ino, size))
            return real(what, *to)
        monkeypatch.setattr(os, name, call)
    watch("fsync", os.fstat)
    watch("replace", os.stat)
    return calls


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_missing_parents_are_made_and_go_away_with_a_failure(tmp_path):
    with pytest.raises(KeyboardInterrupt), replace_folder(tmp_path / "x/y/z", OURS) as folder:
        (folder / "a.txt").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    put(tmp_path / "x/y/z")
    assert tree(tmp_path) == {"x/y/z/a.txt": "new"}


def test_parents_that_somebody_else_uses_stay(tmp_path):
    with pytest.raises(RuntimeError), replace_folder(tmp_path / "x/y", OURS):
        (tmp_path / "x/note").write_text("theirs")
        raise RuntimeError
    assert tree(tmp_path) == {"x/note": "theirs"}


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_rename_that_fails_leaves_the_older_folder(at, tmp_path, monkeypatch):
    """Renames: the text into the temporary folder, the older folder aside, the new one onto it."""
    put(tmp_path / "x", "old")
    with monkeypatch.context() as patch:
        failing(patch, "replace", at)
        with pytest.raises(StorageError, match="x.* cannot be written.* nothing of it was left"):
            put(tmp_path / "x", force=True)
    assert tree(tmp_path) == {"x/a.txt": "old"}
    put(tmp_path / "x", force=True)
    assert tree(tmp_path) == {"x/a.txt": "new"}


def test_a_flush_after_the_rename_that_fails_says_that_the_output_is_there(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", 2)  # the file, then its folder
    with pytest.raises(StorageError, match="t.txt: was written whole"):
        write_text(tmp_path / "t.txt", "all")
    assert tree(tmp_path) == {"t.txt": "all"}


def test_a_file_is_on_the_disk_before_its_name_and_its_name_before_success(tmp_path, monkeypatch):
    """After a power failure a name that stands for bytes that were lost is a torn file."""
    calls = watched(monkeypatch)
    with replace_file(tmp_path / "f") as file:
        file.write(bytes(5000))
    inode = os.stat(tmp_path / "f").st_ino
    assert calls == [("fsync", inode, 5000), ("replace", inode, 5000),
                     ("fsync", os.stat(tmp_path).st_ino, None)]


def test_so_is_a_folder_with_every_file_in_it(tmp_path, monkeypatch):
    calls = watched(monkeypatch)
    with replace_folder(tmp_path / "d", OURS) as folder:
        for name in "ab":
            (folder / f"{name}.txt").write_bytes(bytes(70))
    inner, outer = os.stat(tmp_path / "d").st_ino, os.stat(tmp_path).st_ino
    files = {("fsync", os.stat(tmp_path / "d" / f"{name}.txt").st_ino, 70) for name in "ab"}
    assert set(calls[:2]) == files
    assert calls[2:] == [("fsync", inner, None), ("replace", inner, None), ("fsync", outer, None)]


def test_messages_name_the_place_that_the_user_knows(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", 1)
    with pytest.raises(StorageError) as caught:
        put(tmp_path / "x")
    assert str(caught.value).startswith(f"{tmp_path}/x/a.txt: ") and ".tmp" not in str(caught.value)


def test_an_error_about_another_file_is_not_said_of_the_output(tmp_path):
    for block in (replace_file(tmp_path / "f"), replace_folder(tmp_path / "d", OURS)):
        with pytest.raises(FileNotFoundError, match="source"), block:
            open(tmp_path / "source")
    assert list(tmp_path.iterdir()) == []


def test_force_replaces_only_what_is_ours(tmp_path):
    for name in ("thesis.tex", "b.txt"):
        here = tmp_path / name[0]
        put(here, "old")
        if name == "b.txt":
            (here / name).mkdir()  # a folder is foreign, whatever it is called
        else:
            (here / name).write_text("years of work")
        with pytest.raises(CheckError, match=name):
            put(here, force=True)
        assert (here / name).exists() and (here / "a.txt").read_text() == "old"
    with pytest.raises(CheckError, match="is a file"):
        put(tmp_path / "t/a.txt", force=True)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckError, match="pipe"), replace_file(tmp_path / "pipe", force=True):
        pass


def test_nothing_is_replaced_unless_asked_for(tmp_path):
    write_text(tmp_path / "f", "old")
    put(tmp_path / "d", "old")
    for block in (replace_file(tmp_path / "f"), replace_folder(tmp_path / "d", OURS)):
        with pytest.raises(CheckError, match="exists already; use --force"), block:
            raise AssertionError("the block must not begin")
    write_text(tmp_path / "f", "new")
    assert tree(tmp_path) == {"f": "new", "d/a.txt": "old"}


@pytest.mark.parametrize("name, error, words", [
    ("", CheckError, "is a folder, need a file name"), ("f", CheckError, "f: exists already"),
    ("no/f", NotFoundError, "no: no such folder; create it first"),
    ("/dev/null", CheckError, "null: is a device or pipe")])
def test_outputs_that_cannot_be_are_known_before_any_work(name, error, words, tmp_path):
    (tmp_path / "f").touch()
    with pytest.raises(error, match=words):
        refuse_existing(os.path.join(tmp_path, name), force=False)
    refuse_existing(str(tmp_path / "f"), force=True)
    refuse_existing(tmp_path / "free", force=False)


def test_a_temporary_name_is_hidden_random_and_in_the_same_folder(tmp_path):
    names = []
    for _ in range(2):
        with replace_file(str(tmp_path / "x.apr"), force=True) as file:
            file.write(b"whole")
            (name,) = {p.name for p in tmp_path.iterdir()} - {"x.apr"}
            names.append(name)
    assert all(re.fullmatch(r"\.x\.apr\.[0-9a-f]{8}\.tmp", name) for name in names)
    assert names[0] != names[1] and tree(tmp_path) == {"x.apr": "whole"}


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="descriptors are listed on Linux")
def test_no_descriptor_stays_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        put(tmp_path / "d", force=True)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_goes_on_pointing_at_the_replaced_folder(tmp_path):
    put(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    put(tmp_path / "link", force=True)
    assert (tmp_path / "link").is_symlink() and tree(tmp_path)["real/a.txt"] == "new"


def test_json_is_indented_ends_its_line_and_has_no_nan(tmp_path):
    write_json(tmp_path / "m.json", {"a": [1]})
    assert (tmp_path / "m.json").read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    with pytest.raises(ValueError):
        write_json(tmp_path / "m.json", {"a": float("nan")})
    assert [p.name for p in tmp_path.iterdir()] == ["m.json"]


def test_json_holds_names_that_are_no_utf8(tmp_path):
    write_json(tmp_path / "m.json", {"file": os.fsdecode(b"caf\xe9.py")})
    assert b"caf\\udce9.py" in (tmp_path / "m.json").read_bytes()
