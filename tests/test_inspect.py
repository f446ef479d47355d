"""inspect: the whole report on a file, a folder and a shard, and what is told by its length."""
import json
import struct
import zlib

import hf_fixture as hf
import numpy as np
import pytest
import safetensors.numpy
from apr_bytes import build, entry, fix, small

from aprnb.formats.inspect import inspect_model, shortened

CONFIG = {"hidden_size": 16, "vocab_size": 272}


def test_an_apr_file(tmp_path):
    path, blob = tmp_path / "small.apr", small()
    path.write_bytes(blob)
    assert inspect_model(path) == {
        "schema": "aprnb-inspect-v1", "model": str(path), "format": "apr-v2",
        "header": {"magic": "APR\0", "version_major": 2, "version_minor": 0, "flags": 0x0400,
                   "tensor_count": 2, "metadata_offset": 64, "metadata_size": 54,
                   "tensor_index_offset": 128, "data_offset": 256, "reserved": "00" * 20},
        "flags": ["LAYOUT_ROW_MAJOR"],
        "checksums": {"header": f"{zlib.crc32(blob[44:64], zlib.crc32(blob[:40])):08x}",
                      "header_ok": True, "footer": f"{zlib.crc32(blob[:-4]):08x}",
                      "footer_ok": None},
        "metadata": {"model_type": "x", "name": "small", "note": "ä"}, "warnings": [],
        "tensors": [{"name": "a.weight", "dtype": "F32", "shape": [2, 3], "offset": 0, "bytes": 24,
                     "file": "small.apr"},
                    {"name": "b.weight", "dtype": "BF16", "shape": [5], "offset": 64, "bytes": 10,
                     "file": "small.apr"}],
        "parameters": 11}


def test_warnings_and_flags_of_a_file(tmp_path):
    blob = bytearray(build([entry("t", 0, (1,), 0, 4)], bytes(64), flags=0x8420))
    blob[100] = 1
    (tmp_path / "x.apr").write_bytes(fix(blob))
    report = inspect_model(tmp_path / "x.apr")
    assert report["flags"] == ["QUANTIZED", "LAYOUT_ROW_MAJOR", "0x8000"]
    assert report["warnings"] == ["padding from byte 82 to 128 is not zero"]


def test_checksums_keep_their_zeros(tmp_path):
    """Eight digits, whatever the number: files are tried until both begin with 0."""
    for i in range(100_000):
        blob = build([entry("t", 0, (1,), 0, 4)], bytes(64), b'{"i":%d}' % i, minor=i % 256)
        if blob[-1] < 16 and blob[43] < 16:
            break
    (tmp_path / "x.apr").write_bytes(blob)
    sums = inspect_model(tmp_path / "x.apr")["checksums"]
    for which, at in (("header", 40), ("footer", len(blob) - 4)):
        assert sums[which] == f"{struct.unpack_from('<I', blob, at)[0]:08x}"
        assert sums[which].startswith("0") and len(sums[which]) == 8


def test_a_folder_of_shards(tmp_path):
    arrays = {"a": np.ones((2, 2), np.float32), "b": np.ones(3, np.float16)}
    for name, tensor, metadata in (("one", "a", {"format": "pt", "note": "x" * 401}),
                                   ("two", "b", None)):
        (tmp_path / f"{name}.safetensors").write_bytes(
            safetensors.numpy.save({tensor: arrays[tensor]}, metadata))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    assert inspect_model(tmp_path) == {
        "schema": "aprnb-inspect-v1", "model": str(tmp_path), "format": "safetensors",
        "files": ["one.safetensors", "two.safetensors"], "config": CONFIG,
        "metadata": {"one.safetensors": {"format": "pt", "note": "<text of 401 characters>"},
                     "two.safetensors": {}},
        "tensors": [{"name": "a", "dtype": "F32", "shape": [2, 2], "offset": 0, "bytes": 16,
                     "file": "one.safetensors"},
                    {"name": "b", "dtype": "F16", "shape": [3], "offset": 0, "bytes": 6,
                     "file": "two.safetensors"}],
        "parameters": 7}


def test_one_shard_without_a_configuration(tmp_path):
    hf.save(tmp_path / "x.safetensors", {"t": np.ones(2, np.float32)})
    report = inspect_model(tmp_path / "x.safetensors")
    assert (report["format"], report["files"]) == ("safetensors", ["x.safetensors"])
    assert report["config"] is None and report["parameters"] == 2


@pytest.mark.parametrize("value, shown", [
    ("x" * 400, "x" * 400), ("x" * 401, "<text of 401 characters>"),
    (list(range(16)), list(range(16))), (list(range(17)), "<17 entries>"),
    (dict.fromkeys("abcdefghijklmnopq"), "<17 entries>"), ({"a": "x" * 500}, {"a": "x" * 500}),
    (10 ** 500, 10 ** 500), (None, None), (True, True),
])
def test_what_is_long_is_told_by_its_length(value, shown):
    assert shortened({"key": value}) == {"key": shown}
