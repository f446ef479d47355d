"""Outputs that appear whole or not at all: files, and folders of files.

An output is made under a hidden temporary name beside its place, flushed to the disk, and put there
by one rename, which the folder around it then makes durable. Whatever goes wrong (an error, a full
disk, Ctrl-C), what was made is removed and an older output stays as it was.
"""
import json
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
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
    with _reported(path, temporary):
        try:
            with open(temporary, "xb", buffering=1 << 20) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)  # gone already when the rename succeeded
    _make_durable(path)


@contextmanager
def replace_folder(path, ours, force=False):
    """Yield a temporary folder that becomes `path` when the block ends, and vanishes if it fails.

    Folders that are missing above `path` are made, and go away again with it. An empty folder is
    taken as free. With `force` an older one is replaced as a whole, but only if the pattern `ours`
    matches the name of every file in it, so that a mistyped path cannot delete foreign files. A
    file of a folder inside is matched as "folder/file", the folder itself as "folder/".
    Errors: CheckError if `path` is occupied, StorageError.
    """
    path = Path(path).resolve()  # a link goes on pointing at the folder
    refuse_occupied(path, ours, force)
    temporary = _temporary_name(path)
    with _reported(path, temporary), _parents_made(path):
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                _sync(file)
            _sync(temporary)
            _swap(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _make_durable(path)


def write_json(path, value):
    """Write or replace a JSON file.

    ASCII: names of files that are no UTF-8 have no other spelling. Errors: StorageError.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_text(path, text):
    """Write or replace a UTF-8 file. Errors: StorageError."""
    with replace_file(path, force=True) as file:
        file.write(text.encode())


# ---------------------------------------------------------------- refusals

def refuse_existing(path, force):
    """Errors of an output file that can be known before any work is done."""
    path = Path(path)
    if path.is_dir():
        raise CheckError(f"{path}: is a folder, need a file name; choose another output")
    if path.exists() and not path.is_file():
        raise CheckError(f"{path}: is a device or pipe, which a rename would replace; choose "
                         "another output")
    if path.exists() and not force:
        raise CheckError(f"{path}: exists already; use --force to replace it, or another name")
    if not path.parent.is_dir():
        raise NotFoundError(f"{path.parent}: no such folder; create it first")


def refuse_occupied(path, ours, force):
    """CheckError unless `path` is free, an empty folder, or all ours and `force` is given."""
    if not path.exists():
        return
    if not path.is_dir():
        raise CheckError(f"{path}: is a file, need a folder; choose another output")
    entries = sorted(path.iterdir())
    if entries and not force:
        raise CheckError(f"{path}: exists already; use --force to replace it, or another name")
    names = (f"{e.relative_to(path).as_posix()}{'/' if e.is_dir() else ''}"
             for e in sorted(path.rglob("*")))
    foreign = [name for name in names if not ours.fullmatch(name)]
    if foreign:
        raise CheckError(f"{path}: holds {', '.join(foreign[:5])}, which this verb does not write "
                         "and --force would delete; choose another output")


# ---------------------------------------------------------------- into place

def _temporary_name(path):
    """A hidden name in the same folder: rename is atomic only within a file system."""
    # random rather than the process id: containers hand out the same ids again after a crash
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _parents_made(path):
    """Make the folders above `path`; those that were missing go away again on failure."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:  # Ctrl-C too
        for parent in missing:
            with suppress(OSError):  # somebody else put something there
                parent.rmdir()
        raise


def _swap(temporary, path):
    """Rename onto `path`; an old folder steps aside first, and comes back if that fails."""
    aside = _temporary_name(path)
    try:
        if path.exists():
            os.replace(path, aside)
        os.replace(temporary, path)
    finally:
        if aside.exists() and not path.exists():
            os.replace(aside, path)
        shutil.rmtree(aside, ignore_errors=True)


def _make_durable(path):
    """Flush the rename. Errors: StorageError that says that the output is there all the same."""
    try:
        _sync(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: was written whole, but its folder could not be flushed to the "
                           f"disk: {error.strerror or error}; a power failure now may undo it"
                           ) from error


def _sync(path):
    """fsync a file or folder by its path."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _reported(path, temporary):
    """Errors of writing as a StorageError under the name that the user knows.

    An error that names another file, one that is being read, is not about the output and passes.
    """
    try:
        yield
    except StorageError as error:  # of a file inside a temporary folder
        raise StorageError(str(error).replace(str(temporary), str(path))) from error
    except OSError as error:
        named = Path(error.filename) if error.filename is not None else path
        if named not in (path, *path.parents) and temporary not in (named, *named.parents):
            raise
        raise StorageError(f"{path}: cannot be written: {error.strerror or error}; nothing of it "
                           "was left behind; free some space or choose another folder") from error
