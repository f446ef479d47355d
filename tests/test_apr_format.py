"""The APR v2 container: literal bytes, golden files, and one test per rejection rule."""
import json
import math
import struct

import ml_dtypes
import numpy as np
import pytest
from apr_bytes import build, entry, fix, small
from shared import GOLDEN
from steps import Steps

from aprnb.errors import CheckError, FormatError, NotFoundError
from aprnb.formats import rejections as rule
from aprnb.formats.apr import create_apr, read_apr, write_apr
from aprnb.formats.apr_layout import canonical_metadata
from aprnb.formats.model_file import float_pieces
from tolerance import F32, UNIT

BF16 = np.dtype(ml_dtypes.bfloat16)
A = entry("a", 0, (2,), 0, 8)
B = entry("b", 0, (2,), 64, 8)
FULL = entry("n" * 36, 0, (2,), 0, 8)  # 64 bytes: no padding after it
DATA = bytes(128)


def opened(tmp_path, blob, **options):
    path = tmp_path / "x.apr"
    path.write_bytes(blob)
    return read_apr(path, **options)


# ---------------------------------------------------------------- golden files

@pytest.mark.parametrize("stem", ["tiny", "linreg"])
def test_golden_file_reads_as_described(stem):
    facts = json.loads((GOLDEN / f"{stem}.json").read_text())
    with read_apr(GOLDEN / f"{stem}.apr") as file:
        header = facts["header"]
        for key in ("tensor_count", "metadata_offset", "metadata_size", "tensor_index_offset",
                    "data_offset"):
            assert file.header[key] == header[key]
        assert file.header["header_checksum"] == int(header["header_checksum"], 16)
        assert file.metadata == facts["metadata"] and file.warnings == []
        assert list(file.tensors) == [t["name"] for t in facts["tensors"]]
        for t in facts["tensors"]:
            got = file.tensors[t["name"]]
            assert (got.dtype, list(got.shape), got.offset, got.nbytes) == (
                t["dtype"], t["shape"], t["offset"], t["size"])
            values = file.values(t["name"]).astype(np.float64).reshape(-1)
            np.testing.assert_allclose(values, t["values"], rtol=UNIT[F32])


@pytest.mark.parametrize("stem", ["tiny", "linreg"])
def test_golden_mutations_are_refused_with_their_own_error(stem, tmp_path):
    named = {"magic": rule.BadMagic, "v1 container": rule.V1Container, "version": rule.BadVersion,
             "header checksum": rule.HeaderChecksumMismatch, "layout": rule.ColumnMajorLayout,
             "compression unsupported": rule.UnsupportedCompression,
             "footer checksum": rule.FooterMismatch, "data extent": rule.TruncatedData,
             "offset outside file": rule.SectionOutOfFile, "dtype": rule.UnknownDtype}
    blob = (GOLDEN / f"{stem}.apr").read_bytes()
    mutations = json.loads((GOLDEN / f"{stem}.json").read_text())["must_reject"]
    assert len(mutations) == 11
    for mutation in mutations:
        bad = bytearray(blob[:mutation.get("truncate", len(blob))])
        for at, text in mutation.get("patch", []):
            new = bytes.fromhex(text)
            bad[at:at + len(new)] = new
        with pytest.raises(named[mutation["error"]]):
            opened(tmp_path, fix(bad) if mutation.get("fix_crcs") else bytes(bad))


def test_linreg_is_rewritten_byte_for_byte_but_for_the_untrue_counts(tmp_path):
    golden = (GOLDEN / "linreg.apr").read_bytes()
    with read_apr(GOLDEN / "linreg.apr") as file:
        write_apr(tmp_path / "l.apr", file.metadata, {n: file.array(n) for n in file.tensors})
    got = (tmp_path / "l.apr").read_bytes()
    assert len(got) == 516 and got[256:512] == golden[256:512]  # index and data
    text = got[64:64 + struct.unpack_from("<I", got, 20)[0]].decode()
    assert text == ('{"model_type":"linear_regression","name":"golden-v2","license":null,'
                    '"data_source":null,"data_license":null,"version":"0.0.0-golden",'
                    '"created_at":"1700000000","total_size":36,"param_count":9}')


# ---------------------------------------------------------------- one test per rule

def heads(q_rows, k_rows, **counts):
    """A file with one q and one k projection and the given counts in its metadata."""
    entries, data = [], b""
    for letter, rows in (("k", k_rows), ("q", q_rows)):
        name = f"model.layers.0.self_attn.{letter}_proj.weight"
        entries.append(entry(name, 6, (rows, 1), len(data), rows))
        data += bytes(64)
    return build(entries, data, counts)


REFUSED = {
    "empty file": (b"", rule.BadMagic),
    "other magic": (b"GGUF" + small()[4:], rule.BadMagic),
    "version 1": (b"APRN" + small()[4:], rule.V1Container),
    "half a header": (small()[:40], rule.FileTooShort),
    "major 3": (build([A], DATA, major=3), rule.BadVersion),
    "header checksum": (small()[:40] + b"\1\2\3\4" + small()[44:], rule.HeaderChecksumMismatch),
    "column-major": (build([A], DATA, flags=0x0800), rule.ColumnMajorLayout),
    "lz4": (build([A], DATA, flags=0x0401), rule.UnsupportedCompression),
    "zstd": (build([A], DATA, flags=0x0402), rule.UnsupportedCompression),
    "encrypted": (build([A], DATA, flags=0x0404), rule.UnsupportedCompression),
    "metadata past the end": (build([A], DATA, metadata_size=1 << 30), rule.SectionOutOfFile),
    "index past the end": (build([A], DATA, index_offset=1 << 40), rule.SectionOutOfFile),
    "data past the end": (build([A], DATA, data_offset=1 << 40), rule.SectionOutOfFile),
    "metadata inside the header": (build([A], DATA, metadata_offset=0), rule.SectionsOutOfOrder),
    "index before metadata": (build([A], DATA, index_offset=64), rule.SectionsOutOfOrder),
    "data before index": (build([A], DATA, data_offset=64), rule.SectionsOutOfOrder),
    "metadata not UTF-8": (build([A], DATA, b'{"a":"\xff"}'), rule.MetadataError),
    "metadata not JSON": (build([A], DATA, b"{"), rule.MetadataError),
    "metadata a list": (build([A], DATA, b"[]"), rule.MetadataError),
    "metadata empty": (build([A], DATA, b""), rule.MetadataError),
    "metadata with NaN": (build([A], DATA, b'{"a":NaN}'), rule.MetadataError),
    "metadata with a float of no size": (build([A], DATA, b'{"a":1e999}'), rule.MetadataError),
    "metadata with a huge integer": (build([A], DATA, b'{"a":' + b"9" * 9999 + b"}"),
                                     rule.MetadataError),
    "metadata nested": (build([A], DATA, b'{"a":' + b"[" * 200_000), rule.MetadataError),
    "index ends early": (build([FULL], DATA, count=2), rule.IndexTruncated),
    "more entries than index": (build([FULL], DATA, count=2**32 - 1), rule.IndexTruncated),
    "entries in the padding": (build([A], DATA, count=2), rule.BadTensorName),
    "name past the end": (build([b"\xff\xff" + A[2:]], DATA), rule.IndexTruncated),
    "empty name": (build([entry("", 0, (2,), 0, 8)], DATA), rule.BadTensorName),
    "name not UTF-8": (build([entry(b"\xff", 0, (2,), 0, 8)], DATA), rule.BadTensorName),
    "name with NUL": (build([entry("a\0b", 0, (2,), 0, 8)], DATA), rule.BadTensorName),
    "unknown dtype": (build([entry("a", 2, (2,), 0, 8)], DATA), rule.UnknownDtype),
    "nine dimensions": (build([entry("a", 0, (1,) * 9, 0, 4)], DATA), rule.BadShape),
    "names go down": (build([B, A], DATA), rule.NamesOutOfOrder),
    "name twice": (build([A, A], DATA), rule.DuplicateName),
    "offset 8": (build([entry("a", 0, (2,), 8, 8)], DATA), rule.MisalignedOffset),
    "payload past the end": (build([entry("a", 0, (2,), 128, 8)], DATA), rule.TruncatedData),
    "offset that wraps in 64 bits": (build([entry("a", 0, (2,), 2**64 - 64, 128)], DATA),
                                     rule.TruncatedData),
    "size below shape": (build([entry("a", 0, (3,), 0, 8)], DATA), rule.SizeMismatch),
    "2**60 elements": (build([entry("a", 7, (2**60,), 0, 64)], DATA), rule.SizeMismatch),
    "shape that wraps in 64 bits": (build([entry("a", 7, (2**32, 2**32), 0, 0)], DATA),
                                    rule.SizeMismatch),
    "AprQ8 size": (build([entry("a", 129, (60,), 0, 60)], DATA), rule.SizeMismatch),
    "AprQ4 size": (build([entry("a", 128, (33,), 0, 18)], DATA), rule.SizeMismatch),
    "Q4_K size": (build([entry("a", 12, (256,), 0, 100)], DATA), rule.SizeMismatch),
    "Q4_K rows that end within a block": (build([entry("a", 12, (3, 300), 0, 432)], bytes(448)),
                                          rule.SizeMismatch),
    "empty head without the key": (build([entry("lm_head.weight", 0, (2, 2), 0, 0)], DATA),
                                   rule.SizeMismatch),
    "empty norm with the key": (build([entry("model.norm.weight", 0, (2,), 0, 0)], DATA,
                                      {"tied_embeddings": True}), rule.SizeMismatch),
    "payloads overlap": (build([entry("a", 0, (20,), 0, 80), B], DATA), rule.OverlappingPayloads),
    "q rows": (heads(10, 4, num_heads=4, num_kv_heads=2), rule.HeadShapeError),
    "k rows": (heads(8, 5, num_heads=4, num_kv_heads=2), rule.HeadShapeError),
    "unequal quotients": (heads(8, 8, num_attention_heads=4, n_kv_heads=2), rule.HeadShapeError),
    "stored head_dim": (heads(8, 4, num_heads=4, num_kv_heads=2, head_dim=4),
                        rule.HeadShapeError),
    "payload flipped": (small()[:704] + b"\1" + small()[705:], rule.FooterMismatch),
    "footer flipped": (small()[:-1] + bytes((small()[-1] ^ 1,)), rule.FooterMismatch),
}


@pytest.mark.parametrize("case", REFUSED)
def test_broken_rule_is_its_own_error(case, tmp_path):
    blob, expected = REFUSED[case]
    with Steps() as sound:
        opened(tmp_path, small())
    with Steps() as refused, pytest.raises(FormatError) as caught:
        opened(tmp_path, blob)
    assert type(caught.value) is expected, caught.value
    assert "x.apr" in str(caught.value) and refused.lines < 2 * sound.lines


def test_every_rule_of_the_container_has_a_test():
    rules = {c for c in vars(rule).values() if isinstance(c, type) and c is not FormatError}
    elsewhere = {rule.BadSafetensors, rule.WrongWriteOrder}
    assert rules - elsewhere == {expected for _, expected in REFUSED.values()}


# ---------------------------------------------------------------- what is accepted

def test_small_file_is_valid(tmp_path):
    file = opened(tmp_path, small())
    assert file.array("a.weight").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.array("b.weight").dtype == BF16 and file.metadata["note"] == "ä"
    assert file.flag_names == ["LAYOUT_ROW_MAJOR"]


def test_tied_placeholder_shared_empty_offsets_and_falling_offsets_are_accepted(tmp_path):
    entries = [entry("a", 0, (2,), 64, 8), entry("b", 0, (2,), 0, 8), entry("c", 0, (0, 4), 0, 0),
               entry("d", 7, (), 128, 1), entry("lm_head.weight", 0, (2, 2), 0, 0)]
    file = opened(tmp_path, build(entries, bytes(192), {"tied_embeddings": True}))
    assert file.tensors["lm_head.weight"].is_placeholder
    with pytest.raises(FormatError, match="no bytes"):
        file.array("lm_head.weight")
    assert file.array("c").shape == (0, 4) and file.array("d").shape == ()


def test_legacy_codes_null_optionals_and_duplicate_keys_are_understood(tmp_path):
    text = b'{"model_type":"a","name":null,"loss":1,"loss":2}'
    file = opened(tmp_path, build([entry("q", 8, (32,), 0, 18)], bytes(64), text))
    assert file.tensors["q"].dtype == "AprQ4" and file.metadata["loss"] == 2


def test_unverified_opening_skips_the_footer_only(tmp_path):
    bad = small()[:704] + b"\1" + small()[705:]
    assert opened(tmp_path, bad, verify=False).verified is False


def test_padding_that_is_not_zero_is_a_warning(tmp_path):
    blob = bytearray(build([A], bytes(8) + b"\1" + bytes(119)))
    file = opened(tmp_path, bytes(blob))
    assert len(file.warnings) == 2 and "belong to no tensor" in file.warnings[0]
    assert "not zero" in file.warnings[1]


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(NotFoundError):
        read_apr(tmp_path / "absent.apr")
    with pytest.raises(FormatError):
        read_apr(tmp_path)


def test_views_are_zero_copy_read_only_and_outlive_the_file(tmp_path):
    file = opened(tmp_path, small())
    view = file.array("a.weight")
    file.close()
    assert view[1, 2] == 5 and not view.flags.owndata
    with pytest.raises(ValueError):
        view[0, 0] = 1


# ---------------------------------------------------------------- writing

def test_every_dense_dtype_survives(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"scalar": np.float32(2.5).reshape(()), "none": np.zeros((0, 3), np.float32)}
    for dtype in (np.float32, np.float16, BF16, np.float64, np.int32, np.int64, np.int8, np.uint8):
        arrays[f"t.{np.dtype(dtype).name}"] = (rng.normal(size=(7, 5)) * 9).astype(dtype)
    write_apr(tmp_path / "a.apr", {"model_type": "x", "custom": [1, {"ü": None}]}, arrays)
    with read_apr(tmp_path / "a.apr") as file:
        assert file.warnings == [] and file.metadata["custom"] == [1, {"ü": None}]
        assert file.metadata["param_count"] == 1 + 8 * 35
        for name, array in arrays.items():
            assert file.array(name).dtype == array.dtype and file.array(name).shape == array.shape
            assert file.array(name).tobytes() == array.tobytes()


def value_of(pattern, exponent_bits, mantissa_bits):
    """What 16 bits mean as sign, exponent and mantissa (IEEE 754, section 3.4)."""
    sign = -1.0 if pattern >> 15 else 1.0
    exponent = pattern >> mantissa_bits & (1 << exponent_bits) - 1
    fraction = (pattern & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    if exponent == (1 << exponent_bits) - 1:
        return math.nan if fraction else sign * math.inf
    if exponent == 0:
        return sign * math.ldexp(fraction, 1 - bias)
    return sign * math.ldexp(1 + fraction, exponent - bias)


@pytest.mark.parametrize("code, exponent_bits, mantissa_bits", [(1, 5, 10), (30, 8, 7)],
                         ids=["F16", "BF16"])
def test_every_16_bit_pattern_is_read_as_its_value(code, exponent_bits, mantissa_bits, tmp_path):
    patterns = np.arange(65536, dtype="<u2")
    file = opened(tmp_path, build([entry("t", code, (65536,), 0, 131072)], patterns.tobytes()))
    want = [value_of(int(p), exponent_bits, mantissa_bits) for p in patterns]
    with np.errstate(invalid="ignore"):  # signalling NaN patterns become quiet ones
        pieces = np.concatenate(list(float_pieces(file, "t", 1000)))
        for got in (file.array("t"), pieces):
            np.testing.assert_array_equal(got.astype(np.float64), want)


def test_written_dtypes_have_the_codes_of_the_format(tmp_path):
    """Byte 0 of what follows a name in the index; 7.5625 is 0x40F2 in BF16, 0x4790 in F16."""
    value = np.full(1, 7.5625)
    for dtype, code, bits in ((np.float32, 0, b"\0\0\xf2\x40"), (np.float16, 1, b"\x90\x47"),
                              (BF16, 30, b"\xf2\x40")):
        write_apr(tmp_path / "a.apr", {}, {"t": value.astype(dtype)}, force=True)
        blob = (tmp_path / "a.apr").read_bytes()
        index, data = struct.unpack_from("<QQ", blob, 24)
        assert blob[index:index + 4] == b"\1\0t" + bytes([code])
        assert blob[data:data + len(bits)] == bits


def test_writing_twice_gives_equal_bytes_whatever_the_order(tmp_path):
    arrays = {"b": np.ones((2, 2), np.float32), "a": np.arange(3, dtype=BF16)}
    write_apr(tmp_path / "1.apr", {"model_type": "x"}, arrays)
    write_apr(tmp_path / "2.apr", {"model_type": "x"}, dict(reversed(arrays.items())))
    assert (tmp_path / "1.apr").read_bytes() == (tmp_path / "2.apr").read_bytes()


def test_strided_arrays_are_written_by_value(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    write_apr(tmp_path / "a.apr", {}, {"t": array})
    assert (read_apr(tmp_path / "a.apr").array("t") == array).all()


def test_metadata_order_and_nulls():
    got = canonical_metadata({"zeta": 1, "head_dim": 2, "name": None, "license": "MIT", "beta": 3,
                              "model_type": "m", "total_size": 99}, 10, 5)
    assert list(got.items()) == [("model_type", "m"), ("license", "MIT"), ("data_source", None),
                                 ("data_license", None), ("total_size", 10), ("param_count", 5),
                                 ("head_dim", 2), ("zeta", 1), ("beta", 3)]


def test_optimiser_state_is_no_parameter(tmp_path):
    write_apr(tmp_path / "a.apr", {}, {"w": np.zeros(4, np.float32),
                                       "__training__.m": np.zeros(9, np.float32)})
    assert read_apr(tmp_path / "a.apr").metadata["param_count"] == 4


def announced(tmp_path):
    return create_apr(tmp_path / "w.apr", {}, [("b", "F32", (2,)), ("a", "F32", (2,))])


def test_writer_refuses_the_wrong_order(tmp_path):
    with pytest.raises(rule.WrongWriteOrder), announced(tmp_path) as writer:
        writer.write("b", bytes(8))
    with pytest.raises(rule.WrongWriteOrder), announced(tmp_path) as writer:
        writer.write("a", bytes(12))
    with pytest.raises(rule.WrongWriteOrder), announced(tmp_path) as writer:
        writer.write("a", bytes(8))
    with pytest.raises(rule.WrongWriteOrder), announced(tmp_path) as writer:
        for name in ("a", "b", "b"):
            writer.write(name, bytes(8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_writing_leaves_the_old_file_and_no_other(error, tmp_path):
    (tmp_path / "w.apr").write_bytes(b"old")
    with pytest.raises(CheckError), announced(tmp_path):
        pass
    with pytest.raises(error), create_apr(tmp_path / "w.apr", {}, [("a", "F32", (2,))],
                                          force=True):
        raise error
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_writer_refuses_what_a_reader_would(tmp_path):
    zeros = np.zeros(2, np.float32)
    for arrays, metadata, error in (
            ({"x" * 257: zeros}, {}, rule.BadTensorName), ({"a\n": zeros}, {}, rule.BadTensorName),
            ({"a": np.zeros((1,) * 9, np.float32)}, {}, rule.BadShape),
            ({"a": np.zeros(2, np.complex64)}, {}, rule.UnknownDtype),
            ({"a": np.zeros(2, ">f4")}, {}, rule.UnknownDtype),
            ({"a": zeros}, {"x": float("nan")}, rule.MetadataError),
            ({"a": zeros}, {"x": "\ud800"}, rule.MetadataError)):
        with pytest.raises(error):
            write_apr(tmp_path / "a.apr", metadata, arrays)
    with pytest.raises(NotFoundError):
        write_apr(tmp_path / "no" / "a.apr", {}, {"a": zeros})
    assert list(tmp_path.iterdir()) == []
