"""Outputs that appear whole or not at all.

A folder is filled under a hidden temporary name beside its place, every file is flushed to the
disk, and one rename puts it there. Whatever goes wrong (an error, a full disk, Ctrl-C), the
temporary folder and any parent made for it are removed and an older output stays as it was.
"""
import json
import os
import secrets
import shutil
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from ..errors import CheckError, Interrupted, StorageError


@contextmanager
def new_folder(path, force=False, ours=()):
    """Yield a temporary folder that becomes `path` when the block ends well.

    `ours` are the name patterns that this kind of output consists of: with `force`, a folder that
    holds anything else is not replaced, so that a mistyped path cannot delete foreign files.
    Errors: CheckError (output exists), StorageError (disk), Interrupted (Ctrl-C).
    """
    path = Path(path).absolute()
    refuse_existing(path, force, ours)
    missing = [parent for parent in path.parents if not parent.exists()]
    partial = path.parent / f".{path.name}.partial-{secrets.token_hex(4)}"
    try:
        partial.mkdir(parents=True)
        yield partial
        sync(partial)
        move_into_place(partial, path)
    except BaseException as error:  # KeyboardInterrupt too: nothing half-written may stay
        shutil.rmtree(partial, ignore_errors=True)
        for parent in missing:
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, KeyboardInterrupt):
            raise Interrupted(f"interrupted: {path} was not written") from error
        if isinstance(error, OSError) and error.filename is None:
            raise StorageError(f"{path}: {error.strerror or error}; nothing was written, free "
                               "some space or choose another folder") from error
        raise


def refuse_existing(path, force, ours):
    """CheckError unless `path` is free, an empty folder, or ours and `force` is given."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise CheckError(f"{path}: exists already; choose another output or add --force")
    foreign = [path] if not path.is_dir() else [
        entry for entry in sorted(path.iterdir())
        if entry.is_dir() or not any(fnmatch(entry.name, pattern) for pattern in ours)]
    if foreign:
        raise CheckError(f"{path}: holds {foreign[0].name}, which this verb does not write, so "
                         "--force does not replace it; choose another output")


def move_into_place(partial, path):
    """Rename `partial` to `path`; a folder that stands there goes away only after that."""
    old = path.parent / f".{path.name}.old-{secrets.token_hex(4)}"
    if path.exists():
        path.rename(old)
    try:
        partial.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)
    sync_one(path.parent)


def sync(folder):
    """Flush every file of a flat folder, then the folder itself, to the disk."""
    for entry in folder.iterdir():
        sync_one(entry)
    sync_one(folder)


def sync_one(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, value):
    """Write `value` as indented JSON under a temporary name, then rename it to `path`."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
        sync_one(partial)
        partial.rename(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
