"""Token files of another width, byte order or kind: refused by name, and read rightly by a verb."""
import json

import numpy as np
import pytest
from corpora import small_tokenizer, stdlib_ids
from runs import aprnb_here, refused

from aprnb.data.corpus import Corpus
from aprnb.data.disguise import disguise
from aprnb.data.encode import EncodeOptions, encode_corpus
from aprnb.data.import_tokens import DTYPES, import_tokens
from aprnb.data.maps import open_shards
from aprnb.data.shards import ShardError, open_dataset, repair_manifest
from aprnb.errors import CheckError, UsageError

RANDOM = np.random.default_rng(0)


def zipf(vocab, n=20_000):
    """Ids spread like words: a few often, most seldom, the last one at least once."""
    ids = np.minimum(RANDOM.zipf(1.3, n) - 1, RANDOM.integers(0, vocab, n))
    return np.r_[RANDOM.permutation(vocab)[ids], vocab - 1]


def file_of(path, ids, dtype="<u4"):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.asarray(ids).astype(dtype).tofile(path)
    return path


FOREIGN = [(name, vocab) for name in DTYPES if name != "uint32" and name != "int32"
           for vocab in (65, 250, 1024, 50_257, 151_936)
           if vocab <= {1: 256, 2: 32_768 + 32_768 * ("u" in name)}.get(DTYPES[name].itemsize, 1e9)]


@pytest.mark.parametrize("dtype, vocab", FOREIGN)
def test_another_type_is_refused_by_name_and_imported_as_it_was_meant(tmp_path, dtype, vocab):
    ids = zipf(vocab)[:20_000]
    file = file_of(tmp_path / "train.bin", ids, DTYPES[dtype])
    with pytest.raises(ShardError, match="import-tokens") as caught:
        open_dataset(file)
    named = str(caught.value).partition("--dtype ")[2].split()[0]
    assert named.replace("uint8", "uint8-be") in (dtype, f"u{dtype}") or named == dtype
    import_tokens([file], tmp_path / "out", dtype)
    assert np.array_equal(open_dataset(tmp_path / "out").shards[0][:], ids)


@pytest.mark.parametrize("vocab", [2, 65, 257, 1024, 32_000, 50_257, 65_536, 151_936, 262_144,
                                   1 << 22])
@pytest.mark.parametrize("spread", [zipf, lambda v: RANDOM.integers(0, v, 20_000)])
def test_ids_of_any_vocabulary_are_taken_for_what_they_are(tmp_path, vocab, spread):
    ids = spread(vocab)
    for n in (1, 2, 3, 7, 64, 1000, len(ids)):
        shard, = open_shards([file_of(tmp_path / "a.bin", ids[:n])])
        assert disguise(shard) is None, n


def test_real_text_is_taken_for_what_it_is(tmp_path):
    shard, = open_shards([file_of(tmp_path / "a.bin", stdlib_ids())])
    assert disguise(shard) is None


@pytest.mark.parametrize("data, words", [
    (b"\x93NUMPY" + bytes(122), "is a NumPy file"), (b"\x1f\x8b" + bytes(62), "is a .gz file"),
    (np.r_[20240520, 1, np.zeros(254)].astype("<u4").tobytes() + bytes(64), "--header-bytes 1024"),
    ("Zürich, a text of words\n".encode() * 4000, "holds text"),
    (RANDOM.bytes(1 << 19), "holds no token ids"),
    (RANDOM.normal(size=9999).astype("<f4").tobytes(), "holds no token ids")])
def test_other_files_are_named_for_what_they_are(tmp_path, data, words):
    (tmp_path / "a.bin").write_bytes(data[:len(data) // 4 * 4])
    with pytest.raises(ShardError, match=words) as caught:
        open_dataset(tmp_path / "a.bin")
    assert caught.value.exit_code == 5


def bfloat16(ids):
    """The upper halves of 32-bit floats."""
    return (np.asarray(ids).astype("<f4").view("<u4") >> 16).astype("<u2")


@pytest.mark.parametrize("vocab", [3, 65, 250])
@pytest.mark.parametrize("form", ["float16", "bfloat16", "float16-be"])
def test_ids_as_16_bit_floats_are_not_promised_to_be_integers(tmp_path, form, vocab):
    ids = zipf(vocab)[:20_000]
    ids[99] = 70_000  # above what float16 can hold
    with np.errstate(over="ignore"):
        data = bfloat16(ids) if form == "bfloat16" else ids.astype("<f2").view("<u2")
    file = file_of(tmp_path / "a.bin", data.byteswap() if form.endswith("-be") else data, "<u2")
    with pytest.raises(ShardError, match=f"holds {form} numbers.* or uint16") as caught:
        open_dataset(file)
    assert "import-tokens" in str(caught.value) and "rightly" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be"])
def test_text_in_another_encoding_is_text(tmp_path, encoding):
    text = "Zürich, “a text” of wörds\n" if encoding != "latin-1" else "Zürich, a text of wörds\n"
    data = (text * 4000).encode(encoding)
    (tmp_path / "a.bin").write_bytes(data[:len(data) // 4 * 4])
    with pytest.raises(ShardError, match="holds text .*not UTF-8"):
        open_dataset(tmp_path / "a.bin")


@pytest.mark.parametrize("dtype", ["uint64", "uint16", "float32", "uint32-be", "uint8"])
@pytest.mark.parametrize("place", ["middle", "end"])
def test_a_file_is_judged_from_its_start_to_its_end(tmp_path, dtype, place):
    ids = zipf(250, 200_000)
    ids[:len(ids) // 5 * (2 if place == "middle" else 4)] = 0
    with pytest.raises(ShardError, match=f"holds {dtype} token ids"):
        open_dataset(file_of(tmp_path / "a.bin", ids[:200_000], DTYPES[dtype]))


def test_a_manifest_does_not_vouch_for_what_it_never_looked_at(tmp_path):
    ids = stdlib_ids()
    file_of(tmp_path / "shard-00000.bin", ids)
    repair_manifest(tmp_path, small_tokenizer())
    file_of(tmp_path / "shard-00000.bin", ids, "<u8")
    with pytest.raises(ShardError, match="holds uint64 token ids"):
        repair_manifest(tmp_path)
    (tmp_path / "corpus.txt").write_text(small_tokenizer().decode(ids))
    encode_corpus(Corpus([tmp_path / "corpus.txt"]), small_tokenizer(), tmp_path / "out",
                  EncodeOptions())
    assert json.loads((tmp_path / "out/manifest.json").read_text())["dtype"] == "uint32"
    file_of(tmp_path / "out/shard-00000.bin", ids, "<u8")
    with pytest.raises(ShardError, match="holds uint64 token ids"):
        repair_manifest(tmp_path / "out")


def test_ids_that_look_like_others_can_be_named_for_what_they_are(tmp_path):
    ids = np.tile([7, 0], 500)
    file = file_of(tmp_path / "a.bin", ids)
    with pytest.raises(ShardError, match="--dtype uint32 takes the file as it is"):
        open_dataset(file)
    import_tokens([file], tmp_path / "out", "uint32")
    assert np.array_equal(open_dataset(tmp_path / "out").shards[0][:], ids)


def test_npy_files_say_what_they_are(tmp_path):
    ids = stdlib_ids()[:4000]
    for i, dtype in enumerate(("<u2", ">i8", "<f8", "<u4")):
        np.save(tmp_path / f"{i}.npy", ids.astype(dtype).reshape(40, 100))
    files = sorted(tmp_path.glob("*.npy"))
    manifest = import_tokens(files, tmp_path / "out", tokenizer=small_tokenizer())
    dataset = open_dataset(tmp_path / "out", 1024, small_tokenizer().digest)
    assert all(np.array_equal(shard[:], ids) for shard in dataset.shards)
    assert manifest["input_dtype"] == ["uint16", ">i8", "float64", "uint32"]
    assert dataset.warnings == () and dataset.vocab_size == 1024
    with pytest.raises(UsageError, match="its header says uint16"):
        import_tokens(files[:1], tmp_path / "other", "uint32")


@pytest.mark.parametrize("data, dtype, words", [
    (np.array([1, 2, -100], "<i8"), "int64", "number 2 is -100"),
    (np.array([1.0, 2.5], "<f4"), "float32", "number 1 is 2.5"),
    (np.array([1.0, np.nan], "<f4"), "float32", "number 1 is nan"),
    (np.array([1, 1024], "<u2"), "uint16", "number 1 is 1024, need a token id from 0 to 1023"),
    (np.array([1, 2, 3], "u1"), "uint16", "no whole number of uint16 ids")])
def test_a_number_that_is_no_id_is_named_and_nothing_is_left(tmp_path, data, dtype, words):
    data.tofile(tmp_path / "a.bin")
    with pytest.raises(CheckError, match=words):
        import_tokens([tmp_path / "a.bin"], tmp_path / "out", dtype, vocab_size=1024)
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


def test_the_verb_reads_a_header_and_says_what_it_needs(tmp_path):
    ids = stdlib_ids()[:3000]
    head = np.r_[20240520, 1, len(ids), np.zeros(253)].astype("<u4").tobytes()
    (tmp_path / "a.bin").write_bytes(head + ids.astype("<u2").tobytes())
    verb = ["tokenize", "import-tokens", "--input", tmp_path / "a.bin", "--output",
            tmp_path / "out"]
    refused(aprnb_here(*verb), 2, "--dtype", "uint16-be")
    refused(aprnb_here(*verb, "--dtype", "u16"), 2, "--dtype u16")
    result = aprnb_here(*verb, "--dtype", "uint16", "--header-bytes", 1024, "--vocab-size", 1024,
                        "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["manifest"]["total_tokens"] == 3000
    assert np.array_equal(open_dataset(tmp_path / "out", 1024).shards[0][:], ids)


def test_a_shard_named_as_held_out_is_read_and_named(tmp_path):
    for name in ("train.bin", "val.bin", "value.bin"):
        file_of(tmp_path / name, stdlib_ids())
    assert f"{tmp_path}: val.bin read like the other shards" in str(open_dataset(tmp_path).warnings)
    assert "named as held out" not in str(open_dataset(tmp_path / "val.bin").warnings)


def test_other_files_in_a_folder_of_shards_are_named(tmp_path):
    file_of(tmp_path / "a.bin", stdlib_ids())
    file_of(tmp_path / "more/b.bin", stdlib_ids())
    for name in ("c.BIN", "d.npy", "e.bin.gz", "tokenizer.json"):
        (tmp_path / name).write_bytes(b"x")
    warnings = [w for w in open_dataset(tmp_path).warnings if "not read" in w]
    assert warnings == [f"{tmp_path}: not read: 4 other: c.BIN, d.npy, e.bin.gz, more/"]
    (tmp_path / "a.bin").unlink()
    with pytest.raises(ShardError, match="no .bin shard, but 4 other: c.BIN"):
        open_dataset(tmp_path)
