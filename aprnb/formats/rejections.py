"""One named error per rule that a model file can break (apr-v2-format, section 11; exit code 4).

The reader checks in the order of this list and the first rule that fails names the error.
"""
from ..errors import FormatError


class BadMagic(FormatError):
    """The first four bytes are not those of the container."""


class V1Container(FormatError):
    """An "APRN" file: the older container for classic models, recognised but not read."""


class FileTooShort(FormatError):
    """Fewer bytes than a header."""


class BadVersion(FormatError):
    """A major version other than 2."""


class HeaderChecksumMismatch(FormatError):
    """The CRC-32 stored in the header is not that of its other 60 bytes."""


class ColumnMajorLayout(FormatError):
    """The column-major flag is set; weights are row-major, shape (out, in)."""


class UnsupportedCompression(FormatError):
    """LZ4, ZSTD or ENCRYPTED is set; no tool of this format compresses or encrypts payloads."""


class SectionOutOfFile(FormatError):
    """Metadata, index or data begin or end outside the file."""


class SectionsOutOfOrder(FormatError):
    """Sections overlap, or do not follow as header, metadata, index, data."""


class MetadataError(FormatError):
    """The metadata is not one JSON object in UTF-8 without NaN, of bounded depth and size."""


class IndexTruncated(FormatError):
    """The tensor index ends before its entries do."""


class BadTensorName(FormatError):
    """A tensor name is empty, too long, not UTF-8 or not printable."""


class UnknownDtype(FormatError):
    """A dtype that the format does not define."""


class BadShape(FormatError):
    """More than 8 dimensions, or a dimension that is no size."""


class NamesOutOfOrder(FormatError):
    """Index entries are not in ascending byte order of their names."""


class DuplicateName(FormatError):
    """Two tensors carry the same name."""


class MisalignedOffset(FormatError):
    """A payload does not start on a multiple of 64 bytes."""


class TruncatedData(FormatError):
    """A payload reaches past the end of the file."""


class SizeMismatch(FormatError):
    """A payload is not as long as its shape and dtype say."""


class OverlappingPayloads(FormatError):
    """Two payloads share bytes."""


class HeadShapeError(FormatError):
    """The rows of a q or k projection do not fit the head counts of the metadata."""


class FooterMismatch(FormatError):
    """The CRC-32 at the end is not that of the bytes before it: the file is damaged."""


class BadSafetensors(FormatError):
    """A safetensors header breaks its format: length, JSON, dtype, shape or offsets."""


class WrongWriteOrder(FormatError):
    """A writer was given another tensor, or another number of bytes, than it announced."""
