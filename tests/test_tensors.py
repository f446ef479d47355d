"""Named tensors of one file: every dtype by its bits, streaming, what happens to the mapping."""
import gc
import warnings
from pathlib import Path

import numpy as np
import pytest
from apr_bytes import build, entry

from aprnb.errors import FormatError, StorageError
from aprnb.formats.apr import read_apr
from aprnb.formats.rejections import TruncatedData
from aprnb.formats.tensors import DENSE, TensorEntry, TensorFile, existing_file

BITS = {  # dtype: bytes of one element, its value
    "F32": ("0000c0bf", -1.5), "F16": ("00be", -1.5), "BF16": ("c0bf", -1.5),
    "F64": ("000000000000f8bf", -1.5), "I64": ("feffffffffffffff", -2), "I32": ("feffffff", -2),
    "I16": ("feff", -2), "I8": ("fe", -2), "U64": ("feffffffffffffff", 2**64 - 2),
    "U32": ("feffffff", 2**32 - 2), "U16": ("feff", 2**16 - 2), "U8": ("fe", 254),
    "BOOL": ("01", True), "F8_E4M3": ("bc", -1.5), "F8_E5M2": ("be", -1.5), "F8_E8M0": ("80", 2)}


def of_one(tmp_path, dtype, raw, shape=()):
    """A file of the bytes alone, with one tensor over all of them."""
    (tmp_path / "x.bin").write_bytes(raw)
    return TensorFile(tmp_path / "x.bin", {"t": TensorEntry("t", dtype, shape, 0, len(raw))}, 0)


@pytest.mark.parametrize("dtype", BITS)
def test_a_dtype_is_read_by_its_bits(dtype, tmp_path):
    bits, value = BITS[dtype]
    assert of_one(tmp_path, dtype, bytes.fromhex(bits)).array("t") == value


def test_every_dense_dtype_is_judged():
    assert DENSE.keys() == BITS.keys()


@pytest.mark.parametrize("shape, nbytes, want", [((1,), 0, True), ((), 0, True), ((2, 0), 0, False),
                                                 ((2, 3), 0, True), ((1,), 4, False)])
def test_a_placeholder_promises_elements_and_has_no_bytes(shape, nbytes, want):
    assert TensorEntry("t", "F32", shape, 0, nbytes).is_placeholder is want


def test_what_has_to_be_decoded_is_no_array(tmp_path):
    file = of_one(tmp_path, "AprQ8", bytes(8), (4,))
    with pytest.raises(FormatError, match="t is stored as AprQ8, which is no dense type"):
        file.array("t")
    assert file.values("t").tolist() == [0, 0, 0, 0]


def test_an_infinite_scale_gives_nan_without_a_warning(tmp_path):
    file = of_one(tmp_path, "AprQ8", np.float32(np.inf).tobytes() + b"\0\1", (2,))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(file.values("t")[0]) and file.values("t")[1] == np.inf


def test_payloads_come_in_pieces(tmp_path):
    file = of_one(tmp_path, "U8", bytes(range(8)), (8,))
    assert list(file.chunks("t", 3)) == [b"\0\1\2", b"\3\4\5", b"\6\7"]
    assert list(file.chunks("t")) == [bytes(range(8))] and file.file_of("t") == "x.bin"


def test_a_file_that_shrinks_or_goes_away_while_it_is_read(tmp_path):
    file = of_one(tmp_path, "U8", bytes(8), (8,))
    with open(file.path, "r+b") as out:
        out.truncate(4)
    with pytest.raises(TruncatedData, match="x.bin: t: the file became 4 bytes shorter"):
        list(file.chunks("t"))
    file.path.unlink()
    with pytest.raises(StorageError, match="x.bin: t cannot be read: No such file"):
        list(file.chunks("t"))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are listed on Linux")
@pytest.mark.parametrize("leave", [lambda file: file.close(), lambda file: file.__exit__()])
def test_the_mapping_goes_with_the_last_view(leave, tmp_path):
    (tmp_path / "x.apr").write_bytes(build([entry("t", 7, (4,), 0, 4)], bytes(64)))
    file = read_apr(tmp_path / "x.apr")

    def is_mapped():
        gc.collect()
        return "x.apr" in Path("/proc/self/maps").read_text()
    view = file.array("t")
    assert is_mapped()
    leave(file)
    assert is_mapped() and view.tolist() == [0, 0, 0, 0]
    del view
    assert not is_mapped()


def test_a_path_may_be_text(tmp_path):
    (tmp_path / "x").touch()
    assert existing_file(str(tmp_path / "x")) == tmp_path / "x"
