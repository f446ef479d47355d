"""Documents of a corpus: .jsonl (one object a line), .txt and .py (one file), .parquet (one row).

Folders are walked recursively, in lexical order, taking the suffixes above. Every text file is
checked for UTF-8 before the first document is read: files that are not are skipped, counted and
named, and when they hold more than 1 % of the bytes the corpus is refused. Nothing in a text is
changed: CRLF, byte-order marks and trailing spaces stay. Memory is bounded by PIECE_CHARS, or by
the longest line of a .jsonl, however large the corpus.
"""
import codecs
import json
import os
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckError, MissingPackageError, NotFoundError, UsageError
from .cuts import last_cut

SUFFIXES = (".jsonl", ".txt", ".py", ".parquet")
MAX_SKIPPED = 0.01  # share of the bytes that may lie in files that are not UTF-8
READ_BYTES = 1 << 20
PIECE_CHARS = 1 << 24  # a longer .txt or .py is read in pieces, cut at the end of a line


class Document(NamedTuple):
    """A text, or a later piece of a very long one."""

    text: str
    nbytes: int
    """Size in UTF-8 bytes."""
    progress: int
    """Bytes of the corpus file that were consumed for it."""
    opens: bool = True
    """False for the second and later pieces of one document: no end-of-text between them."""


class Corpus:
    """The documents of files and folders, in a fixed order; iterate to stream them.

    Errors: NotFoundError, UsageError (suffix), CheckError (no file, > 1 % not UTF-8, bad line),
    MissingPackageError (.parquet without pyarrow).
    """

    def __init__(self, paths, content_field="content"):
        self.content_field = content_field
        found = [file for path in paths for file in files_of(Path(path))]
        if not found:
            raise CheckError(f"{', '.join(map(str, paths))}: no {', '.join(SUFFIXES)} file; "
                             "an empty corpus cannot be used")
        if any(file.suffix == ".parquet" for file in found):
            parquet_reader()
        bad = {file for file in found if file.suffix != ".parquet" and not is_utf8(file)}
        self.files = [file for file in found if file not in bad]
        self.skipped = [file for file in found if file in bad]
        self.nbytes = sum(file.stat().st_size for file in self.files)
        """Bytes in the files that will be read."""
        self.skipped_nbytes = sum(file.stat().st_size for file in self.skipped)
        self.refuse_invalid()

    def refuse_invalid(self):
        total = self.nbytes + self.skipped_nbytes
        if self.skipped and self.skipped_nbytes > MAX_SKIPPED * total:
            names = ", ".join(map(str, self.skipped[:5]))
            raise CheckError(
                f"{len(self.skipped)} of {len(self.files) + len(self.skipped)} files are not UTF-8 "
                f"and hold {self.skipped_nbytes / total:.1%} of the bytes, 1 % is allowed: {names}"
                f"{', ...' if len(self.skipped) > 5 else ''}; convert or remove them")

    @property
    def input_format(self):
        """Suffixes that occur, such as "jsonl" or "py+txt"."""
        return "+".join(sorted({file.suffix[1:] for file in self.files}))

    def __iter__(self):
        for file in self.files:
            try:
                yield from self.read(file)
            except UnicodeDecodeError as error:
                raise CheckError(f"{file}: not UTF-8 at byte {error.start}; "
                                 "convert or remove it") from error

    def read(self, file):
        """Documents of one file."""
        if file.suffix == ".jsonl":
            return self.read_lines(file)
        if file.suffix == ".parquet":
            return self.read_rows(file)
        return read_pieces(file)

    def read_lines(self, file):
        with open(file, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield document(self.content_of(line, f"{file}:{number}"), len(line),
                                   f"{file}:{number}")

    def content_of(self, line, where):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckError(f"{where}: not valid JSON: {error}") from error
        keys = sorted(record) if isinstance(record, dict) else type(record).__name__
        if not isinstance(record, dict) or not isinstance(record.get(self.content_field), str):
            raise CheckError(f"{where}: no text in field {self.content_field!r}, got {keys}; "
                             "name the right one with --content-field")
        return record[self.content_field]

    def read_rows(self, file):
        arrow, parquet = parquet_reader()
        row = 0
        try:
            with parquet.ParquetFile(file) as table:
                if self.content_field not in table.schema_arrow.names:
                    raise CheckError(f"{file}: no column {self.content_field!r}, got "
                                     f"{table.schema_arrow.names}; name the right one with "
                                     "--content-field")
                share = file.stat().st_size // max(1, table.metadata.num_rows)
                for batch in table.iter_batches(256, columns=[self.content_field]):
                    for text in batch.column(0).to_pylist():
                        row += 1
                        if not isinstance(text, str):
                            raise CheckError(f"{file}: row {row} of {self.content_field!r} holds "
                                             f"{type(text).__name__}, need text")
                        yield document(text, share, f"{file}: row {row}")
        except arrow.ArrowException as error:
            raise CheckError(f"{file}: not a readable Parquet file: {error}") from error


def document(text, progress, where):
    try:
        return Document(text, len(text.encode()), progress)
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise CheckError(f"{where}: holds a lone surrogate (character {error.start}), which is "
                         "not text; remove it") from error


def read_pieces(file):
    """One document, or pieces of about PIECE_CHARS characters that end where a line ends."""
    with open(file, encoding="utf-8", newline="") as text:  # newline="": CRLF is kept
        opens, rest = True, ""
        while block := rest + text.read(PIECE_CHARS):
            cut = last_cut(block) if len(block) >= PIECE_CHARS else len(block)
            piece, rest = block[:cut], block[cut:]
            nbytes = len(piece.encode())
            yield Document(piece, nbytes, nbytes, opens)
            opens = False


def files_of(path):
    """The corpus files that a path names, folders in lexical order."""
    if not path.exists():
        raise NotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise UsageError(f"{path}: cannot read {path.suffix or 'a file without suffix'}; "
                             f"need {', '.join(SUFFIXES)} or a folder")
        return [path]
    return sorted((Path(folder, name) for folder, _, names in os.walk(path) for name in names
                   if Path(name).suffix in SUFFIXES and Path(folder, name).is_file()),
                  key=lambda file: file.relative_to(path).parts)


def is_utf8(file):
    """Whether the whole file decodes, read in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open(file, "rb") as data:
        try:
            while block := data.read(READ_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def parquet_reader():
    """(pyarrow, pyarrow.parquet), or the extra that brings them."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingPackageError(".parquet needs pyarrow: install the extra `data`, "
                                  "pip install 'aprnb[data]'") from error
    return pyarrow, pyarrow.parquet
