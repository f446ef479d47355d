"""Writer of APR v2: one forward pass with a running CRC, under a temporary name until it is whole.

All entries are announced first, so header, metadata and index are written before any payload and
the file is never read back. Payloads then follow in index order; memory stays at one chunk.
Equal input gives equal bytes: no clock, no random numbers.
"""
import json
import struct
import zlib
from contextlib import contextmanager
from operator import itemgetter

import numpy as np

from .apr_layout import (CODES, FOOTER, HEADER, MAGIC, MAX_METADATA, MAX_NAME, MAX_RANK, ROW_MAJOR,
                         canonical_metadata, header_checksum, payload_sizes, up)
from .atomic import replace_file
from .rejections import (BadShape, BadTensorName, DuplicateName, MetadataError, UnknownDtype,
                         WrongWriteOrder)
from .tensors import CHUNK, DENSE, TensorEntry


def write_apr(path, metadata, arrays, force=False):
    """Write NumPy arrays as one .apr file.

    arrays: {name: array} of float32, float16, bfloat16, float64, int64, int32, int8 or uint8.
    Errors:  CheckError if `path` exists without `force`; StorageError when the disk is full.
    """
    entries = [(name, dtype_name(a, name), a.shape) for name, a in arrays.items()]
    with create_apr(path, metadata, entries, force) as writer:
        for entry in writer.entries:
            writer.write(entry.name, arrays[entry.name])


@contextmanager
def create_apr(path, metadata, entries, force=False):
    """Yield an AprWriter; the file appears at `path` when the block ends without an error.

    entries: (name, dtype name, shape) of every tensor, in any order.
    """
    plan = plan_entries(entries)
    head = encode_head(metadata, plan)
    with replace_file(path, force) as file:
        writer = AprWriter(file, path, plan)
        writer.put(head)
        yield writer
        writer.finish()


class AprWriter:
    """Takes the payloads of the announced entries, in their order, each exactly once."""

    def __init__(self, file, path, entries):
        self.path = path
        self.entries = entries
        self._file = file
        self._crc = 0
        self._next = 0

    def write(self, name, data):
        """Write one payload from an array or bytes."""
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8) \
            if isinstance(data, np.ndarray) else np.frombuffer(data, np.uint8)
        self.write_chunks(name, (flat[at:at + CHUNK] for at in range(0, flat.size, CHUNK)))

    def write_chunks(self, name, chunks):
        """Write one payload from pieces of bytes."""
        if self._next == len(self.entries) or self.entries[self._next].name != name:
            need = next((e.name for e in self.entries[self._next:]), "no further tensor")
            raise WrongWriteOrder(f"{self.path}: got tensor {name}, need {need}")
        entry = self.entries[self._next]
        written = 0
        for piece in chunks:
            written += len(piece)
            self.put(piece)
        if written != entry.nbytes:
            raise WrongWriteOrder(f"{self.path}: {name} got {written} bytes, need {entry.nbytes}")
        self.put(bytes(up(written) - written))
        self._next += 1

    def put(self, data):
        """Append bytes and carry the checksum along."""
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)

    def finish(self):
        """Append the footer; every announced tensor must have been written."""
        if self._next != len(self.entries):
            raise WrongWriteOrder(f"{self.path}: tensor {self.entries[self._next].name} was "
                                  "announced and not written")
        self._file.write(FOOTER.pack(self._crc))


def dtype_name(array, name):
    """Name in the file of an array's dtype."""
    for file_name in CODES:
        if DENSE.get(file_name) == array.dtype:
            return file_name
    raise UnknownDtype(f"{name}: NumPy dtype {array.dtype} has no code in this format")


def plan_entries(entries):
    """TensorEntry list in index order with offsets given out one after the other."""
    plan, offset, previous = [], 0, None
    for name, dtype, shape in sorted(entries, key=itemgetter(0)):  # as their UTF-8 is ordered
        shape = tuple(int(n) for n in shape)
        if name == previous:
            raise DuplicateName(f"tensor {name} is given twice")
        if not name or not name.isprintable() or len(name.encode("utf-8")) > MAX_NAME:
            raise BadTensorName(f"tensor name {name[:80]!r}: need 1 to {MAX_NAME} printable bytes")
        if dtype not in CODES:
            raise UnknownDtype(f"{name}: dtype {dtype} has no code in this format")
        if len(shape) > MAX_RANK or any(n < 0 for n in shape):
            raise BadShape(f"{name}: shape {list(shape)}, need at most {MAX_RANK} dimensions")
        nbytes = payload_sizes(dtype, shape)[0]
        plan.append(TensorEntry(name, dtype, shape, offset, nbytes))
        offset, previous = offset + up(nbytes), name
    return plan


def encode_head(metadata, plan):
    """Header, metadata and index with their padding: everything before the first payload."""
    total = sum(e.nbytes for e in plan)
    # tensors of optimiser state are no parameters of the model
    parameters = sum(e.count for e in plan if not e.name.startswith("__"))
    text = _encode_metadata(canonical_metadata(metadata, total, parameters))
    index = b"".join(_encode_entry(e) for e in plan)
    index_offset = HEADER.size + up(len(text))
    fields = [MAGIC, 2, 0, ROW_MAJOR, len(plan), HEADER.size, len(text), index_offset,
              index_offset + up(len(index))]
    checksum = header_checksum(HEADER.pack(*fields, 0, b""))
    return HEADER.pack(*fields, checksum, b"") + _padded(text) + _padded(index)


def _encode_metadata(metadata):
    """JSON in UTF-8, as readers take it: no NaN, no lone surrogates, no spaces."""
    try:
        text = json.dumps(metadata, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        raw = text.encode("utf-8")
    except (ValueError, TypeError, RecursionError) as error:
        raise MetadataError(f"metadata cannot be written as JSON: {error}") from error
    if len(raw) > MAX_METADATA:
        raise MetadataError(f"{len(raw)} bytes of metadata, at most {MAX_METADATA} are written")
    return raw


def _encode_entry(entry):
    """One packed index entry."""
    name = entry.name.encode("utf-8")
    rank = len(entry.shape)
    return struct.pack(f"<H{len(name)}sBB{rank}QQQ", len(name), name, CODES[entry.dtype], rank,
                       *entry.shape, entry.offset, entry.nbytes)


def _padded(raw):
    """The bytes, and zeros to the next multiple of the alignment."""
    return raw + bytes(up(len(raw)) - len(raw))
