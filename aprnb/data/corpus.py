"""Documents of a corpus: records of .jsonl and .json, whole .txt and .py, rows of .parquet.

Texts may be packed as .gz or .zst, and links are followed; walk.py says what of a folder is read
and names the rest. Every text file is checked for UTF-8 before the first document is read: files
that are not are skipped, counted and named, and when they hold more than 1 % of the bytes the
corpus is refused. Nothing in a text is changed: CRLF, byte-order marks and trailing spaces stay.
Memory is bounded by PIECE_CHARS, or by the longest record, however large the corpus.
"""
import codecs
import io
import json
import os
from pathlib import Path
from typing import NamedTuple

from ..errors import CheckError, MissingPackageError
from .cuts import last_cut
from .json_values import JsonValues
from .unpack import READ_BYTES, unpacked
from .walk import SUFFIXES, Walk, kind_of, summary

MAX_SKIPPED = 0.01  # share of the bytes that may lie in files that are not UTF-8
PIECE_CHARS = 1 << 24  # a longer .txt or .py is read in pieces, cut at the end of a line
FIELDS = 5  # with texts, named of a .json without the one that is read
USUAL_FIELDS = ("text", "content", "body", "raw_content", "document")
JSON_TYPES = {type(None): "null", bool: "true or false", int: "a number", float: "a number",
              list: "an array", dict: "an object"}


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

    `include` takes what folders leave out for its name. Errors: NotFoundError, UsageError (suffix,
    pipe, include), CheckError (no file, > 1 % not UTF-8, bad record, damaged .json, .gz or .zst),
    MissingPackageError (.parquet without pyarrow, .zst without zstandard).
    """

    def __init__(self, paths, content_field="content", include=()):
        self.content_field = content_field
        walk = Walk([Path(path) for path in paths], include)
        self.left_out = walk.left_out
        """Reason -> names of what was found and is not read."""
        if any(kind_of(file).suffix == ".parquet" for file in walk.files):
            parquet_reader()
        bad = {file for file in walk.files
               if kind_of(file).suffix != ".parquet" and not is_utf8(file)}
        found, other_fields = [], []
        for file in walk.files:
            if file in walk.named or file in bad or kind_of(file).suffix != ".json":
                found.append(file)
                continue
            reason, fields = self.why_no_records(file)
            if reason:
                other_fields += fields
                walk.leave_out(reason, f"{file}{texts_in(fields)}")
            else:
                found.append(file)
        if not found:
            hint = (f"; the .json hold {texts_in(other_fields, '{}')}: take one with "
                    f"--content-field {best_field(other_fields)}" if other_fields else "")
            raise CheckError(f"{', '.join(map(str, paths))}: no {', '.join(SUFFIXES)} file"
                             f"{self.left_out_in_words()}{hint}; an empty corpus cannot be used")
        self.files = [file for file in found if file not in bad]
        self.skipped = [file for file in found if file in bad]
        for file in self.skipped:
            walk.leave_out("not UTF-8", file)
        self.nbytes = sum(file.stat().st_size for file in self.files)
        """Bytes in the files that will be read."""
        self.skipped_nbytes = sum(file.stat().st_size for file in self.skipped)
        self.empty = 0
        """Documents without a character that the last iteration came across."""
        self.held_out = [file for file in self.files
                         if file in walk.held_out and file not in walk.named]
        """Files of a folder that are read although their names say that they are held out."""
        self.refuse_invalid()

    def left_out_in_words(self):
        """" (left out: 3 hidden, 1 unknown suffix)", or nothing."""
        counts = ", ".join(f"{len(names)} {reason}" for reason, names in self.left_out.items())
        return f" (left out: {counts})" if counts else ""

    def left_out_summary(self):
        """What is not read, by reason, with counts and the first names; JSON-able."""
        return summary(self.left_out)

    @property
    def repeated(self):
        """How many files are read more than once, being named by more than one path."""
        return len(self.files) - len({os.path.realpath(file) for file in self.files})

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
        """Suffixes that occur, such as "jsonl" or "jsonl.gz+py"."""
        return "+".join(sorted({"".join(kind_of(file))[1:] for file in self.files}))

    def __iter__(self):
        self.empty = 0
        for file in self.files:
            try:
                for document in self.read(file):
                    self.empty += document.opens and not document.text
                    yield document
            except UnicodeDecodeError as error:
                raise CheckError(f"{file}: not UTF-8 at byte {error.start}; "
                                 "convert or remove it") from error

    def read(self, file):
        """Documents of one file."""
        kind = kind_of(file)
        if kind.suffix == ".parquet":
            return self.read_rows(file)
        if kind.suffix == ".jsonl":
            return self.read_lines(file)
        return self.read_values(file) if kind.suffix == ".json" else read_pieces(file)

    def read_lines(self, file):
        with unpacked(file) as (lines, beneath):
            consumed = Consumed(beneath)
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{file}:{number}"
                    yield document(self.content_of(line, where), consumed(), where)

    def content_of(self, line, where):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CheckError(f"{where}: not valid JSON: {error}") from error
        return self.text_of(record, where)

    def read_values(self, file):
        with unpacked(file) as (stream, beneath):
            consumed = Consumed(beneath)
            values = enumerate(JsonValues(io.TextIOWrapper(stream, "utf-8")), 1)
            try:
                for number, record in values:
                    where = f"{file}: record {number}"
                    text = self.text_of(record, where)
                    yield document(text, consumed(), where)
            except ValueError as error:
                if isinstance(error, UnicodeDecodeError):
                    raise
                raise CheckError(f"{file}: {error}") from error

    def why_no_records(self, file):
        """(why a .json of a folder is left out, the fields in which it holds texts), or (None, []).

        Other .json abound, so one is read where any record has a text in the field, and is none of
        this corpus where no record has. Errors: CheckError (damaged before its first text).
        """
        fields = {}
        try:
            with unpacked(file) as (stream, _):
                for record in JsonValues(io.TextIOWrapper(stream, "utf-8")):
                    if isinstance(record, dict):
                        if isinstance(record.get(self.content_field), str):
                            return None, []
                        fields |= {key: True for key, value in record.items()
                                   if isinstance(value, str)}
        except ValueError as error:
            if spells(file, self.content_field):
                raise CheckError(f"{file}: {error}; mend it, or take it out of the corpus"
                                 ) from error
            return "not valid JSON", []
        return f"no record with a text in field {self.content_field!r}", list(fields)

    def text_of(self, record, where):
        """The text of a record. Errors: CheckError that says what stands in its place."""
        field = self.content_field
        if isinstance(record, list):
            raise CheckError(f"{where}: an array where a record is needed, got list; a .jsonl has "
                             "an object a line: name a file that is one array .json")
        if not isinstance(record, dict):
            raise CheckError(f"{where}: no text in field {field!r}, got "
                             f"{type(record).__name__}; need an object with that field")
        if field not in record:
            raise CheckError(f"{where}: no text in field {field!r}, got {sorted(record)}; "
                             "name the right one with --content-field")
        if not isinstance(record[field], str):
            raise CheckError(f"{where}: no text in field {field!r}, which holds "
                             f"{JSON_TYPES[type(record[field])]}; take the record out, or make it "
                             "a text")
        return record[field]

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


def texts_in(fields, form=" ({})"):
    """" (texts in 'text', 'url')", or nothing."""
    names = list(dict.fromkeys(fields))
    more = ", ..." if len(names) > FIELDS else ""
    shown = "texts in " + ", ".join(map(repr, names[:FIELDS])) + more
    return form.format(shown) if names else ""


def best_field(fields):
    """The field that is most likely meant: a usual name of texts, else the first."""
    return next((name for name in USUAL_FIELDS if name in fields), fields[0])


def spells(file, word):
    """Whether a text file holds the word in quotes, as a .json with such a field does."""
    sought, before = json.dumps(word, ensure_ascii=False).encode(), b""
    with unpacked(file) as (data, _):
        while block := data.read(READ_BYTES):
            if sought in before + block:
                return True
            before = block[-len(sought):]
    return False


def document(text, progress, where):
    try:
        return Document(text, len(text.encode()), progress)
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair
        raise CheckError(f"{where}: holds a lone surrogate (character {error.start}), which is "
                         "not text; remove it") from error


class Consumed:
    """How many bytes of a corpus file were read since the last call."""

    def __init__(self, beneath):
        self._beneath, self._before = beneath, 0

    def __call__(self):
        now = self._beneath.tell()
        before, self._before = self._before, now
        return now - before


def read_pieces(file):
    """One document, or pieces of about PIECE_CHARS characters that end where a line ends."""
    with unpacked(file) as (stream, beneath):
        text = io.TextIOWrapper(stream, "utf-8", newline="")  # newline="": CRLF is kept
        consumed = Consumed(beneath)
        opens, rest = True, ""
        while block := rest + text.read(PIECE_CHARS):
            cut = last_cut(block) if len(block) >= PIECE_CHARS else len(block)
            piece, rest = block[:cut], block[cut:]
            yield Document(piece, len(piece.encode()), consumed(), opens)
            opens = False


def is_utf8(file):
    """Whether the whole file decodes, read in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with unpacked(file) as (data, _):
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
