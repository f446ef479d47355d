"""Named tensors inside one file: the part that every container of weights has in common."""
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from ..dtypes import FLOATS
from ..errors import FormatError, NotFoundError, StorageError
from .quant import DECODERS
from .rejections import TruncatedData

CHUNK = 4 << 20  # bytes held at a time when a payload is streamed

# Dense dtypes by file name, as NumPy reads them in place; all little-endian.
DENSE = {**FLOATS, "F64": np.dtype("<f8"), "I64": np.dtype("<i8"), "I32": np.dtype("<i4"),
         "I16": np.dtype("<i2"), "I8": np.dtype("i1"), "U64": np.dtype("<u8"),
         "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
         "BOOL": np.dtype("?"), "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
         "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2), "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu)}


@dataclass(frozen=True)
class TensorEntry:
    """One row of a tensor table."""

    name: str
    dtype: str
    """Name in the file: "F32", "BF16", "Q4_K", ..."""
    shape: tuple
    offset: int
    """Bytes from the start of the file's data section."""
    nbytes: int
    """Payload size, padding not counted."""

    @property
    def count(self):
        """Elements that the shape promises, as a Python integer."""
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def is_placeholder(self):
        """An entry with a shape and no bytes: the tied head as the reference writes it."""
        return self.nbytes == 0 and self.count > 0


class TensorFile:
    """The tensors of one file, memory-mapped on first use.

    Views are read-only, copy nothing and stay valid after close(). A file must not be truncated
    while it is open: the operating system answers that with a bus error.
    """

    def __init__(self, path, tensors, data_start):
        self.path = Path(path)
        self.tensors = tensors
        self.data_start = data_start
        self._map = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        """Let go of the mapping; it disappears with the last view."""
        self._map = None

    def bytes_of(self, name):
        """The payload as a read-only uint8 view."""
        entry = self.tensors[name]
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r").view(np.ndarray)
        start = self.data_start + entry.offset
        return self._map[start:start + entry.nbytes]

    def array(self, name):
        """A dense tensor as a read-only view in its own dtype and shape."""
        entry = self.tensors[name]
        if entry.dtype not in DENSE:
            raise FormatError(f"{self.path}: {name} is stored as {entry.dtype}, which is no dense "
                              "type; its values have to be decoded")
        if entry.is_placeholder:
            raise FormatError(f"{self.path}: {name} has a shape and no bytes; the tied head is "
                              "the embedding")
        return self.bytes_of(name).view(DENSE[entry.dtype]).reshape(entry.shape)

    def values(self, name):
        """A tensor to compute with: a view if it is dense, else decoded to float32."""
        entry = self.tensors[name]
        if entry.dtype in DENSE:
            return self.array(name)
        with np.errstate(all="ignore"):  # an infinite scale gives NaN, which the caller sees
            return DECODERS[entry.dtype](self.bytes_of(name), entry.shape)

    def chunks(self, name, nbytes=CHUNK):
        """The payload in pieces, read rather than mapped, so that memory stays at one piece."""
        entry = self.tensors[name]
        left = entry.nbytes
        try:
            with open(self.path, "rb") as file:
                file.seek(self.data_start + entry.offset)
                while left:
                    piece = file.read(min(nbytes, left))
                    if not piece:
                        raise TruncatedData(f"{self.path}: {name}: the file became {left} bytes "
                                            "shorter while it was read")
                    left -= len(piece)
                    yield piece
        except OSError as error:
            raise StorageError(f"{self.path}: {name} cannot be read: {error.strerror}") from error

    def file_of(self, name):
        """Name of the file that holds a tensor."""
        return self.path.name


def existing_file(path):
    """Path of a regular file, or the error that says what is there instead."""
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder")
    if not path.is_file():
        raise FormatError(f"{path}: is not a regular file")
    return path
