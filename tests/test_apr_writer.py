"""The writer of APR v2: its header byte by byte, every refusal with its words, every limit."""
import struct

import numpy as np
import pytest

from aprnb.errors import CheckError
from aprnb.formats import rejections as rule
from aprnb.formats.apr import create_apr, read_apr, write_apr
from aprnb.formats.apr_layout import MAX_METADATA
from aprnb.formats.apr_writer import _encode_metadata, plan_entries

ZEROS = np.zeros(2, np.float32)


def test_the_header_is_that_of_version_2_0_row_major(tmp_path):
    write_apr(tmp_path / "a.apr", {}, {"a": ZEROS, "b": ZEROS})
    fields = struct.unpack_from("<4sBBHIQIQQI20s", (tmp_path / "a.apr").read_bytes())
    size = fields[6]
    index = 64 + -(-size // 64) * 64
    assert fields[:9] == (b"APR\0", 2, 0, 0x0400, 2, 64, size, index, index + 64)
    assert fields[10] == bytes(20) and (tmp_path / "a.apr").stat().st_size == index + 192 + 4


def test_an_existing_file_stays_without_force(tmp_path):
    write_apr(tmp_path / "a.apr", {}, {"a": ZEROS})
    with pytest.raises(CheckError, match="exists already"):
        write_apr(tmp_path / "a.apr", {}, {"b": ZEROS})
    assert list(read_apr(tmp_path / "a.apr").tensors) == ["a"]


@pytest.mark.parametrize("writes, words", [
    ([("b", 8)], "got tensor b, need a$"),
    ([("a", 8), ("a", 8)], "got tensor a, need b$"),
    ([("a", 8), ("b", 8), ("b", 8)], "got tensor b, need no further tensor$"),
    ([("a", 12)], "a got 12 bytes, need 8$"),
    ([("a", 7)], "a got 7 bytes, need 8$"),
    ([("a", 8)], "tensor b was announced and not written$"),
])
def test_payloads_come_in_order_and_whole(writes, words, tmp_path):
    with pytest.raises(rule.WrongWriteOrder, match=words), \
            create_apr(tmp_path / "a.apr", {}, [("b", "F32", (2,)), ("a", "F32", (2,))]) as writer:
        for name, nbytes in writes:
            writer.write(name, bytes(nbytes))


@pytest.mark.parametrize("entries, error, words", [
    ([("a", "F32", (2,)), ("a", "F32", (2,))], rule.DuplicateName, "a is given twice"),
    ([("a", "F32", (2,)), ("a", "F32", [2])], rule.DuplicateName, "a is given twice"),
    ([("a", "I16", (2,))], rule.UnknownDtype, "dtype I16 has no code"),
    ([("a", "F32", (-1,))], rule.BadShape, r"shape \[-1\]"),
    ([("", "F32", (2,))], rule.BadTensorName, "1 to 256 printable"),
    ([("\ud800", "F32", (2,))], rule.BadTensorName, "1 to 256 printable"),
    ([("ä" * 129, "F32", (2,))], rule.BadTensorName, "1 to 256 printable"),
])
def test_entries_that_no_reader_takes(entries, error, words):
    with pytest.raises(error, match=words):
        plan_entries(entries)


def test_an_array_of_another_dtype_is_named():
    with pytest.raises(rule.UnknownDtype, match="a: NumPy dtype complex64 has no code"):
        write_apr("never.apr", {}, {"a": np.zeros(2, np.complex64)})


def test_the_longest_name_and_the_most_dimensions_are_written(tmp_path):
    name = "n" * 256
    write_apr(tmp_path / "a.apr", {}, {name: ZEROS.reshape((1,) * 7 + (2,))})
    assert read_apr(tmp_path / "a.apr").tensors[name].shape == (1,) * 7 + (2,)


def test_names_are_in_the_order_of_their_bytes():
    names = ["z", "é", "\U0001f600", "\uffee", "a.10", "a.2"]
    plan = plan_entries([(name, "U8", (1,)) for name in names])
    assert [e.name for e in plan] == sorted(names, key=str.encode)
    assert [e.offset for e in plan] == [0, 64, 128, 192, 256, 320]


def test_sizes_are_python_integers():
    """NumPy's would wrap around."""
    (entry,) = plan_entries([("a", "F32", np.array([2**31 - 1, 4], np.int32))])
    assert entry.shape == (2**31 - 1, 4) and entry.nbytes == 16 * (2**31 - 1)


def test_metadata_of_64_mib_are_written_and_no_byte_more():
    assert len(_encode_metadata({"a": "x" * (MAX_METADATA - 8)})) == 64 << 20
    with pytest.raises(rule.MetadataError, match="67108865 bytes of metadata"):
        _encode_metadata({"a": "x" * (MAX_METADATA - 7)})
