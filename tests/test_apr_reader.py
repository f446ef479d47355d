"""Bounds and words of the reader of APR v2: what is just accepted, what is just refused and why."""
import io
import re

import pytest
from apr_bytes import build, entry

from aprnb.formats import rejections as rule
from aprnb.formats.apr import read_apr
from aprnb.formats.apr_layout import MAX_METADATA
from aprnb.formats.apr_reader import _check_footer, parse_metadata

A = entry("a", 7, (8,), 0, 8)


def opened(tmp_path, blob):
    (tmp_path / "x.apr").write_bytes(blob)
    return read_apr(tmp_path / "x.apr")


def refused(tmp_path, blob, error, words):
    with pytest.raises(error, match=words) as caught:
        opened(tmp_path, blob)
    assert type(caught.value) is error and "x.apr: " in str(caught.value)


# ---------------------------------------------------------------- header and sections

def test_flags_have_names_or_numbers(tmp_path):
    assert opened(tmp_path, build([A], bytes(64), flags=0x9420)).flag_names == [
        "QUANTIZED", "LAYOUT_ROW_MAJOR", "0x1000", "0x8000"]


@pytest.mark.parametrize("flags, names", [(0x0407, "LZ4, ZSTD, ENCRYPTED"), (0x0424, "ENCRYPTED")])
def test_only_the_flags_that_cannot_be_read_are_named(flags, names, tmp_path):
    refused(tmp_path, build([A], bytes(64), flags=flags), rule.UnsupportedCompression,
            f"flags 0x{flags:04x} say {names}, which")


def test_the_smallest_file_holds_no_tensor_and_a_footer(tmp_path):
    blob = build([], b"")
    assert opened(tmp_path, blob).tensors == {}
    for cut in (1, 4):
        refused(tmp_path, blob[:-cut], rule.TruncatedData, "4 of them its checksum; it is cut off")
    refused(tmp_path, blob[:-5], rule.SectionOutOfFile, "at byte 128, the file holds 127")


def test_data_begin_on_a_multiple_of_64(tmp_path):
    refused(tmp_path, build([A], bytes(80), data_offset=200), rule.MisalignedOffset,
            "data begin at byte 200, need a multiple of 64")


# ---------------------------------------------------------------- metadata and index

@pytest.mark.parametrize("raw, words", [
    (b"{", "metadata is not JSON in UTF-8: Expecting property name"),
    (b"[" * 100_000, "metadata is not JSON in UTF-8: nested too deeply$"),
    (b'{"a":-Infinity}', "not JSON in UTF-8: -Infinity is not JSON$"),
    (b'{"a":-1e999}', "not JSON in UTF-8: number -1e999 is out of range$"),
    (b"[]", "metadata is a JSON list, need an object$")])
def test_metadata_are_refused_with_the_reason(raw, words):
    with pytest.raises(rule.MetadataError, match=f"^here: .*{words}"):
        parse_metadata(raw, "here")


def test_metadata_of_64_mib_are_read_and_no_byte_more():
    raw = b'{"a":"' + b"x" * (MAX_METADATA - 8) + b'"}'
    assert len(raw) == 64 << 20 and len(parse_metadata(raw, "here")["a"]) == len(raw) - 8
    with pytest.raises(rule.MetadataError, match="67108865 bytes of metadata"):
        parse_metadata(raw + b" ", "here")


def test_eight_dimensions_are_read(tmp_path):
    file = opened(tmp_path, build([entry("a", 7, (1,) * 7 + (8,), 0, 8)], bytes(64)))
    assert file.tensors["a"].shape == (1,) * 7 + (8,)


# ---------------------------------------------------------------- heads

def projections(metadata, **shapes):
    """A file with one projection of bytes for each letter."""
    entries, at = [], 0
    for letter, shape in sorted(shapes.items()):
        n = shape[0] if shape else 1
        entries.append(entry(f"model.layers.0.self_attn.{letter}_proj.weight", 7, shape, at, n))
        at += 64
    return build(entries, bytes(at), metadata)


@pytest.mark.parametrize("metadata, shapes", [
    ({"num_heads": 4, "num_kv_heads": 2}, {"q": (8, 1), "k": (4, 1)}),
    ({"num_heads": 4, "num_kv_heads": 2}, {"q": (8, 1)}),  # without k its count says nothing
    ({"num_heads": 0, "num_kv_heads": 2.5}, {"q": (8, 1), "k": (3, 1)}),  # no counts: not judged
    ({"num_heads": 4, "head_dim": "2"}, {"q": (12, 1)}), ({}, {"q": (), "k": ()})])
def test_heads_that_fit_or_cannot_be_judged(metadata, shapes, tmp_path):
    assert len(opened(tmp_path, projections(metadata, **shapes)).tensors) == len(shapes)


@pytest.mark.parametrize("metadata, shapes, words", [
    ({"num_heads": 4, "num_kv_heads": 2}, {"q": (8, 1), "k": (8, 1)}, "{'q': 2, 'k': 4}"),
    ({"num_heads": 4, "num_kv_heads": 2}, {"q": (10, 1)}, "has 10 rows, which num_heads 4 does"),
    ({"num_heads": 1, "head_dim": 4}, {"q": (3, 1)}, "{'q': 3, 'stored': 4}"),
    ({"num_heads": 4, "num_kv_heads": 1}, {"q": (4, 1), "k": ()}, "{'q': 1, 'k': 0}")])
def test_heads_that_do_not_fit(metadata, shapes, words, tmp_path):
    refused(tmp_path, projections(metadata, **shapes), rule.HeadShapeError, re.escape(words))


# ---------------------------------------------------------------- footer and padding

def test_a_file_that_shrinks_while_its_checksum_is_computed():
    with pytest.raises(rule.TruncatedData, match="x.apr: the file became shorter"):
        _check_footer(io.BytesIO(bytes(50)), 100, "x.apr")


B64 = entry("b", 7, (64,), 0, 64)


@pytest.mark.parametrize("entries, data, warnings", [
    ([A, entry("b", 7, (8,), 64, 8)], bytes(20) + b"X" + bytes(107),
     ["padding from byte {8} to {64} is not zero"]),
    ([A, entry("b", 7, (8,), 128, 8)], bytes(192),
     ["120 bytes from byte {8} on belong to no tensor"]),
    ([B64, entry("c", 7, (8,), 128, 8)], bytes(192),
     ["64 bytes from byte {64} on belong to no tensor"]),
    ([entry("b", 7, (65,), 0, 65), entry("c", 7, (8,), 128, 8)], bytes(192), []),
    ([B64], bytes(127) + b"\1", ["64 bytes from byte {64} on belong to no tensor",
                                 "padding from byte {64} to {128} is not zero"]),
])
def test_padding_is_short_and_zero(entries, data, warnings, tmp_path):
    file = opened(tmp_path, build(entries, data))

    def placed(match):
        return str(int(match[1]) + file.header["data_offset"])
    assert file.warnings == [re.sub(r"{(\d+)}", placed, text) for text in warnings]
