"""Machine code as the linker writes it, an ELF file, and what it says of the kernel inside.

The facts are read from the code itself: a linker that takes the code from a cache of its own
reports nothing. NVIDIA documents no part of this format; the record codes are those that
`cuobjdump -elf` names, and tests compare each fact with the linker's report where there is one.
"""
import struct
from dataclasses import dataclass
from functools import cached_property

from ..errors import AprnbError

HEADER = struct.Struct("<4s5B7x2HI3QI6H")
SECTION = struct.Struct("<2I4Q2I2Q")
SYMBOL = struct.Struct("<I2BH2Q")
CUDA, EXECUTABLE = 190, 2  # ELF's numbers of the machine and of linked code
SYMBOLS, NO_BITS = 2, 8  # section types: a table of symbols; one that has no bytes in the file
SIZED = 4  # the form of a record that has its length with it
REGISTERS, FRAME = 0x2F, 0x11  # EIATTR_REGCOUNT, EIATTR_FRAME_SIZE: pairs (symbol, value)
RESERVED = 1024
"""Bytes of a block's shared memory that the system takes on compute capability 9.0 and newer; a
kernel's section counts them."""


class CubinError(AprnbError):
    """Bytes that are not the machine code of one kernel."""


@dataclass(frozen=True)
class Cubin:
    """Machine code of one kernel for one architecture, and what is known of it."""

    code: bytes
    symbol: str
    """The kernel's name in the code."""
    registers: int
    stack: int
    """Bytes of local memory a thread has."""
    shared: int
    """Bytes of static shared memory."""
    spills: int
    """Bytes of spill stores and loads. The code does not tell them from other local memory: the
    linker's report does."""


def read_cubin(code, spills):
    """The Cubin of these bytes.  Errors: CubinError unless they are one kernel, undamaged."""
    try:
        return _Elf(code).cubin(spills)
    except (struct.error, IndexError, OverflowError, UnicodeDecodeError) as error:
        raise CubinError(f"no machine code of one kernel: {error}") from error


class _Elf:
    """The sections of an ELF file. Damage is a CubinError or what struct and indexing raise."""

    def __init__(self, code):
        self.code = code
        (magic, width, order, _, _, _, kind, machine, _, _, segments, start, _, _, of_segment,
         segment_count, size, count, names) = HEADER.unpack_from(code)
        _need(magic == b"\x7fELF" and (width, order) == (2, 1), "it is no ELF file of 64 bits")
        _need(machine == CUDA, f"it is code for machine {machine}, need {CUDA}")
        _need(kind == EXECUTABLE, f"it is an ELF file of kind {kind}, need {EXECUTABLE}")
        _need(size == SECTION.size, f"its sections have headers of {size} bytes")
        self.sections = [SECTION.unpack_from(code, start + i * size) for i in range(count)]
        _need(segments + of_segment * segment_count <= len(code), "it is cut off")
        self.named = {self._text(names, section[0]): i for i, section in enumerate(self.sections)}

    def cubin(self, spills):
        """The Cubin of the one kernel inside."""
        kernels = [name for name in self.named if name.startswith(".text.")]
        _need(len(kernels) == 1, f"it holds {len(kernels)} kernels, need 1")
        symbol = kernels[0].removeprefix(".text.")
        number = self._symbol_number(symbol)
        registers = self._fact(REGISTERS, number, "registers")
        _need(0 < registers < 256, f"a thread of it has {registers} registers")
        for section in range(len(self.sections)):
            self._bytes(section)
        return Cubin(self.code, symbol, registers, self._fact(FRAME, number, "stack"),
                     self._shared(symbol), spills)

    def _bytes(self, number):
        """What a section holds."""
        _, kind, _, _, start, size, *_ = self.sections[number]
        held = b"" if kind == NO_BITS else self.code[start:start + size]
        _need(kind == NO_BITS or len(held) == size, "it is cut off")
        return held

    def _text(self, table, at):
        """The text that begins at a byte of a section of texts."""
        text, end, _ = self._bytes(table)[at:].partition(b"\0")
        _need(end, "a name in it has no end")
        return text.decode()

    def _symbol_number(self, symbol):
        table = self.named.get(".symtab")
        _need(table is not None and self.sections[table][1] == SYMBOLS, "it has no symbols")
        texts = self.sections[table][6]
        found = [i for i, entry in enumerate(SYMBOL.iter_unpack(self._bytes(table)))
                 if self._text(texts, entry[0]) == symbol]
        _need(len(found) == 1, f"{len(found)} symbols have the kernel's name, need 1")
        return found[0]

    @cached_property
    def _records(self):
        """(code, symbol) -> value, of all records of .nv.info that are such pairs."""
        _need(".nv.info" in self.named, "it has no .nv.info")
        held, at, found = self._bytes(self.named[".nv.info"]), 0, {}
        while at < len(held):
            form, code, size = struct.unpack_from("<2BH", held, at)
            at += 4
            if form == SIZED:
                if code in (REGISTERS, FRAME):
                    symbol, value = struct.unpack_from("<2I", held, at)
                    found[code, symbol] = value
                at += size
        return found

    def _fact(self, code, symbol, what):
        _need((code, symbol) in self._records, f"it does not name the kernel's {what}")
        return self._records[code, symbol]

    def _shared(self, symbol):
        section = self.named.get(f".nv.shared.{symbol}")
        if section is None:
            return 0
        reserved = RESERVED if ".nv.shared.reserved.0" in self.named else 0
        size = self.sections[section][5] - reserved
        _need(size >= 0, f"its shared memory is {-size} bytes smaller than what is reserved")
        return size


def _need(condition, text):
    if not condition:
        raise CubinError(f"no machine code of one kernel: {text}")
