"""Safetensors by hand: literal bytes, every bound of the header, what each refusal says."""
import json

import numpy as np
import pytest

from aprnb.errors import CheckError, FormatError, NotFoundError
from aprnb.formats.rejections import BadSafetensors
from aprnb.formats.safetensors import read_safetensors, write_safetensors


def blob(header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if size is None else size).to_bytes(8, "little") + text + data


def row(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def opened(tmp_path, raw):
    (tmp_path / "x.safetensors").write_bytes(raw)
    return read_safetensors(tmp_path / "x.safetensors")


def test_a_file_is_written_byte_by_byte(tmp_path):
    payloads = {"ä": [b"\1\2", b"\3\4"], "quack": [b"\5"]}
    write_safetensors(tmp_path / "w.safetensors", [("ä", "BF16", (2, 1)), ("quack", "U8", (1,))],
                      payloads.get)
    text = ('{"__metadata__":{"format":"pt"},'
            '"ä":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]},'
            '"quack":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}}').encode()
    padded = text + b" " * (-len(text) % 8)
    assert -len(text) % 8 not in (0, -len(text) % 9)
    got = (tmp_path / "w.safetensors").read_bytes()
    assert got == len(padded).to_bytes(8, "little") + padded + b"\1\2\3\4\5"
    with pytest.raises(CheckError):
        write_safetensors(tmp_path / "w.safetensors", [], payloads.get)


def test_what_is_read_stands_in_the_header(tmp_path):
    file = opened(tmp_path, blob({"__metadata__": {"k": "v"}, "s": row("I32", [], 4, 8),
                                  "none": row("F64", [0, 3], 4, 4), "a": row("F32", [1], 0, 4)},
                                 np.float32(1.5).tobytes() + np.int32(7).tobytes()))
    assert file.metadata == {"k": "v"} and list(file.tensors) == ["s", "none", "a"]
    entry = file.tensors["s"]
    assert (entry.dtype, entry.shape, entry.offset, entry.nbytes) == ("I32", (), 4, 4)
    assert file.array("a").tolist() == [1.5] and file.array("s") == 7
    assert file.array("none").shape == (0, 3)


def test_the_smallest_file_holds_nothing(tmp_path):
    file = opened(tmp_path, blob(b"{}"))
    assert file.tensors == {} and file.metadata == {}


def test_a_path_is_text_or_path_and_must_be_a_file(tmp_path):
    opened(tmp_path, blob(b"{}"))
    assert read_safetensors(str(tmp_path / "x.safetensors")).tensors == {}
    with pytest.raises(NotFoundError, match="no such file"):
        read_safetensors(tmp_path / "absent.safetensors")
    with pytest.raises(FormatError, match="not a regular file"):
        read_safetensors(tmp_path)


def test_a_header_may_have_100_million_bytes(tmp_path):
    with open(tmp_path / "x.safetensors", "wb") as out:
        out.truncate(100_000_020)  # a hole: takes no room
    for size, words in ((100_000_000, "header is not JSON"), (100_000_001, "header of 100000001")):
        with open(tmp_path / "x.safetensors", "r+b") as out:
            out.write(size.to_bytes(8, "little"))
        with pytest.raises(BadSafetensors, match=words):
            read_safetensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("raw, words", [
    (b"", "header of 0 bytes in a file of 0"),
    (b"\2\0\0\0\0\0\0", "header of 0 bytes in a file of 7"),
    (blob(b"", size=0), "header of 0 bytes"),
    (blob(b"5"), "header of 1 bytes"),
    (blob(b"{}", size=3), "header of 3 bytes in a file of 10"),
    (blob(b"{x"), "header is not JSON in UTF-8: Expecting property name"),
    (blob(b"\xff\xff"), "header is not JSON in UTF-8: 'utf-8' codec"),
    (blob(b"[]"), "header is a JSON list, need an object"),
    (blob(b"[" * 100_000), "header is not JSON in UTF-8"),
    (blob(b'{"a":1,"a":1}'), "a key stands there twice"),
    (blob({"a": {"dtype": "U8", "shape": [1]}}), "needs dtype, shape and two data_offsets"),
    (blob({"a": row("U8", [1], 0, 1) | {"data_offsets": [0, 1, 2]}}), "two data_offsets"),
    (blob({"a": row("U8", 1, 0, 1)}), "needs dtype, shape and two data_offsets"),
    (blob({"a": [1]}), "needs dtype, shape and two data_offsets"),
    (blob({"a": row("U8", [-1], 0, 1)}), "need integers of 0 or more"),
    (blob({"a": row("U8", [True], 0, 1)}, b"1"), "need integers of 0 or more"),
    (blob({"a": row("U8", [1], 0, 1.0)}, b"1"), "need integers of 0 or more"),
    (blob({"a": row("U9", [1], 0, 1)}, b"1"), "unknown dtype 'U9'"),
    (blob({"a": row(["U8"], [1], 0, 1)}, b"1"), "unknown dtype"),
    (blob({"": row("U8", [1], 0, 1)}, b"1"), "tensor name '' is not printable"),
    (blob({"a\n": row("U8", [1], 0, 1)}, b"1"), "is not printable"),
    (blob({"a": row("F16", [2], 0, 3)}, b"123"), "a F16 .2. has 3 bytes, need 4"),
    (blob({"a": row("U8", [1], 1, 2)}, b"12"), "a begins at data byte 1, need 0"),
    (blob({"a": row("U8", [2], 0, 2), "b": row("U8", [2], 1, 3)}, b"123"),
     "b begins at data byte 1, need 2"),
    (blob({"a": row("U8", [1], 0, 1)}, b"12"), "tensors cover 1 of 2 data bytes"),
    (blob({"a": row("U8", [2], 0, 2)}, b"1"), "tensors cover 2 of 1 data bytes"),
])
def test_every_refusal_says_what_is_wrong(raw, words, tmp_path):
    with pytest.raises(BadSafetensors, match=words) as caught:
        opened(tmp_path, raw)
    assert "x.safetensors: " in str(caught.value)
