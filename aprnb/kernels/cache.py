"""Compiled kernels on disk: a second start compiles nothing.

    <cache>/<tools>/<name>-<architecture>-<key>.kernel      one JSON line, then the machine code

The line holds the file's own name, so that a renamed file is not taken for another kernel. The key
is a digest of the file that defines the kernel and of every file under kernels/ that it imports,
directly or not, of build.py, which says how it is linked, of the kernel's name (which carries a
factory's parameters), its signature and launch bounds; the folder names the tools that compiled it.
numba's own cache cannot serve here: its key pickles closures and does not see imported files.

Folder: $APRNB_CACHE, else $XDG_CACHE_HOME/aprnb, else ~/.cache/aprnb. Whoever can write there runs
code on the GPU in our name, so only what belongs to this user or to root, and what nobody else can
write, is believed; a sticky folder, as /tmp is, may stand above it. Kernels built elsewhere are
read from $APRNB_KERNELS, whatever tools built them: for machines without a compiler. The user named
that folder, so its owner is believed too, but nothing that everybody can write or put there.
"""
import ast
import hashlib
import json
import os
import stat
import time
import warnings
from contextlib import suppress
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
LARGEST = 1 << 26
"""Bytes that a file may have: four million instructions of 16 bytes, 800 times the largest here."""
LONGEST_HEAD = 1024
"""Bytes of the JSON line: three facts, one of them a file name, which has 255 at most."""
KINDS = {stat.S_IFDIR: "a folder; remove it", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
         stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}
unkept = {}
"""File name -> Cubin, of kernels that the disk did not take: they serve this process."""
_said = set()


def load(entry, signature, architecture):
    """The Cubin of a kernel as it stands in the cache, or None.

    A damaged file counts as absent: in our own folder the next build replaces it, in one that was
    named it is said.
    """
    file = _file_name(entry, signature, architecture)
    if file in unkept:
        return unkept[file]
    own, named = own_folder(), _elsewhere()
    found = _read(own / file, _ours) if own and _own_believed(own) else None
    if not found and named and _named_believed(named):
        found = _read(named / file, _of_the_named, damage="it is damaged, renamed or of an older "
                      "version; build it again with tools/build_kernels")
    return found


def store(entry, signature, architecture, cubin):
    """Write a kernel by rename. A cache that cannot be written costs time, not the run.

    Returns whether it was written; a kernel that was not stays in `unkept`.
    """
    file = _file_name(entry, signature, architecture)
    head = json.dumps({"file": file, "spills": cubin.spills,
                       "sha256": hashlib.sha256(cubin.code).hexdigest()})
    try:
        folder = make_folder()
        _make_way(folder / file)
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
    if not folder:
        raise StorageError(f"this user ({os.geteuid()}) has no home folder that is known here; set "
                           "HOME, or APRNB_CACHE to a folder of your own")
    try:
        _root().parent.mkdir(parents=True, exist_ok=True)
        for part in (_root(), folder):
            part.mkdir(mode=0o700, exist_ok=True)
            if reason := _ours(part):
                raise StorageError(reason)
        _sweep(folder)
    except OSError as error:
        reason = "it is no folder" if isinstance(error, FileExistsError) else error.strerror
        raise StorageError(f"{error.filename or folder}: cannot be written: {reason or error}; set "
                           "APRNB_CACHE to another folder") from error
    return folder


def own_folder():
    """Where this installation writes what it compiles; None where no home is known."""
    root = _root()
    return root and root / _tools()


def _elsewhere():
    named = os.environ.get("APRNB_KERNELS")
    return Path(os.path.expanduser(named)) if named else None  # what is unknown stays as it is


def _read(path, whose, damage=None):
    """The Cubin of a file, or None if there is none or it is not to be used.

    What it is, whose and how large is judged before a byte of it is read. damage: what to say of a
    file that is damaged, if anything.
    """
    try:
        reason = _no_kernel(path, path.stat())  # before it is opened: a device may act on that
        if not reason:
            with open(path, "rb", opener=_without_waiting) as opened:
                status = os.fstat(opened.fileno())  # of what was opened, whatever has the name now
                reason = _no_kernel(path, status) or whose(path, status)
                if not reason:
                    head, code = opened.readline(LONGEST_HEAD), opened.read(LARGEST)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        return _say_once(path.parent, f"compiled kernels are not used: {path}: {error.strerror}; "
                         "let this user read it, or set APRNB_CACHE to a folder of your own")
    except OSError as error:
        reason = f"{path}: {error.strerror}"
    if not reason:
        found = _cubin(path.name, head, code)
        if found or not damage:
            return found
        reason = f"{path}: {damage}"
    return _say_once((path.parent, "a file"), f"a compiled kernel is not used: {reason}")


def _cubin(file, head, code):
    """The Cubin that the content of a file of that name holds, or None if it is damaged."""
    try:
        facts = json.loads(head)
        if (facts["file"] == file and facts["sha256"] == hashlib.sha256(code).hexdigest()
                and isinstance(facts["spills"], int)):
            return read_cubin(code, facts["spills"])
    except (ValueError, TypeError, KeyError, RecursionError, CubinError):
        pass
    return None


def _no_kernel(path, status):
    """Why something of this kind and size is no file of a kernel, or None."""
    kind = stat.S_IFMT(status.st_mode)
    if kind != stat.S_IFREG:
        return f"{path}: is {KINDS.get(kind, 'something else')}, need a file"
    if status.st_size > LARGEST:
        return f"{path}: has {status.st_size} bytes, a kernel has {LARGEST} at most"
    return None


def _without_waiting(path, flags):
    """open() of what may have become a pipe or a terminal."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _make_way(path):
    """Remove what is no file where one shall be written.  Errors: StorageError for a folder."""
    with suppress(FileNotFoundError):
        kind = stat.S_IFMT(path.lstat().st_mode)
        if kind == stat.S_IFDIR:
            raise StorageError(f"{path}: is a folder, need a file; remove it")
        if kind != stat.S_IFREG:
            path.unlink()


# ---------------------------------------------------------------- whose it is

def _own_believed(folder):
    """Whether the cache may be read; says once why not. One that is not there is not an error."""
    try:
        reason = _ours(folder) or _ours(folder.parent)  # so that what is no folder is not there
    except OSError:
        return False
    return _believed(folder, reason)


def _named_believed(folder):
    """The same of $APRNB_KERNELS. Who can rename a folder can replace it, so those above count."""
    try:
        status, above = folder.stat(), folder.resolve().parents
        reason = _of_the_named(folder, status) if stat.S_ISDIR(status.st_mode) else (
            f"{folder}: is no folder; point APRNB_KERNELS at the one that tools/build_kernels "
            "printed")
        reason = reason or next(filter(None, map(_replaceable, above)), None)
    except OSError as error:
        reason = (f"{folder}: {error.strerror}; point APRNB_KERNELS at the folder that "
                  "tools/build_kernels printed")
    return _believed(folder, reason)


def _believed(folder, reason):
    if reason:
        _say_once(folder, f"compiled kernels are not used: {reason}")
    return not reason


def _ours(path, status=None):
    """Why a file or folder of the cache is not believed, or None."""
    status = status or path.stat()
    return (_of_others(path, status, {os.geteuid(), 0}, "APRNB_CACHE")
            or _writable(path, status, stat.S_IWGRP | stat.S_IWOTH, "-R go-w"))


def _of_the_named(path, status):
    """The same of $APRNB_KERNELS and what is in it, which is also its owner's."""
    owner = status.st_uid if stat.S_ISDIR(status.st_mode) else path.parent.stat().st_uid
    return (_of_others(path, status, {os.geteuid(), 0, owner}, "APRNB_KERNELS")
            or _writable(path, status, stat.S_IWOTH, "-R o-w"))


def _replaceable(folder):
    """Why what is in a folder can be replaced by everybody, or None. In a sticky one, as /tmp is,
    only its owner can rename or remove a folder."""
    status = folder.stat()
    return None if status.st_mode & stat.S_ISVTX else _writable(folder, status, stat.S_IWOTH, "o-w")


def _of_others(path, status, owners, variable):
    if status.st_uid not in owners:
        return (f"{path} belongs to user {status.st_uid}, not to this one ({os.geteuid()}), and "
                f"machine code from others would run on the GPU; set {variable} to a folder of "
                "your own")
    return None


def _writable(path, status, bits, mode):
    if status.st_mode & bits:
        shared = status.st_mode & stat.S_ISVTX  # everybody's on purpose, as /tmp is
        way = "" if shared else f"if only you wrote there, `chmod {mode} {path}`, else "
        return (f"{path} can be written by other users, and machine code from them would run on "
                f"the GPU; {way}choose a folder of your own")
    return None


def _say_once(what, text):
    """Warn once for a folder, or for the files in one, and process, not for every kernel."""
    if what not in _said:
        _said.add(what)
        warnings.warn(text, stacklevel=4)


def _sweep(folder):
    """Remove temporary files of processes that were killed while they wrote."""
    for file in folder.glob(".*.tmp"):
        with suppress(OSError):  # another process swept too, or it is no file of ours: it stays
            if time.time() - file.lstat().st_mtime > ABANDONED:
                file.unlink()


# ---------------------------------------------------------------- names

def _root():
    """The folder of the cache, or None where the home that it is named by is not known."""
    try:
        if os.environ.get("APRNB_CACHE"):
            return Path(os.environ["APRNB_CACHE"]).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "aprnb"
    except RuntimeError:
        return None


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
