"""Files of a corpus as streams of bytes, unpacked where they are .gz or .zst.

Both formats hold checksums and an end mark, so a file that was damaged or cut is noticed and named;
a cut .zst would otherwise just end early.
"""
import gzip
import io
import zlib
from contextlib import contextmanager

from ..errors import CheckError, MissingPackageError
from .walk import kind_of

READ_BYTES = 1 << 20


@contextmanager
def unpacked(file):
    """Yield (stream of the content, the file beneath, whose `tell` says how far it was read).

    Errors: CheckError (a damaged or cut .gz or .zst), MissingPackageError (.zst).
    """
    packing = kind_of(file).packing
    with open(file, "rb") as beneath:
        if not packing:
            yield beneath, beneath
            return
        opened = gzip.GzipFile(fileobj=beneath) if packing == ".gz" else Unzst(beneath)
        try:
            with io.BufferedReader(opened, READ_BYTES) as stream:
                yield stream, beneath
        except (gzip.BadGzipFile, EOFError, zlib.error, DamagedZst) as error:
            raise CheckError(f"{file}: a damaged or cut {packing} file: {error}; fetch or pack it "
                             "anew, or take it out of the corpus") from error


class DamagedZst(Exception):
    """A .zst that does not unpack; never seen outside of this module."""


class Unzst(io.RawIOBase):
    """The content of a .zst, frame after frame. Errors: DamagedZst, also where it is cut."""

    def __init__(self, beneath):
        self._library = zstandard()
        self._beneath, self._frame, self._ready = beneath, None, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._ready:
            block = self._frame.unused_data if self._frame and self._frame.eof else b""
            block = block or self._beneath.read(READ_BYTES // 8)
            if not block:
                if self._frame and not self._frame.eof:
                    raise DamagedZst("it ends before its end mark")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                self._ready = self._frame.decompress(block)
            except self._library.ZstdError as error:
                raise DamagedZst(str(error)) from error
        n = min(len(buffer), len(self._ready))
        buffer[:n], self._ready = self._ready[:n], self._ready[n:]
        return n


def zstandard():
    """The library, or the extra that brings it."""
    try:
        import zstandard
    except ImportError as error:
        raise MissingPackageError(".zst needs zstandard: install the extra `data`, "
                                  "pip install 'aprnb[data]'") from error
    return zstandard
