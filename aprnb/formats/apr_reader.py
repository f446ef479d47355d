"""Reader of APR v2: every rule of the container is checked before a tensor is handed out.

Order of checks: magic, version, header checksum, flags, section ranges, metadata, index, extents,
head shapes, footer; the first that fails names the error (rejections.py). Sizes are Python
integers and nothing is allocated from a number in the file before that number has been compared
with the length of the file, so a header that lies is refused in milliseconds.
"""
import json
import mmap
import struct
import zlib

from ..config import APR_ALIASES
from .apr_layout import (ALIGN, CODES, COLUMN_MAJOR, DTYPE_OF_CODE, FLAGS, FOOTER, HEADER,
                         HEADER_FIELDS, MAGIC, MAGIC_V1, MAX_METADATA, MAX_RANK, UNREADABLE,
                         header_checksum, payload_sizes)
from .rejections import (BadMagic, BadShape, BadTensorName, BadVersion, ColumnMajorLayout,
                         DuplicateName, FileTooShort, FooterMismatch, HeaderChecksumMismatch,
                         HeadShapeError, IndexTruncated, MetadataError, MisalignedOffset,
                         NamesOutOfOrder, OverlappingPayloads, SectionOutOfFile,
                         SectionsOutOfOrder, SizeMismatch, TruncatedData, UnknownDtype,
                         UnsupportedCompression, V1Container)
from .tensors import CHUNK, TensorEntry, TensorFile, existing_file


class AprFile(TensorFile):
    """An open .apr file: `header` and `metadata` dicts, `flags`, `tensors`, `warnings`."""

    def __init__(self, path, header, metadata, tensors, warnings, verified):
        super().__init__(path, tensors, header["data_offset"])
        self.header = header
        self.flags = header["flags"]
        self.metadata = metadata
        self.warnings = warnings
        self.verified = verified

    @property
    def flag_names(self):
        """Names of the flags that are set; unassigned bits as hexadecimal numbers."""
        bits = [1 << i for i in range(16) if self.flags >> i & 1]
        return [FLAGS.get(bit, f"0x{bit:04x}") for bit in bits]


def read_apr(path, verify=True):
    """Open an .apr file after checking it.

    verify=False leaves out what needs the payload bytes (the footer's checksum and the padding
    between payloads): for looking at the headers of big files.
    Errors:  NotFoundError; one class of rejections.py per rule.
    """
    path = existing_file(path)
    with open(path, "rb") as file:
        head = file.read(HEADER.size)
        header = parse_header(head, path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole, \
                memoryview(whole) as view:
            length = len(view)
            _check_sections(header, length, path)
            start, size = header["metadata_offset"], header["metadata_size"]
            metadata = parse_metadata(bytes(view[start:start + size]), path)
            with view[header["tensor_index_offset"]:header["data_offset"]] as index:
                tensors, index_size = _parse_index(index, header["tensor_count"], path)
            _check_extents(tensors, metadata, header["data_offset"], length, path)
            _check_heads(tensors, metadata, path)
            gaps = [(start + size, header["tensor_index_offset"]),
                    (header["tensor_index_offset"] + index_size, header["data_offset"])]
            if verify:
                _check_footer(file, length, path)
                gaps += _gaps_between_payloads(tensors, header["data_offset"], length)
            warnings = _padding_warnings(view, gaps)
    return AprFile(path, header, metadata, tensors, warnings, verify)


# ---------------------------------------------------------------- header and sections

def parse_header(head, path):
    """The 64 header bytes as a dict, after magic, version, checksum and flags were checked."""
    magic = head[:4]
    if magic == MAGIC_V1:
        raise V1Container(f"{path}: is a version 1 container (\"APRN\", classic models), which is "
                          "recognised but not read; need version 2")
    if magic != MAGIC:
        raise BadMagic(f"{path}: starts with {bytes(magic)!r}, need {MAGIC!r}; this is no .apr "
                       "file, or its beginning is damaged")
    if len(head) < HEADER.size:
        raise FileTooShort(f"{path}: has {len(head)} bytes, a header alone needs {HEADER.size}; "
                           "the file is cut off")
    header = dict(zip(HEADER_FIELDS, HEADER.unpack(head)))
    if header["version_major"] != 2:
        raise BadVersion(f"{path}: container version {header['version_major']}."
                         f"{header['version_minor']}, need 2.x")
    computed = header_checksum(head)
    if computed != header["header_checksum"]:
        raise HeaderChecksumMismatch(
            f"{path}: header checksum {header['header_checksum']:08x} stored, {computed:08x} "
            "computed; the file is damaged, import or copy it again")
    _check_flags(header["flags"], path)
    return header


def _check_flags(flags, path):
    """Refuse column-major payloads and any that are compressed or encrypted."""
    if flags & COLUMN_MAJOR:
        raise ColumnMajorLayout(f"{path}: flags 0x{flags:04x} say column-major, need row-major")
    if flags & UNREADABLE:
        names = [FLAGS[bit] for bit in FLAGS if flags & UNREADABLE & bit]
        raise UnsupportedCompression(f"{path}: flags 0x{flags:04x} say {', '.join(names)}, which "
                                     "is not supported; write the file again without")


def _check_sections(header, length, path):
    """64 <= metadata <= index <= data, all inside the file."""
    metadata_end = header["metadata_offset"] + header["metadata_size"]
    places = (("metadata begins", header["metadata_offset"]), ("metadata ends", metadata_end),
              ("tensor index begins", header["tensor_index_offset"]),
              ("data begin", header["data_offset"]))
    for what, place in places:
        if place > length:
            raise SectionOutOfFile(f"{path}: {what} at byte {place}, the file holds {length} "
                                   "bytes; it is cut off or damaged")
    before = HEADER.size
    for what, place in places:
        if place < before:
            raise SectionsOutOfOrder(f"{path}: {what} at byte {place}, need {before} or more; "
                                     "sections overlap or are out of order")
        before = place
    if header["data_offset"] % ALIGN:
        raise MisalignedOffset(f"{path}: data begin at byte {header['data_offset']}, need a "
                               f"multiple of {ALIGN}")


# ---------------------------------------------------------------- metadata

def parse_metadata(raw, where, error=MetadataError):
    """One JSON object from bytes; of duplicate keys the last wins, as old checkpoints need."""
    if len(raw) > MAX_METADATA:
        raise error(f"{where}: {len(raw)} bytes of metadata, at most {MAX_METADATA} are read")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError, MemoryError) as cause:
        reason = "nested too deeply" if isinstance(cause, RecursionError) else cause
        raise error(f"{where}: metadata is not JSON in UTF-8: {reason}") from None
    if not isinstance(value, dict):
        raise error(f"{where}: metadata is a JSON {type(value).__name__}, need an object")
    return value


def _no_constant(name):
    """json hook: NaN and Infinity are Python's own additions."""
    raise ValueError(f"{name} is not JSON")


def _finite(text):
    """json hook: a number too large for a double would silently become infinite."""
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"number {text[:40]} is out of range")
    return value


# ---------------------------------------------------------------- tensor index

def _parse_index(view, count, path):
    """(tensors by name, bytes used) of the packed entries; loops at most as far as bytes reach."""
    tensors, at, previous = {}, 0, None
    for number in range(count):
        try:
            raw, entry, at = _parse_entry(view, at, path)
        except struct.error:
            raise IndexTruncated(f"{path}: tensor index of {len(view)} bytes ends within entry "
                                 f"{number} of {count}") from None
        if previous is not None and raw == previous:
            raise DuplicateName(f"{path}: tensor {entry.name} is listed twice")
        if previous is not None and raw < previous:
            raise NamesOutOfOrder(f"{path}: tensor {entry.name} follows {previous.decode()}, need "
                                  "ascending byte order")
        previous = raw
        tensors[entry.name] = entry
    return tensors, at


def _parse_entry(view, at, path):
    """(name bytes, TensorEntry, position after it); struct.error where the bytes end."""
    (length,) = struct.unpack_from("<H", view, at)
    (raw,) = struct.unpack_from(f"{length}s", view, at + 2)
    at += 2 + length
    name = _tensor_name(raw, path)
    code, rank = struct.unpack_from("<BB", view, at)
    if code not in DTYPE_OF_CODE:
        raise UnknownDtype(f"{path}: {name} has dtype code {code}; known codes: "
                           f"{', '.join(f'{c} {n}' for n, c in CODES.items())}")
    if rank > MAX_RANK:
        raise BadShape(f"{path}: {name} has {rank} dimensions, at most {MAX_RANK} are read")
    shape = struct.unpack_from(f"<{rank}Q", view, at + 2)
    offset, size = struct.unpack_from("<QQ", view, at + 2 + 8 * rank)
    entry = TensorEntry(name, DTYPE_OF_CODE[code], shape, offset, size)
    return raw, entry, at + 18 + 8 * rank


def _tensor_name(raw, path):
    """Names are shown and compared, so they have to be text without control characters."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    if not name or not name.isprintable():
        raise BadTensorName(f"{path}: tensor name {raw[:80]!r} is not printable UTF-8")
    return name


# ---------------------------------------------------------------- extents

def _check_extents(tensors, metadata, data_offset, length, path):
    """Every payload aligned, inside the file, of the size its shape says, and its own."""
    room = length - FOOTER.size - data_offset
    if room < 0:
        raise TruncatedData(f"{path}: data begin at byte {data_offset}, the file holds {length} "
                            f"bytes, {FOOTER.size} of them its checksum; it is cut off")
    for entry in tensors.values():
        if entry.offset % ALIGN:
            raise MisalignedOffset(f"{path}: {entry.name} begins at data byte {entry.offset}, "
                                   f"need a multiple of {ALIGN}")
        if entry.offset + entry.nbytes > room:
            raise TruncatedData(f"{path}: {entry.name} ends at data byte "
                                f"{entry.offset + entry.nbytes}, the file holds {room}; it is cut "
                                "off or damaged")
        sizes = payload_sizes(entry.dtype, entry.shape)
        if entry.nbytes not in sizes and not _is_tied_placeholder(entry, metadata):
            raise SizeMismatch(f"{path}: {entry.name} {entry.dtype} {list(entry.shape)} has "
                               f"{entry.nbytes} bytes, need {sizes[0]}")
    _check_overlaps(tensors, path)


def _is_tied_placeholder(entry, metadata):
    """The one legal mismatch: the tied head as an entry with a shape and no bytes."""
    return (entry.name == "lm_head.weight" and entry.nbytes == 0 and entry.offset == 0
            and metadata.get("tied_embeddings") is True)


def _by_offset(tensors):
    """Entries that own bytes, in file order, which need not be index order."""
    return sorted((t for t in tensors.values() if t.nbytes), key=lambda t: t.offset)


def _check_overlaps(tensors, path):
    """Neighbours in file order suffice; empty payloads own nothing."""
    ordered = _by_offset(tensors)
    for before, after in zip(ordered, ordered[1:]):
        if before.offset + before.nbytes > after.offset:
            raise OverlappingPayloads(f"{path}: {before.name} ends at data byte "
                                      f"{before.offset + before.nbytes}, but {after.name} begins "
                                      f"at {after.offset}")


def _check_heads(tensors, metadata, path):
    """q rows / num_heads = k rows / num_kv_heads = head_dim, as far as the counts are given."""
    counts = {}
    for letter, key in (("q", "num_heads"), ("k", "num_kv_heads")):
        value = next((metadata[s] for s in APR_ALIASES[key] if metadata.get(s) is not None), None)
        if isinstance(value, int) and value > 0:
            counts[letter] = (key, value)
    stored = metadata.get("head_dim")
    for name, entry in tensors.items():
        if not name.endswith(".self_attn.q_proj.weight") or not entry.shape:
            continue
        key_name = name.replace("q_proj", "k_proj")
        pair = {"q": entry, "k": tensors.get(key_name, entry)}
        quotients = {}
        for letter, (key, heads) in counts.items():
            if letter == "k" and key_name not in tensors:
                continue
            rows = pair[letter].shape[0] if pair[letter].shape else 0
            if rows % heads:
                raise HeadShapeError(f"{path}: {pair[letter].name} has {rows} rows, which {key} "
                                     f"{heads} does not divide")
            quotients[letter] = rows // heads
        if isinstance(stored, int):
            quotients["stored"] = stored
        if len(set(quotients.values())) > 1:
            raise HeadShapeError(f"{path}: {name}: head_dim by rows and head counts: {quotients}; "
                                 "they must agree, the counts or the shapes are untrue")


# ---------------------------------------------------------------- footer and padding

def _check_footer(file, length, path):
    """CRC-32 of all bytes but the last four, read in pieces rather than through the mapping."""
    file.seek(0)
    crc, left = 0, length - FOOTER.size
    while left:
        piece = file.read(min(CHUNK, left))
        if not piece:
            raise TruncatedData(f"{path}: the file became shorter while it was read")
        crc = zlib.crc32(piece, crc)
        left -= len(piece)
    (stored,) = FOOTER.unpack(file.read(FOOTER.size))
    if stored != crc:
        raise FooterMismatch(f"{path}: checksum {stored:08x} stored, {crc:08x} computed over the "
                             "whole file; it is damaged or was edited, import or copy it again")


def _gaps_between_payloads(tensors, data_offset, length):
    """Byte ranges of the file that no payload covers, from data to footer."""
    gaps, at = [], data_offset
    for entry in _by_offset(tensors):
        gaps.append((at, data_offset + entry.offset))
        at = data_offset + entry.offset + entry.nbytes
    gaps.append((at, length - FOOTER.size))
    return gaps


def _padding_warnings(view, gaps):
    """Padding is shorter than 64 bytes and zero; anything else is said, not refused."""
    warnings = []
    for start, end in gaps:
        if end - start >= ALIGN:
            warnings.append(f"{end - start} bytes from byte {start} on belong to no tensor")
        if any(bytes(view[at:min(at + CHUNK, end)]).strip(b"\0")
               for at in range(start, end, CHUNK)):
            warnings.append(f"padding from byte {start} to {end} is not zero")
    return warnings
