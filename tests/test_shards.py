"""Shards: what encode-corpus writes, what opening checks, and that failure leaves nothing."""
import json
import os
import zlib

import numpy as np
import pytest
from corpora import small_tokenizer, stdlib_ids, stdlib_texts

from aprnb.data.batches import Windows
from aprnb.data.corpus import Corpus
from aprnb.data.encode import EncodeOptions, encode_corpus
from aprnb.data.shards import ShardError, crc32_of, open_dataset, repair_manifest
from aprnb.data.tokenizer import from_json
from aprnb.errors import CheckError, NotFoundError, StorageError, UsageError
from tolerance import gamma


@pytest.fixture
def texts():
    return stdlib_texts(500_000)


@pytest.fixture
def corpus(tmp_path, texts):
    return corpus_of(texts, tmp_path / "corpus.jsonl")


def corpus_of(texts, file):
    file.write_text("\n".join(json.dumps({"content": text}) for text in texts))
    return Corpus([file])


def encode(corpus, output, **options):
    manifest, _ = encode_corpus(corpus, small_tokenizer(), output, EncodeOptions(**options))
    return manifest


def ids_in(folder):
    """(tokens,) u32 of all shards, read without the code under test."""
    return np.concatenate([np.frombuffer(file.read_bytes(), "<u4")
                           for file in sorted(folder.glob("shard-*.bin"))])


@pytest.mark.parametrize("policy", ["none", "between", "after"])
def test_shards_hold_the_ids_of_the_documents_in_order(tmp_path, corpus, texts, policy):
    manifest = encode(corpus, tmp_path / "out", eos_policy=policy)
    want = []
    for i, text in enumerate(texts):
        want += [0] if policy == "between" and i else []
        want += small_tokenizer().encode(text) + ([0] if policy == "after" else [])
    assert ids_in(tmp_path / "out").tolist() == want
    extra = {"none": 0, "between": len(texts) - 1, "after": len(texts)}[policy]
    assert manifest["eos_token_count"] == extra and manifest["eos_token_id"] == 0


def test_ids_beyond_16_bits_are_kept(tmp_path, corpus, texts):
    """Vocabularies of Qwen2 and Llama 3 are larger than 65,536."""
    spec = json.loads(small_tokenizer().text)
    spec["model"]["vocab"] = {token: i + 70_000 * (i > 0)
                              for token, i in spec["model"]["vocab"].items()}
    encode_corpus(corpus, from_json(json.dumps(spec)), tmp_path / "out", EncodeOptions())
    want = np.concatenate([[0, *small_tokenizer().encode(text)] for text in texts])[1:]
    want[want > 0] += 70_000
    assert np.array_equal(ids_in(tmp_path / "out"), want)
    windows = Windows(open_dataset(tmp_path / "out"), 63)
    assert np.array_equal(windows[5], want[5 * 64:6 * 64])


def test_bytes_do_not_depend_on_the_workers(tmp_path, corpus, texts, monkeypatch):
    monkeypatch.setattr("aprnb.data.encode.BATCH_BYTES", 10_000)  # many batches in flight
    for workers in (1, 2, 5):
        encode(corpus, tmp_path / str(workers), workers=workers, shard_tokens=20_000)
    names = sorted(file.name for file in (tmp_path / "1").glob("*.bin"))
    assert len(names) > 3
    for workers in ("2", "5"):
        assert names == sorted(file.name for file in (tmp_path / workers).glob("*.bin"))
        for name in names:
            assert (tmp_path / "1" / name).read_bytes() == (tmp_path / workers / name).read_bytes()
    assert small_tokenizer().decode(ids_in(tmp_path / "5")) == "<|endoftext|>".join(texts)


def test_a_shard_closes_after_the_document_that_fills_it(tmp_path, texts):
    texts = [*texts, "# a last document that fills no shard, whatever stands before it\n"]
    manifest = encode(corpus_of(texts, tmp_path / "corpus.jsonl"), tmp_path / "out",
                      eos_policy="after", shard_tokens=20_000)
    sizes, current = [], 0
    for text in texts:
        current += len(small_tokenizer().encode(text)) + 1
        if current >= 20_000:
            sizes, current = [*sizes, current], 0
    sizes += [current] if current else []
    assert len(sizes) > 2 and sizes[-1] < 20_000 <= min(sizes[:-1])
    assert [entry["tokens"] for entry in manifest["shards"]] == sizes
    assert sum(entry["documents"] for entry in manifest["shards"]) == len(texts)
    for entry in manifest["shards"]:
        assert np.fromfile(tmp_path / "out" / entry["file"], "<u4")[-1] == 0


def test_the_manifest_carries_the_keys_of_the_reference_and_ours(tmp_path, corpus, texts):
    manifest = encode(corpus, tmp_path / "out", shard_tokens=30_000)
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {"schema", "tokenizer_dir", "vocab_size", "eos_policy", "eos_token_id",
            "eos_token_count", "shard_count", "total_tokens", "total_documents", "content_field",
            "normalization", "input_format", "input_files", "num_workers",
            "elapsed_seconds"} <= manifest.keys()
    assert manifest["schema"] == "pretokenize-bin-v1"
    assert manifest["total_bytes"] == sum(len(text.encode()) for text in texts)
    assert manifest["tokenizer_digest"] == small_tokenizer().digest
    for entry in manifest["shards"]:
        data = (tmp_path / "out" / entry["file"]).read_bytes()
        assert (len(data), f"{zlib.crc32(data):08x}") == (4 * entry["tokens"], entry["crc32"])


def test_a_dataset_is_mapped_and_knows_its_bytes_per_token(tmp_path, corpus):
    manifest = encode(corpus, tmp_path / "out", shard_tokens=30_000)
    dataset = open_dataset(tmp_path / "out", 1024, small_tokenizer().digest)
    assert dataset.tokens == manifest["total_tokens"] and dataset.vocab_size == 1024
    assert all(isinstance(shard[:9], np.memmap) and not shard[:9].flags.writeable
               for shard in dataset.shards)
    assert np.array_equal(np.concatenate(dataset.shards), ids_in(tmp_path / "out"))
    want = manifest["total_bytes"] / manifest["total_tokens"]
    assert dataset.bytes_per_token == pytest.approx(want, rel=gamma(2))
    assert dataset.warnings == () and dataset.tokenizer_file == tmp_path / "out" / "tokenizer.json"


def test_without_a_manifest_the_order_is_lexical_and_one_warning_says_so(tmp_path):
    for name in ("b.bin", "a.bin", "shard-10.bin"):
        np.arange(5, dtype="<u4").tofile(tmp_path / name)
    dataset = open_dataset(tmp_path)
    assert [file.name for file in dataset.files] == ["a.bin", "b.bin", "shard-10.bin"]
    assert len(dataset.warnings) == 1 and "lexical" in dataset.warnings[0]
    assert dataset.bytes_per_token is None


def test_a_single_shard_opens_and_uses_the_manifest_beside_it(tmp_path, corpus):
    encode(corpus, tmp_path / "out", shard_tokens=30_000)
    one = open_dataset(tmp_path / "out" / "shard-00001.bin")
    assert len(one.shards) == 1 and one.vocab_size == 1024 and one.bytes_per_token > 1
    np.arange(9, dtype="<u4").tofile(tmp_path / "free.bin")
    assert open_dataset(tmp_path / "free.bin").tokens == 9


def damage(folder, kind):
    """Spoil one thing in a dataset folder."""
    shard, manifest = folder / "shard-00001.bin", folder / "manifest.json"
    data, values = shard.read_bytes(), json.loads(manifest.read_text())
    if kind == "one bit":
        shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif kind == "token gone":
        shard.write_bytes(data[:-4])
    elif kind == "half a token":
        shard.write_bytes(data[:-2])
    elif kind == "empty":
        shard.write_bytes(b"")
    elif kind == "shard gone":
        shard.unlink()
    elif kind == "shard too many":
        (folder / "shard-00099.bin").write_bytes(data)
    elif kind == "total":
        manifest.write_text(json.dumps(values | {"total_tokens": 1}))
    elif kind == "no JSON":
        manifest.write_text("{")
    elif kind == "other schema":
        manifest.write_text(json.dumps(values | {"schema": "v2"}))
    elif kind == "entry without CRC":
        del values["shards"][0]["crc32"]
        manifest.write_text(json.dumps(values))


DAMAGES = {"one bit": "CRC-32", "token gone": "total_tokens", "half a token": "multiple of 4",
           "empty": "empty shard", "shard gone": "manifest lists", "shard too many": "folder holds",
           "total": "total_tokens is 1", "no JSON": "not valid JSON", "other schema": "schema",
           "entry without CRC": "must list"}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_dataset_is_refused_with_the_reason(tmp_path, corpus, kind):
    encode(corpus, tmp_path / "out", shard_tokens=30_000)
    damage(tmp_path / "out", kind)
    with pytest.raises(ShardError, match=DAMAGES[kind]) as caught:
        open_dataset(tmp_path / "out")
    assert caught.value.exit_code == 5


def test_another_tokenizer_or_a_smaller_model_is_refused(tmp_path, corpus):
    encode(corpus, tmp_path / "out")
    with pytest.raises(ShardError, match="encoded with tokenizer"):
        open_dataset(tmp_path / "out", tokenizer_digest="0" * 64)
    with pytest.raises(ShardError, match="vocabulary of 1024, the model has 1023"):
        open_dataset(tmp_path / "out", vocab_size=1023)


def test_missing_and_empty_datasets(tmp_path):
    with pytest.raises(NotFoundError, match="absent"):
        open_dataset(tmp_path / "absent")
    with pytest.raises(ShardError, match="empty dataset"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("name, text", [
    ("a.jsonl", "{}"), ("a.txt", "12345678"), ("a.JSON.GZ", "x"), ("a.parquet", "PAR1"),
    ("m.apr", "1234"), ("m.safetensors", "12345678"), ("m/model.safetensors", "1")])
def test_a_text_or_a_model_is_named_where_a_dataset_is_needed(tmp_path, name, text):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    path = tmp_path / name.split("/")[0]
    what = "a model (m" if name[0] == "m" else "a text by its name, not token ids; `aprnb tokenize"
    with pytest.raises(ShardError) as caught:
        open_dataset(path)
    assert str(caught.value).startswith(f"{path}: {what}")


def test_a_manifest_of_the_reference_with_totals_only_is_checked(tmp_path):
    stdlib_ids().tofile(tmp_path / "shard-00000.bin")
    manifest = {"schema": "pretokenize-bin-v1", "shard_count": 1, "total_tokens": 60_000}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert open_dataset(tmp_path).tokens == 60_000
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"shard_count": 2}))
    with pytest.raises(ShardError, match="shard_count is 2"):
        open_dataset(tmp_path)


def test_repair_rebuilds_the_manifest_and_is_idempotent(tmp_path, corpus):
    whole = encode(corpus, tmp_path / "out", shard_tokens=30_000)
    manifest = tmp_path / "out" / "manifest.json"
    assert repair_manifest(tmp_path / "out", small_tokenizer()) == whole
    manifest.write_text("{")
    repaired = repair_manifest(tmp_path / "out", small_tokenizer())
    first = manifest.read_bytes()
    assert repaired["total_tokens"] == whole["total_tokens"] and repaired["total_bytes"] is None
    assert repaired["eos_token_count"] == whole["eos_token_count"]
    assert open_dataset(tmp_path / "out", tokenizer_digest=small_tokenizer().digest).tokens
    repair_manifest(tmp_path / "out", small_tokenizer())
    assert manifest.read_bytes() == first


def test_repair_keeps_document_counts_only_of_shards_that_did_not_change(tmp_path, corpus):
    encode(corpus, tmp_path / "out", shard_tokens=30_000)
    damage(tmp_path / "out", "one bit")
    repaired = repair_manifest(tmp_path / "out")
    assert repaired["shards"][0]["documents"] and repaired["shards"][1]["documents"] is None
    assert open_dataset(tmp_path / "out").bytes_per_token is None


def test_refused_inputs_leave_nothing_behind(tmp_path, corpus):
    no_eos = json.loads(small_tokenizer().text)
    no_eos["added_tokens"] = []
    no_eos["model"]["vocab"] = {("<|x|>" if token == "<|endoftext|>" else token): i
                                for token, i in no_eos["model"]["vocab"].items()}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckError, match="--eos-policy none"):
        encode_corpus(corpus, from_json(json.dumps(no_eos)), tmp_path / "deep" / "out")
    with pytest.raises(UsageError, match="eos-policy"):
        EncodeOptions(eos_policy="sometimes")
    assert sorted(tmp_path.iterdir()) == before


def test_a_long_document_is_one_document_however_many_pieces(tmp_path, monkeypatch, texts):
    monkeypatch.setattr("aprnb.data.corpus.PIECE_CHARS", 50_000)
    (tmp_path / "a.txt").write_bytes("".join(texts).encode())
    (tmp_path / "b.txt").write_bytes(texts[0].encode())
    manifest = encode(Corpus([tmp_path / "a.txt", tmp_path / "b.txt"]), tmp_path / "out",
                      eos_policy="after", shard_tokens=1000)
    assert [entry["documents"] for entry in manifest["shards"]] == [1, 1]
    assert manifest["eos_token_count"] == 2
    want = [*small_tokenizer().encode("".join(texts)), 0, *small_tokenizer().encode(texts[0]), 0]
    assert ids_in(tmp_path / "out").tolist() == want


def test_crc_of_a_shard_longer_than_a_block_is_that_of_its_bytes(monkeypatch):
    monkeypatch.setattr("aprnb.data.shards.BLOCK_TOKENS", 1000)
    assert crc32_of(stdlib_ids()) == zlib.crc32(stdlib_ids().tobytes())


def test_more_shards_than_file_descriptors_are_encoded_opened_and_read(tmp_path, corpus):
    """40 descriptors are left for 150 shards: a map that stayed open for each would end it."""
    from resource import RLIMIT_NOFILE, getrlimit, setrlimit
    limits = getrlimit(RLIMIT_NOFILE)
    lines = "".join(stdlib_texts(500_000)).splitlines(keepends=True)
    documents = ["".join(lines[i:i + 10]) for i in range(0, 1500, 10)]
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    setrlimit(RLIMIT_NOFILE, (highest + 41, limits[1]))
    try:
        try:
            manifest = encode(corpus_of(documents, tmp_path / "many.jsonl"), tmp_path / "out",
                              shard_tokens=1)
        except StorageError as error:
            pytest.fail(str(error))
        dataset = open_dataset(tmp_path / "out")
        windows = Windows(dataset, 7)
        rows = np.stack([windows[i] for i in range(len(windows))])
        again = Windows(open_dataset(tmp_path / "out"), 7).hashes
        repaired = repair_manifest(tmp_path / "out")
    finally:
        setrlimit(RLIMIT_NOFILE, limits)
    assert manifest["shard_count"] == len(dataset.shards) == repaired["shard_count"] > 100
    want = [np.fromfile(file, "<u4") for file in dataset.files]
    assert np.array_equal(rows, np.concatenate([ids[:len(ids) // 8 * 8].reshape(-1, 8)
                                                for ids in want]))
    assert len(again) == len(windows)


def test_a_shard_that_changes_while_it_is_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("aprnb.data.maps.OPEN_MAPS", 1)
    for name in ("a.bin", "b.bin"):
        stdlib_ids(100).tofile(tmp_path / name)
    dataset = open_dataset(tmp_path)
    stdlib_ids(60).tofile(tmp_path / "a.bin")
    with pytest.raises(ShardError, match="a.bin: had 100 tokens when it was opened and now has 60"):
        dataset.shards[0][:10]
