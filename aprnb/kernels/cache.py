"""Compiled kernels on disk: a second start compiles nothing.

    <cache>/<tools>/<name>-<architecture>-<key>.kernel      one JSON line, then the machine code

The key is a digest of the file that defines the kernel and of every file under kernels/ that it
imports, directly or not, of build.py, which says how it is linked, of the kernel's name (which
carries a factory's parameters), its signature and launch bounds; the folder names the tools that
compiled it. numba's own cache cannot serve here: its key pickles closures and does not see imported
files.

Folder: $APRNB_CACHE, else $XDG_CACHE_HOME/aprnb, else ~/.cache/aprnb. Whoever can write there runs
code on the GPU in our name, so only what belongs to this user or to root, and what nobody else can
write, is believed. Kernels built elsewhere are read from $APRNB_KERNELS, whatever tools built them:
for machines without a compiler. The user named that folder, so its owner is not asked for; only one
that everybody can write is refused.
"""
import ast
import hashlib
import json
import os
import stat
import time
import warnings
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from ..errors import AprnbError, StorageError
from ..formats.atomic import replace_file
from .cubin import CubinError, read_cubin

HOME = Path(__file__).parent
HOST_SIDE = {HOME / f"{name}.py" for name in ("launch", "cache", "workers", "workspace",
                                              "tensor_maps")}
TOOLS = ("numba", "numba-cuda", "llvmlite", "cuda-bindings")
COMPILERS = ("nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12", "nvidia-nvvm", "nvidia-nvjitlink")
"""Compiler and linker of CUDA 12, then of CUDA 13: two of them are installed, or none where they
come with the system."""

ABANDONED = 3600
"""Seconds after which a temporary file has no writer any more: writing one takes milliseconds."""
unkept = {}
"""File name -> Cubin, of kernels that the disk did not take: they serve this process."""
_said = set()


def load(entry, signature, architecture):
    """The Cubin of a kernel as it stands in the cache, or None. A damaged file counts as absent."""
    file = _file_name(entry, signature, architecture)
    if file in unkept:
        return unkept[file]
    for folder, trusted in ((own_folder(), _ours), (_elsewhere(), _not_everybodys)):
        if folder and _believed(folder, trusted):
            found = _read(folder / file, trusted)
            if found:
                return found
    return None


def store(entry, signature, architecture, cubin):
    """Write a kernel by rename. A cache that cannot be written costs time, not the run.

    Returns whether it was written; a kernel that was not stays in `unkept`.
    """
    file = _file_name(entry, signature, architecture)
    head = json.dumps({"spills": cubin.spills, "sha256": hashlib.sha256(cubin.code).hexdigest()})
    try:
        folder = make_folder()
        with replace_file(folder / file, force=True) as opened:
            os.fchmod(opened.fileno(), 0o644)  # whatever the umask lets others do
            opened.write(head.encode() + b"\n" + cubin.code)
    except (OSError, AprnbError) as error:
        unkept[file] = cubin
        _say_once(own_folder(), "compiled kernels cannot be kept in the cache (APRNB_CACHE), every "
                                f"start compiles them anew: {error}")
        return False
    return True


def make_folder():
    """own_folder(), made where it is missing, for this user alone, without abandoned files.

    Errors: StorageError if it cannot be made or written, or is not to be believed.
    """
    folder = own_folder()
    try:
        _root().parent.mkdir(parents=True, exist_ok=True)
        for part in (_root(), folder):
            part.mkdir(mode=0o700, exist_ok=True)
            if reason := _ours(part):
                raise StorageError(reason)
        _sweep(folder)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}; set "
                           "APRNB_CACHE to another folder") from error
    return folder


def own_folder():
    """Where this installation writes what it compiles."""
    return _root() / _tools()


def _elsewhere():
    named = os.environ.get("APRNB_KERNELS")
    return Path(named) if named else None


def _read(path, trusted):
    """The Cubin of a file, or None if there is none, it is damaged or not to be believed."""
    try:
        with open(path, "rb") as opened:
            reason = trusted(path, os.fstat(opened.fileno()))
            head, _, code = opened.read().partition(b"\n")
        if reason:
            return _say_once(path.parent, f"compiled kernels are not used: {reason}")
        facts = json.loads(head)
        if (facts["sha256"] == hashlib.sha256(code).hexdigest()
                and isinstance(facts["spills"], int)):
            return read_cubin(code, facts["spills"])
    except PermissionError as error:
        _say_once(path.parent, f"compiled kernels are not used: {path}: {error.strerror}; let this "
                               "user read it, or set APRNB_CACHE to a folder of your own")
    except (OSError, ValueError, TypeError, KeyError, RecursionError, CubinError):
        pass
    return None


# ---------------------------------------------------------------- whose it is

def _believed(folder, trusted):
    """Whether a folder may be read; says once why not."""
    parts = (folder.parent, folder) if folder == own_folder() else (folder,)
    try:
        reason = next(filter(None, map(trusted, parts)), None)
    except OSError as error:
        if folder == own_folder():  # not there yet
            return False
        reason = (f"{folder}: {error.strerror}; point APRNB_KERNELS at the folder that "
                  "tools/build_kernels printed")
    if reason:
        _say_once(folder, f"compiled kernels are not used: {reason}")
    return not reason


def _ours(path, status=None):
    """Why a file or folder of the cache is not believed, or None."""
    status = status or path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return (f"{path} belongs to user {status.st_uid}, not to this one ({os.geteuid()}), and "
                "machine code from others would run on the GPU; set APRNB_CACHE to a folder of "
                "your own")
    return _writable(path, status, stat.S_IWGRP | stat.S_IWOTH, "go-w")


def _not_everybodys(path, status=None):
    """The same below $APRNB_KERNELS."""
    return _writable(path, status or path.stat(), stat.S_IWOTH, "o-w")


def _writable(path, status, bits, mode):
    if status.st_mode & bits and not (stat.S_ISDIR(status.st_mode)
                                      and status.st_mode & stat.S_ISVTX):  # as /tmp is
        return (f"{path} can be written by other users, and machine code from them would run on "
                f"the GPU; if only you wrote there, `chmod -R {mode} {path}`, else choose a folder "
                "of your own")
    return None


def _say_once(folder, text):
    """Warn once for a folder and process, not for every kernel."""
    if folder not in _said:
        _said.add(folder)
        warnings.warn(text, stacklevel=4)


def _sweep(folder):
    """Remove temporary files of processes that were killed while they wrote."""
    for file in folder.glob(".*.tmp"):
        try:
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()
        except FileNotFoundError:
            pass  # another process swept too, or renamed its own


# ---------------------------------------------------------------- names

def _root():
    if os.environ.get("APRNB_CACHE"):
        return Path(os.environ["APRNB_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aprnb"


@cache
def _tools():
    compilers = [found for found in map(_version, COMPILERS) if found != "none"]
    return "-".join([f"py{python_version()}", *map(_version, TOOLS), *compilers])


def _version(tool):
    try:
        return version(tool)
    except PackageNotFoundError:
        return "none"


def _file_name(entry, signature, architecture):
    source = source_digest(entry.function.__module__)
    facts = "\0".join([source, entry.name, signature, str(entry.launch_bounds)])
    key = hashlib.sha256(facts.encode()).hexdigest()[:24]
    return f"{entry.name}-{architecture}-{key}.kernel"


@cache
def source_digest(module):
    """SHA-256 over the files, names and contents, that a module under kernels/ is made of."""
    digest = hashlib.sha256()
    for file in sorted(_sources(module)):
        digest.update(str(file.relative_to(HOME)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _sources(module):
    """The module's file, build.py and all files under kernels/ that these import."""
    found, open_ = set(), [HOME.parents[1] / (module.replace(".", "/") + ".py"), HOME / "build.py"]
    while open_:
        file = open_.pop()
        if file not in found:
            found.add(file)
            open_ += _imported(file)
    return found


@cache
def _imported(file):
    """Files under kernels/ named by the import statements of one file; all are relative there."""
    files = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            candidates = [base.with_suffix(".py")] + [base / f"{a.name}.py" for a in node.names]
            files += [f for f in candidates if f.is_file() and HOME in f.parents
                      and f not in HOST_SIDE]
    return tuple(files)
