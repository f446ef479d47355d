"""Compiled kernels on disk: a second start compiles nothing.

    <cache>/<tools>/<name>-<architecture>-<key>.kernel      one JSON line, then the machine code

The key is a digest of every file under kernels/, of the kernel's name (which carries a factory's
parameters), of its signature and architecture; the folder names the tools that compiled it. numba's
own cache cannot serve here: its key pickles closures and does not see imported files.

Folder: $APRNB_CACHE, else $XDG_CACHE_HOME/aprnb, else ~/.cache/aprnb. Kernels built elsewhere are
read from $APRNB_KERNELS, whatever tools built them: for machines without a compiler.
"""
import hashlib
import json
import os
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from ..errors import StorageError
from ..formats.atomic import replace_file
from .build import Cubin

TOOLS = ("numba", "numba-cuda", "llvmlite", "cuda-bindings")


def load(name, signature, architecture):
    """The Cubin of a kernel as it stands in the cache, or None. A damaged file counts as absent."""
    file = _file_name(name, signature, architecture)
    for folder in _folders():
        try:
            head, _, code = (folder / file).read_bytes().partition(b"\n")
            facts = json.loads(head)
            if facts.pop("sha256") == hashlib.sha256(code).hexdigest():
                return Cubin(code=code, **facts)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return None


def store(name, signature, architecture, cubin):
    """Write a kernel by rename. A cache that cannot be written costs time, not the run."""
    facts = {k: v for k, v in asdict(cubin).items() if k != "code"}
    head = json.dumps({**facts, "sha256": hashlib.sha256(cubin.code).hexdigest()})
    folder = own_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / _file_name(name, signature, architecture), force=True) as file:
            file.write(head.encode() + b"\n" + cubin.code)
    except (OSError, StorageError):
        return False
    return True


def own_folder():
    """Where this installation writes what it compiles."""
    return _root() / _tools()


def _folders():
    elsewhere = os.environ.get("APRNB_KERNELS")
    return [own_folder()] + ([Path(elsewhere)] if elsewhere else [])


def _root():
    if os.environ.get("APRNB_CACHE"):
        return Path(os.environ["APRNB_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aprnb"


@cache
def _tools():
    return "-".join([f"py{python_version()}", *(_version(t) for t in TOOLS)])


def _version(tool):
    try:
        return version(tool)
    except PackageNotFoundError:
        return "none"


@cache
def source_digest():
    """SHA-256 over every file under kernels/, names and contents."""
    home, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(home.rglob("*.py")):
        digest.update(str(file.relative_to(home)).encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _file_name(name, signature, architecture):
    key = hashlib.sha256(f"{source_digest()}\0{name}\0{signature}".encode()).hexdigest()[:24]
    return f"{name}-{architecture}-{key}.kernel"
