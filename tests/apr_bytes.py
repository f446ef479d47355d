"""An APR v2 file put together byte by byte, without the package, so that rules can be broken."""
import json
import struct
import zlib

HEADER = "<4sBBHIQIQQI20s"


def up(n):
    return -(-n // 64) * 64


def entry(name, code, shape, offset, size):
    raw = name if isinstance(name, bytes) else name.encode()
    return (struct.pack("<H", len(raw)) + raw + bytes((code, len(shape)))
            + struct.pack(f"<{len(shape)}Q", *shape) + struct.pack("<QQ", offset, size))


def build(entries, data, metadata=b'{"model_type":"x"}', count=None, **header):
    """Bytes of a file with right checksums, whatever else is wrong with it.

    entries: packed index entries; data: the data section; header: fields to overrule.
    """
    if isinstance(metadata, dict):
        metadata = json.dumps(metadata).encode()
    index = b"".join(entries)
    fields = dict(magic=b"APR\0", major=2, minor=0, flags=0x0400,
                  count=len(entries) if count is None else count, metadata_offset=64,
                  metadata_size=len(metadata), index_offset=64 + up(len(metadata)),
                  data_offset=64 + up(len(metadata)) + up(len(index)))
    fields.update(header)
    body = (bytes(64) + metadata.ljust(up(len(metadata)), b"\0")
            + index.ljust(up(len(index)), b"\0") + data)
    head = struct.pack("<4sBBHIQIQQ", *fields.values())
    return fix(head + bytes(24) + body[64:] + bytes(4))


def fix(blob):
    """The same bytes with both checksums right."""
    blob = bytearray(blob)
    struct.pack_into("<I", blob, 40, zlib.crc32(blob[44:64], zlib.crc32(blob[:40])))
    struct.pack_into("<I", blob, len(blob) - 4, zlib.crc32(blob[:-4]))
    return bytes(blob)


def small():
    """A valid file of 836 bytes: two tensors, F32 [2, 3] and BF16 [5]."""
    data = struct.pack("<6f", *range(6)).ljust(64, b"\0") + bytes(range(10)).ljust(64, b"\0")
    return build([entry("a.weight", 0, (2, 3), 0, 24), entry("b.weight", 30, (5,), 64, 10)], data,
                 {"model_type": "x", "name": "small", "note": "ä"})
