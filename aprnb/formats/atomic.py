"""Outputs that appear whole or not at all: temporary name, fsync, rename, fsync of the folder."""
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path

from ..errors import CheckError, NotFoundError, StorageError


@contextmanager
def replace_file(path, force=False):
    """Yield a binary file that becomes `path` when the block ends, and vanishes if it fails.

    Errors:  CheckError if `path` exists without `force`, NotFoundError without its folder,
             StorageError when the disk is full or the folder is not writable.
    """
    path = Path(path)
    refuse_existing(path, force)
    temporary = _temporary_name(path)
    try:
        with open(temporary, "xb", buffering=1 << 20) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)  # gone already when the rename succeeded


@contextmanager
def replace_folder(path, force=False, may_hold=None):
    """Yield a temporary folder that becomes `path` when the block ends, and vanishes if it fails.

    An empty folder is taken as free. With `force` the old folder is replaced as a whole, but only
    if `may_hold(name)` is true of everything in it: no foreign file is ever deleted.
    """
    path = Path(path)
    if path.is_dir():
        _refuse_occupied(path, force, may_hold or (lambda name: False))
    else:
        refuse_existing(path, force=False)
    temporary = _temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            _sync(file)
        sync_folder(temporary)
        _swap(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise _storage_error(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path, text):
    """Write text into a new file of a temporary folder."""
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        file.write(text)


def sync_folder(path):
    """Make renames inside a folder durable."""
    _sync(path)


def _sync(path):
    """fsync a file or folder by its path."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(temporary, path):
    """Rename onto `path`; an old folder steps aside first, since rename wants an empty target."""
    if not path.exists() or not any(path.iterdir()):
        os.replace(temporary, path)
        return
    aside = _temporary_name(path)
    os.replace(path, aside)
    os.replace(temporary, path)
    shutil.rmtree(aside)


def _temporary_name(path):
    """A hidden name in the same folder: rename is atomic only within a file system."""
    # random rather than the process id: containers hand out the same ids again after a crash
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


def refuse_existing(path, force):
    """Errors of an output file that can be known before any work is done."""
    if path.is_dir():
        raise CheckError(f"{path}: is a folder, need a file name; choose another output")
    if path.exists() and not force:
        raise CheckError(f"{path}: exists already; use --force to replace it, or another name")
    if not path.parent.is_dir():
        raise NotFoundError(f"{path.parent}: no such folder; create it first")


def _refuse_occupied(path, force, may_hold):
    """Errors of an output folder that exists."""
    names = sorted(p.name for p in path.iterdir())
    if names and not force:
        raise CheckError(f"{path}: exists already; use --force to replace it, or another name")
    foreign = [n for n in names if not may_hold(n)]
    if foreign:
        raise CheckError(f"{path}: holds {', '.join(foreign[:5])}, which --force would delete; "
                         "choose another folder")


def _storage_error(path, error):
    """The user's message for an error of the operating system."""
    return StorageError(f"{path}: cannot be written: {error.strerror or error}; nothing was left "
                        "behind; free some space or choose another folder")
