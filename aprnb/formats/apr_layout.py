"""The APR v2 container on one screen: constants, dtype codes, sizes, order of metadata.

    0            header, 64 bytes
    64           metadata: one JSON object, zero bytes to a multiple of 64
    index_off    tensor index: packed entries in byte order of their names, padded likewise
    data_off     payloads, each on a multiple of 64 from here and padded to one
    end - 4      u32 CRC-32 (zlib) of every byte before it

Little-endian throughout. Header checksum: CRC-32 of its bytes 0..40 and 44..64, the field itself
left out. Source: apr-v2-format, sections 1 to 7.
"""
import math
import struct
import zlib

MAGIC, MAGIC_V1 = b"APR\0", b"APRN"
ALIGN = 64  # bytes
HEADER = struct.Struct("<4sBBHIQIQQI20s")
HEADER_FIELDS = ("magic", "version_major", "version_minor", "flags", "tensor_count",
                 "metadata_offset", "metadata_size", "tensor_index_offset", "data_offset",
                 "header_checksum", "reserved")
FOOTER = struct.Struct("<I")

FLAGS = {
    0x0001: "LZ4", 0x0002: "ZSTD", 0x0004: "ENCRYPTED", 0x0008: "SIGNED", 0x0010: "SHARDED",
    0x0020: "QUANTIZED", 0x0040: "HAS_FILTERBANK", 0x0080: "HAS_MODEL_CARD", 0x0100: "STREAMING",
    0x0200: "HAS_VOCAB", 0x0400: "LAYOUT_ROW_MAJOR", 0x0800: "LAYOUT_COLUMN_MAJOR",
}
ROW_MAJOR, COLUMN_MAJOR, UNREADABLE = 0x0400, 0x0800, 0x0007  # UNREADABLE: LZ4, ZSTD, ENCRYPTED

CODES = {"F32": 0, "F16": 1, "F64": 3, "I32": 4, "I64": 5, "I8": 6, "U8": 7, "Q4_K": 12,
         "Q6_K": 14, "BF16": 30, "AprQ4": 128, "AprQ8": 129}
LEGACY_CODES = {8: "AprQ4", 9: "AprQ8"}  # understood on reading, never written
DTYPE_OF_CODE = {code: name for name, code in CODES.items()} | LEGACY_CODES

ITEM_NBYTES = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I32": 4, "I64": 8, "I8": 1, "U8": 1}
SUPER_BLOCK = 256  # elements of a Q4_K or Q6_K block
SUPER_BLOCK_NBYTES = {"Q4_K": 144, "Q6_K": 210}
QUANTISED = ("Q4_K", "Q6_K", "AprQ4", "AprQ8")

MAX_METADATA = 64 << 20  # bytes; the largest vocabularies with merges take about 35 MiB
MAX_NAME, MAX_RANK = 256, 8

# Order of the metadata on disk; custom keys follow in the order in which they were given.
METADATA_ORDER = (
    "model_type", "name", "description", "author", "license", "data_source", "data_license",
    "version", "source", "original_format", "created_at", "total_size", "param_count",
    "quantization", "sharding", "chat_template", "chat_format", "special_tokens", "architecture",
    "hf_architecture", "hf_model_type", "hidden_size", "num_layers", "num_heads", "num_kv_heads",
    "vocab_size", "intermediate_size", "max_position_embeddings", "rope_theta", "rope_type",
    "rms_norm_eps", "head_dim", "num_experts", "num_experts_per_tok", "moe_intermediate_size",
)
WRITTEN_AS_NULL = ("license", "data_source", "data_license")


def up(n):
    """n rounded up to the alignment; 0 stays 0."""
    return -(-n // ALIGN) * ALIGN


def header_checksum(header):
    """CRC-32 of the 64 header bytes without the checksum field itself."""
    return zlib.crc32(header[44:], zlib.crc32(header[:40]))


def payload_sizes(dtype, shape):
    """Payload sizes in bytes that fit a shape: one, or two for Q4_K/Q6_K with ragged rows.

    The size written comes first. Python integers only: a lying shape cannot wrap around.
    """
    n = math.prod(shape)
    if dtype in ITEM_NBYTES:
        return (n * ITEM_NBYTES[dtype],)
    if dtype == "AprQ8":
        return (4 + n if n else 0,)
    if dtype == "AprQ4":
        return (18 * -(-n // 32),)
    block = SUPER_BLOCK_NBYTES[dtype]
    row_aligned = math.prod(shape[:-1]) * -(-math.prod(shape[-1:]) // SUPER_BLOCK) * block
    flat = -(-n // SUPER_BLOCK) * block
    return (row_aligned,) if row_aligned == flat else (row_aligned, flat)


def canonical_metadata(metadata, total_size, param_count):
    """Metadata in disk order: absent optionals omitted, provenance as null, sizes as given."""
    known = {**metadata, "total_size": total_size, "param_count": param_count}
    known.setdefault("model_type", "")
    out = {}
    for key in METADATA_ORDER:
        if key in WRITTEN_AS_NULL or known.get(key) is not None:
            out[key] = known.get(key)
    for key, value in metadata.items():
        if key not in METADATA_ORDER and value is not None:
            out[key] = value
    return out
