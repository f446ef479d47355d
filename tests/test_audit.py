"""The audit: real text passes, and every bad corpus is refused for its own reason."""
import json
import math
import time

import numpy as np
import pytest
from corpora import small_tokenizer, stdlib_ids, stdlib_texts
from shared import shared

from aprnb.data import ngrams
from aprnb.data.audit import MeaninglessData, audit, refuse_degenerate, refuse_meaningless
from aprnb.data.corpus import Corpus
from aprnb.data.encode import EncodeOptions, encode_corpus
from aprnb.data.shards import ShardError, open_dataset, repair_manifest
from aprnb.data.tokenizer import from_json, load_tokenizer
from aprnb.errors import CheckError, Interrupted, StorageError
from aprnb.formats.atomic import write_json
from tolerance import FUNCTION, gamma

VOCAB = 1024
N = 60_000
RANDOM = np.random.default_rng(0)


def raw(folder, data, name="shard-00000.bin"):
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else
                                np.ascontiguousarray(data, "<u4").tobytes())
    return folder


def judge(folder, val=None):
    """Open and audit as `tokenize audit` does."""
    report = audit(open_dataset(folder, VOCAB), small_tokenizer(), val, VOCAB)
    refuse_degenerate(report)
    return report


def with_share(token, share):
    ids = stdlib_ids(N).copy()
    ids[RANDOM.random(N) < share] = token
    return ids


def noise_bytes(n):
    """Ids of the 128 byte tokens that never begin a character: text that is no UTF-8."""
    tokens = [small_tokenizer().vocabulary[char] for char in map(chr, range(0xAE, 0xF0))
              if char in small_tokenizer().vocabulary]
    return RANDOM.choice(tokens, n)


BAD = {  # what -> (bytes or ids of a shard, part of the message)
    "empty file": (b"", "empty shard"),
    "cut inside a token": (stdlib_ids(N).tobytes()[:-1], "multiple of 4"),
    "two bytes": (b"\x01\x00", "multiple of 4"),
    "id equal to the vocabulary": (np.r_[stdlib_ids(N), VOCAB], "token 60000 has id 1024"),
    "id far above": (np.r_[stdlib_ids(N)[:7], 2**32 - 1], "token 7 has id 4294967295"),
    "big-endian ids": (stdlib_ids(N).astype(">u4").tobytes(), "holds uint32-be token ids"),
    "16-bit ids": (stdlib_ids(N).astype("<u2").tobytes(), "holds uint16 token ids"),
    "64-bit ids": (stdlib_ids(N).astype("<u8").tobytes(), "holds uint64 token ids"),
    "float32 values": (stdlib_ids(N).astype("<f4").tobytes(), "holds float32 token ids"),
    "text in a .bin": (b"def f(x): return x + 1\n\n" * 99, "holds text, not token ids"),
    "an .apr file": (b"APR\0" + bytes(60), "is an .apr model"),
    "a NumPy file": (b"\x93NUMPY\x01\x00" + bytes(120), "is a NumPy file"),
    "one repeated token": (np.full(N, 17), "every token has id 17"),
    "all zero": (np.zeros(N), "every token has id 0"),
    "all end-of-text": (np.zeros(100), "every token has id 0"),
    "99.99 % one token": (np.r_[np.full(N, 5), 6, 7, 8, 9, 10, 11], "99.99% of the tokens"),
    "99.5 % one token": (with_share(3, 0.995), "of the tokens have id 3"),
    "95 % one token": (with_share(3, 0.95), "entropy"),
    "two ids in turn": (np.tile([4, 9], N // 2), "from 2 distinct ids"),
    "two ids at random": (RANDOM.choice([4, 9], N), "from 2 distinct ids"),
    "three ids at random": (RANDOM.choice([4, 9, 12], N), "from 3 distinct ids"),
    "a cycle of 500 ids": (np.tile(np.arange(500), N // 500), "repeat an earlier one"),
    "counting up": (np.arange(N) % VOCAB, "repeat an earlier one"),
    "uniform noise": (RANDOM.integers(0, VOCAB, N), "spread like noise"),
    "text twice": (np.tile(stdlib_ids(N), 2), "repeat an earlier one"),
    "text twenty times": (np.tile(stdlib_ids(N)[:3000], 20), "repeat an earlier one"),
    "bytes that are no UTF-8": (noise_bytes(N), "no UTF-8"),
    "a single token": (np.array([7]), "every token has id 7"),
    "a single word": (small_tokenizer().encode("aaaa"), "entropy"),
    "spaces only": (small_tokenizer().encode(" " * N), "id"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_shard_is_refused_for_its_reason(tmp_path, what):
    data, message = BAD[what]
    with pytest.raises(CheckError, match=message) as caught:
        judge(raw(tmp_path / "shards", data))
    assert caught.value.exit_code == 5


def test_one_percent_of_unknown_tokens_is_borne_and_two_are_refused(tmp_path):
    """A byte-level vocabulary may name an unknown token all the same; here it is 1024, unused."""
    spec = json.loads(small_tokenizer().text)
    spec["model"]["vocab"]["<unk>"] = VOCAB
    spec["model"]["unk_token"] = "<unk>"
    tokenizer = from_json(json.dumps(spec))
    for share in (0.005, 0.02):
        ids = stdlib_ids(N).copy()
        ids[:: round(1 / share)] = VOCAB
        report = audit(open_dataset(raw(tmp_path / "shards", ids)), tokenizer)
        assert report["unknown_percent"] == pytest.approx(100 * (ids == VOCAB).mean(),
                                                          rel=gamma(8))
        said = [line for line in report["findings"] if "unknown token" in line]
        assert len(said) == (share == 0.02) and report["ok"] == (not report["findings"])


def test_text_twice_is_refused_at_any_offset(tmp_path):
    ids = stdlib_ids(N)
    with pytest.raises(CheckError, match="repeat an earlier one"):
        judge(raw(tmp_path / "shards", np.r_[ids, ids[:7], 0, ids]))


def test_a_tail_that_is_a_copy_of_training_text_is_refused_as_leaked(tmp_path):
    ids = stdlib_ids(N)
    with pytest.raises(CheckError, match="validation's windows stand in training"):
        judge(raw(tmp_path / "shards", np.r_[ids, ids[100:100 + N // 18]]))


def test_a_validation_shard_copied_from_training_is_refused(tmp_path):
    ids = stdlib_ids(N)
    train = raw(tmp_path / "train", ids[:50_000])
    fresh = open_dataset(raw(tmp_path / "fresh", ids[50_000:]))
    leaked = open_dataset(raw(tmp_path / "leaked", ids[20_003:25_003]))
    assert judge(train, fresh)["shared_percent"] < 20
    with pytest.raises(CheckError, match="validation's windows stand in training"):
        judge(train, leaked)


def test_real_text_passes_and_its_numbers_are_right(tmp_path):
    ids = stdlib_ids(N)
    report = judge(raw(tmp_path / "shards", ids))
    shares = np.unique(ids, return_counts=True)[1] / N
    assert report["ok"] and report["findings"] == []
    assert report["entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum(),
                                                   rel=gamma(len(shares) + 2 * FUNCTION))
    assert report["log2_vocab"] == math.log2(VOCAB)
    assert (report["distinct"], report["tokens"]) == (len(shares), N)
    assert report["unknown_percent"] == 0
    text = small_tokenizer().decode(ids)
    spelled = len(text.replace("<|endoftext|>", "").encode())
    assert report["tokens_per_byte"] == pytest.approx((ids != 0).sum() / spelled, rel=gamma(8))
    top = report["most_frequent"][0]
    values, counts = np.unique(ids, return_counts=True)
    assert top["id"] == values[counts.argmax()]
    assert top["percent"] == pytest.approx(100 * counts.max() / N, rel=gamma(8))
    assert top["text"] == small_tokenizer().decode([top["id"]])
    assert report["sample"] == text[:240]


def test_without_a_tokenizer_what_needs_one_is_null(tmp_path):
    report = audit(open_dataset(raw(tmp_path / "shards", stdlib_ids(N))))
    assert report["ok"] and report["vocab_size"] is report["log2_vocab"] is None
    assert report["unknown_percent"] is report["sample"] is report["tokens_per_byte"] is None


def test_heldout_tokens_of_the_shared_checkpoint_pass(tmp_path):
    folder = shared("data", "qwen2-py-10m")
    ids = np.load(folder / "reference.npz")["heldout_tokens"]
    report = audit(open_dataset(raw(tmp_path / "shards", ids)), load_tokenizer(folder),
                   vocab_size=8192)
    assert report["ok"] and 7 < report["entropy_bits"] < 11


@pytest.mark.parametrize("text, message", [
    ("x", "every token"), ("hello " * 9000, "degenerate"),
    ("\n" * 500, "degenerate"), ("\x00" * 9000, "degenerate")])
def test_a_degenerate_corpus_is_refused_its_shards_are_kept_and_an_option_takes_it(
        tmp_path, text, message):
    (tmp_path / "a.txt").write_text(text)
    out, kept = tmp_path / "new" / "out", tmp_path / "new" / "out.degenerate"
    for where in (kept, tmp_path / "new" / "out.degenerate-2"):
        with pytest.raises(CheckError, match=f"{message}.*kept in {where}:.*--allow-degenerate"):
            encode_corpus(Corpus([tmp_path / "a.txt"]), small_tokenizer(), out)
        assert not out.exists() and open_dataset(where).tokens
    manifest, report = encode_corpus(Corpus([tmp_path / "a.txt"]), small_tokenizer(), out,
                                     EncodeOptions(allow_degenerate=True))
    assert manifest["audit"] == {"findings": report["findings"], "allowed": True}
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert (out / "shard-00000.bin").read_bytes() == (kept / "shard-00000.bin").read_bytes()
    assert "degenerate corpus, taken all the same: " + report["findings"][0] in str(
        open_dataset(out).warnings)
    assert "not taken" in str(open_dataset(kept).warnings)


def test_an_empty_corpus_leaves_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(CheckError, match="empty corpus"):
        encode_corpus(Corpus([tmp_path / "a.txt"]), small_tokenizer(), tmp_path / "new" / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("error, kind", [
    (OSError(24, "Too many open files"), StorageError), (KeyboardInterrupt(), Interrupted),
    (MemoryError(), CheckError), (CheckError("no"), CheckError)])
def test_what_was_encoded_is_kept_when_its_audit_fails(tmp_path, monkeypatch, error, kind):
    (tmp_path / "a.txt").write_text("".join(stdlib_texts(500_000)))

    def failing(*_):
        raise error
    monkeypatch.setattr("aprnb.data.encode.audit", failing)
    with pytest.raises(kind, match="what follows failed.*kept in .*out.kept"):
        encode_corpus(Corpus([tmp_path / "a.txt"]), small_tokenizer(), tmp_path / "out")
    monkeypatch.undo()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.txt", "out.kept"]
    assert judge(tmp_path / "out.kept")["ok"]


@pytest.mark.parametrize("cause", ["no room for the manifest", "another program"])
def test_what_was_encoded_is_kept_when_it_cannot_be_put_into_place(tmp_path, monkeypatch, cause):
    (tmp_path / "a.txt").write_text("".join(stdlib_texts(500_000)))
    other = tmp_path / "out" / "shard-00000.bin"

    def failing(path, value):
        if cause == "another program":
            other.parent.mkdir(exist_ok=True)
            other.write_bytes(b"1234")
            return write_json(path, value)
        raise OSError(28, "No space left on device", str(path))
    monkeypatch.setattr("aprnb.data.encode.write_json", failing)
    with pytest.raises((CheckError, StorageError), match="kept in .*out.kept"):
        encode_corpus(Corpus([tmp_path / "a.txt"]), small_tokenizer(), tmp_path / "out")
    assert (cause == "another program") == (other.exists() and other.read_bytes() == b"1234")
    repair_manifest(tmp_path / "out.kept", small_tokenizer())
    assert judge(tmp_path / "out.kept")["ok"]


def test_tokens_per_byte_leave_out_the_separators(tmp_path):
    """Short documents of one token a byte have more tokens than bytes, separators counted in."""
    digits = RANDOM.integers(0, 10, 3000)
    numbers = [small_tokenizer().vocabulary[str(d)] for d in digits]
    documents = "\n".join(json.dumps({"content": str(d)}) for d in digits)
    (tmp_path / "a.jsonl").write_text(documents)
    _, report = encode_corpus(Corpus([tmp_path / "a.jsonl"]), small_tokenizer(), tmp_path / "out",
                              EncodeOptions(allow_degenerate=True))
    assert report["tokens"] == 2 * len(numbers) - 1 and report["tokens_per_byte"] == 1
    (tmp_path / "out" / "manifest.json").unlink()
    again = audit(open_dataset(tmp_path / "out"), small_tokenizer())
    assert again["tokens_per_byte"] == 1


PREFLIGHT = {"one repeated token": (np.full(N, 17), "every token has id 17"),
             "99.5 % one token": (with_share(3, 0.995), "have id 3"),
             "id equal to the vocabulary": (np.r_[stdlib_ids(N), VOCAB], "has id 1024"),
             "fewer tokens than a window": (stdlib_ids(N)[:64], "no window of 65 tokens")}


@pytest.mark.parametrize("what", PREFLIGHT)
def test_pretrain_refuses_what_makes_a_number_meaningless(tmp_path, what):
    data, message = PREFLIGHT[what]
    with pytest.raises(MeaninglessData, match="CORPUS-PREFLIGHT.*" + message):
        refuse_meaningless(open_dataset(raw(tmp_path / "shards", data)), VOCAB, 64)


@pytest.mark.parametrize("ids", [
    stdlib_ids(N), np.tile(stdlib_ids(N), 2), np.tile([4, 9], 99), with_share(3, 0.97),
    RANDOM.integers(0, VOCAB, N)], ids=["text", "twice", "two ids", "97 %", "noise"])
def test_pretrain_takes_everything_else(tmp_path, ids):
    refuse_meaningless(open_dataset(raw(tmp_path / "shards", ids)), VOCAB, 64)


def test_an_unreadable_shard_is_refused_when_opened(tmp_path):
    with pytest.raises(ShardError):
        open_dataset(raw(tmp_path / "shards", b"123"))


def test_sampled_hashes_measure_what_all_hashes_measure(monkeypatch):
    ids = np.array([i for text in stdlib_texts() for i in small_tokenizer().encode(text)], "<u4")
    blocks = [np.r_[ids, ids[:len(ids) // 3]]]
    everything = ngrams.window_hashes(blocks, ngrams.sampling_mask(len(blocks[0])))
    assert len(everything) == len(blocks[0]) - 12
    sampled = ngrams.window_hashes(blocks, np.uint64(15))
    assert len(sampled) == pytest.approx(len(everything) / 16, rel=0.1)
    assert ngrams.repeated_share(sampled) == pytest.approx(ngrams.repeated_share(everything),
                                                           abs=0.01)
    windows = np.lib.stride_tricks.sliding_window_view(blocks[0], 13)
    distinct = len(np.unique(windows.copy().view("V52")))
    assert ngrams.repeated_share(everything) == 1 - distinct / len(windows)


def test_a_large_shard_is_judged_at_once(tmp_path):
    """No more of the processor than a few sorts of its ids: seconds for a gigabyte."""
    ids = np.tile(stdlib_ids(N), 100)  # 24 MB
    folder = raw(tmp_path / "shards", ids)
    began = time.process_time()
    np.sort(ids)
    sorted_ = time.process_time()
    with pytest.raises(CheckError, match="repeat an earlier one"):
        judge(folder)
    assert time.process_time() - sorted_ < 20 * (sorted_ - began)
