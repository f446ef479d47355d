"""Safetensors files: zero-copy reading, and writing bytes untouched.

    u64 length N | N bytes of JSON {name: {dtype, shape, data_offsets: [begin, end]}} | data

The header is parsed here and not by the `safetensors` package, because its NumPy side refuses to
read BF16 and copies every tensor, while import streams the stored bytes of files larger than
memory. The tests read what is written here with the package, and here what the package writes.
Rules as in the format's own description: names unique, offsets without holes or overlaps, from the
first data byte to the end of the file, sizes as shape and dtype say.
"""
import json
import math
import struct

from .atomic import replace_file
from .rejections import BadSafetensors
from .tensors import DENSE, TensorEntry, TensorFile, existing_file

MAX_HEADER = 100_000_000  # bytes, the limit of the reference implementation
ALIGN = 8  # bytes: where data begin, so that every dtype can be viewed in place


class SafetensorsFile(TensorFile):
    """An open .safetensors file; `metadata` is its `__metadata__`, strings only."""

    def __init__(self, path, tensors, data_start, metadata):
        super().__init__(path, tensors, data_start)
        self.metadata = metadata


def read_safetensors(path):
    """Open a .safetensors file after checking its header against its length.

    Errors:  NotFoundError; BadSafetensors for every rule above.
    """
    path = existing_file(path)
    length = path.stat().st_size
    with open(path, "rb") as file:
        raw = file.read(8)
        size = struct.unpack("<Q", raw)[0] if len(raw) == 8 else 0
        if not 2 <= size <= min(MAX_HEADER, length - 8):
            raise BadSafetensors(f"{path}: header of {size} bytes in a file of {length}; this is "
                                 "no safetensors file, or it is cut off")
        header = _parse_header(file.read(size), path)
    metadata = header.pop("__metadata__", {})
    tensors = {name: _entry(name, row, path) for name, row in header.items()}
    _check_coverage(tensors, length - 8 - size, path)
    return SafetensorsFile(path, tensors, 8 + size, metadata)


def _parse_header(raw, path):
    """The header as a dict; a key that stands twice is an error."""
    def unique(pairs):
        table = dict(pairs)
        if len(table) != len(pairs):
            raise ValueError("a key stands there twice")
        return table

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError, MemoryError) as error:
        raise BadSafetensors(f"{path}: header is not JSON in UTF-8: {str(error)[:200]}") from None
    if not isinstance(header, dict):
        raise BadSafetensors(f"{path}: header is a JSON {type(header).__name__}, need an object")
    return header


def _entry(name, row, path):
    """TensorEntry of one header row, every field judged."""
    try:
        dtype, shape, (begin, end) = row["dtype"], row["shape"], row["data_offsets"]
        sizes = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        raise BadSafetensors(f"{path}: {name[:80]!r} needs dtype, shape and two data_offsets"
                             ) from None
    if any(type(n) is not int or n < 0 for n in sizes):
        raise BadSafetensors(f"{path}: {name[:80]!r} has shape {shape} and offsets "
                             f"{[begin, end]}, need integers of 0 or more")
    if not isinstance(dtype, str) or dtype not in DENSE:
        raise BadSafetensors(f"{path}: {name[:80]!r} has unknown dtype {str(dtype)[:40]!r}")
    if not name or not name.isprintable():
        raise BadSafetensors(f"{path}: tensor name {name[:80]!r} is not printable")
    need = math.prod(shape) * DENSE[dtype].itemsize
    if end - begin != need:
        raise BadSafetensors(f"{path}: {name} {dtype} {shape} has {end - begin} bytes, need {need}")
    return TensorEntry(name, dtype, tuple(shape), begin, end - begin)


def _check_coverage(tensors, room, path):
    """Payloads side by side from the first data byte to the last."""
    at = 0
    for entry in sorted(tensors.values(), key=lambda t: (t.offset, t.nbytes)):
        if entry.offset != at:
            raise BadSafetensors(f"{path}: {entry.name} begins at data byte {entry.offset}, need "
                                 f"{at}: payloads overlap or leave a hole")
        at += entry.nbytes
    if at != room:
        raise BadSafetensors(f"{path}: tensors cover {at} of {room} data bytes; the file is cut "
                             "off or damaged")


def write_safetensors(path, entries, chunks_of):
    """Write one file that transformers loads.

    entries: (name, dtype, shape) in the order of the data; chunks_of(name): pieces of bytes.
    """
    header, at = {"__metadata__": {"format": "pt"}}, 0  # transformers insists on the key
    for name, dtype, shape in entries:
        nbytes = math.prod(shape) * DENSE[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGN)
    with replace_file(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, _, _ in entries:
            for piece in chunks_of(name):
                file.write(piece)
