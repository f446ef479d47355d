"""Compiled kernels on disk: a second start compiles nothing.

    <cache>/<tools>/<name>-<architecture>-<key>.kernel      one JSON line, then the machine code

The key is a digest of the file that defines the kernel and of every file under kernels/ that it
imports, directly or not, of build.py, which says how it is linked, of the kernel's name (which
carries a factory's parameters), its signature and launch bounds; the folder names the tools that
compiled it. numba's own cache cannot serve here: its key pickles closures and does not see imported
files.

Folder: $APRNB_CACHE, else $XDG_CACHE_HOME/aprnb, else ~/.cache/aprnb. Kernels built elsewhere are
read from $APRNB_KERNELS, whatever tools built them: for machines without a compiler.
"""
import ast
import hashlib
import json
import os
import warnings
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import python_version

from ..errors import StorageError
from ..formats.atomic import replace_file
from .build import Cubin

HOME = Path(__file__).parent
HOST_SIDE = {HOME / f"{name}.py" for name in ("launch", "cache", "workspace", "tensor_maps")}
TOOLS = ("numba", "numba-cuda", "llvmlite", "cuda-bindings")
COMPILERS = ("nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12", "nvidia-nvvm", "nvidia-nvjitlink")
"""Compiler and linker of CUDA 12, then of CUDA 13: two of them are installed, or none where they
come with the system."""


def load(entry, signature, architecture):
    """The Cubin of a kernel as it stands in the cache, or None. A damaged file counts as absent."""
    file = _file_name(entry, signature, architecture)
    for folder in _folders():
        try:
            head, _, code = (folder / file).read_bytes().partition(b"\n")
            facts = json.loads(head)
            if facts.pop("sha256") == hashlib.sha256(code).hexdigest():
                return Cubin(code=code, **facts)
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return None


def store(entry, signature, architecture, cubin):
    """Write a kernel by rename. A cache that cannot be written costs time, not the run."""
    facts = {k: v for k, v in asdict(cubin).items() if k != "code"}
    head = json.dumps({**facts, "sha256": hashlib.sha256(cubin.code).hexdigest()})
    folder = own_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with replace_file(folder / _file_name(entry, signature, architecture), force=True) as file:
            file.write(head.encode() + b"\n" + cubin.code)
    except (OSError, StorageError) as error:
        warnings.warn(f"compiled kernels cannot be kept, every start compiles them anew: {error}; "
                      "set APRNB_CACHE to a folder that can be written", stacklevel=2)
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
