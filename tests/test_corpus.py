"""Corpora: every format, order, what is skipped, what is refused, and bounded pieces."""
import json
import sys

import pytest
from corpora import small_tokenizer, stdlib_texts
from shared import shared

from aprnb.data import corpus as corpus_module, cuts
from aprnb.data.corpus import Corpus
from aprnb.data.tokenizer import load_tokenizer
from aprnb.errors import CheckError, MissingPackageError, NotFoundError, UsageError


def texts_of(*paths, **options):
    return [document.text for document in Corpus(paths, **options)]


def test_text_files_are_kept_to_the_byte(tmp_path):
    for text in ("a\r\nb\r\n", "\ufeffx", "  \n\n", "no newline", "é\r"):
        (tmp_path / "a.txt").write_bytes(text.encode())
        document, = Corpus([tmp_path / "a.txt"])
        assert document.text == text and document.nbytes == len(text.encode())


def test_folders_are_walked_in_lexical_order_of_their_parts(tmp_path):
    for name in ("b.py", "a/z.txt", "a.txt", "a/b/c.jsonl", "a/skip.md"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text('{"content": "a/b/c.jsonl"}' if name.endswith("l") else name)
    assert texts_of(tmp_path) == ["a/b/c.jsonl", "a/z.txt", "a.txt", "b.py"]
    assert Corpus([tmp_path]).input_format == "jsonl+py+txt"


def test_jsonl_takes_the_named_field_and_skips_blank_lines(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "one\\r\\n"}\r\n\n{"text": "two", "content": "x"}')
    assert texts_of(file, content_field="text") == ["one\r\n", "two"]


@pytest.mark.parametrize("line, message", [
    ("{", "a.jsonl:2: not valid JSON"), ("[1]", "got list"), ('{"text": "x"}', "--content-field"),
    ('{"content": 3}', "no text in field"), ('{"content": "\\ud800"}', "lone surrogate")])
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"content": "good"}\n' + line)
    with pytest.raises(CheckError, match=message) as caught:
        texts_of(tmp_path)
    assert "a.jsonl:2" in str(caught.value)


def test_parquet_rows_are_documents_in_order(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet
    rows = [f"row {i}\r\n" for i in range(700)]
    parquet.write_table(pyarrow.table({"body": rows, "n": range(700)}), tmp_path / "a.parquet")
    assert texts_of(tmp_path, content_field="body") == rows
    with pytest.raises(CheckError, match="no column 'content'.*'body'"):
        texts_of(tmp_path)
    with pytest.raises(CheckError, match="row 1 of 'n' holds int"):
        texts_of(tmp_path, content_field="n")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 this is none")
    with pytest.raises(CheckError, match="not a readable Parquet file"):
        texts_of(tmp_path)


@pytest.mark.parametrize("name, package", [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")])
def test_a_package_that_is_not_installed_is_named_with_its_extra(tmp_path, monkeypatch, name,
                                                                 package):
    (tmp_path / name).write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, package, None)  # import then fails as if not installed
    with pytest.raises(MissingPackageError, match=r"aprnb\[data\]") as caught:
        Corpus([tmp_path])
    assert caught.value.exit_code == 9


def test_a_few_bytes_that_are_no_utf8_are_skipped_counted_and_named(tmp_path):
    (tmp_path / "good.txt").write_bytes(b"x" * 99_000)
    (tmp_path / "bad.py").write_bytes("# é".encode("latin-1"))
    corpus = Corpus([tmp_path])
    assert corpus.skipped == [tmp_path / "bad.py"] and corpus.skipped_nbytes == 3
    assert [document.nbytes for document in corpus] == [99_000]


def test_more_than_one_percent_of_such_bytes_is_refused(tmp_path):
    (tmp_path / "good.txt").write_bytes(b"x" * 9_900)
    (tmp_path / "bad.py").write_bytes(b"\xff" * 100)
    assert len(Corpus([tmp_path]).skipped) == 1  # exactly 1 % passes
    (tmp_path / "bad.py").write_bytes(b"\xff" * 101)
    with pytest.raises(CheckError, match="1 of 2 files are not UTF-8.*bad.py"):
        Corpus([tmp_path])


def test_a_character_cut_by_the_end_of_a_file_or_of_a_block_is_judged_rightly(tmp_path):
    block = corpus_module.READ_BYTES
    (tmp_path / "a.txt").write_bytes(b"x" * (block - 1) + "é".encode())
    assert not Corpus([tmp_path]).skipped
    (tmp_path / "a.txt").write_bytes(b"x" * block + "é".encode()[:1])
    with pytest.raises(CheckError, match="not UTF-8"):
        Corpus([tmp_path])


def test_missing_empty_and_unknown_inputs(tmp_path):
    with pytest.raises(NotFoundError, match="absent"):
        Corpus([tmp_path / "absent"])
    with pytest.raises(CheckError, match="empty corpus"):
        Corpus([tmp_path])
    (tmp_path / "a.md").write_text("x")
    with pytest.raises(UsageError, match="cannot read .md"):
        Corpus([tmp_path / "a.md"])


@pytest.mark.parametrize("crlf", [False, True])
def test_pieces_of_a_long_text_have_the_ids_of_the_whole(tmp_path, monkeypatch, crlf):
    monkeypatch.setattr(corpus_module, "PIECE_CHARS", 50_000)
    text = "".join(stdlib_texts(500_000))
    text = text.replace("\n", "\r\n") if crlf else text
    (tmp_path / "long.txt").write_bytes(text.encode())
    pieces = list(Corpus([tmp_path]))
    assert len(pieces) > 8 and "".join(piece.text for piece in pieces) == text
    assert [piece.opens for piece in pieces] == [True] + [False] * (len(pieces) - 1)
    assert max(len(piece.text) for piece in pieces) <= 50_000 + cuts.SEARCH
    ids = small_tokenizer().encode_batch([piece.text for piece in pieces])
    assert sum(ids, []) == small_tokenizer().encode(text)


def test_pieces_have_the_ids_of_the_whole_under_the_qwen2_vocabulary(tmp_path, monkeypatch):
    qwen2 = load_tokenizer(shared("data", "qwen2-tokenizer"))
    monkeypatch.setattr(corpus_module, "PIECE_CHARS", 50_000)
    text = "".join(stdlib_texts(500_000))
    (tmp_path / "long.txt").write_bytes(text.encode())
    ids = qwen2.encode_batch([piece.text for piece in Corpus([tmp_path])])
    assert sum(ids, []) == qwen2.encode(text)


def test_a_text_without_line_ends_is_still_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus_module, "PIECE_CHARS", 1_000)
    (tmp_path / "a.txt").write_text("x" * 2_500)
    assert [len(text) for text in texts_of(tmp_path)] == [1_000, 1_000, 500]


def test_progress_adds_up_to_the_size_of_the_files(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"content": "x" * i}) for i in range(9)))
    (tmp_path / "b.txt").write_text("é" * 77)
    corpus = Corpus([tmp_path])
    assert sum(document.progress for document in corpus) == corpus.nbytes
