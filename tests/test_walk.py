"""Corpus folders: every file is read, or counted and named with the reason why it is not."""
import gzip
import json
import os

import pytest
from corpora import small_tokenizer
from runs import aprnb, aprnb_here, refused

from aprnb.data import json_values
from aprnb.data.corpus import Corpus
from aprnb.errors import CheckError, UsageError


def texts_of(*paths, **options):
    return [document.text for document in Corpus(paths, **options)]


def lines(*texts):
    return "".join(json.dumps({"content": text}) + "\n" for text in texts).encode()


def put(folder, **files):
    """Write bytes or text under names in which __ stands for a dot and ___ for a slash."""
    for name, data in files.items():
        file = folder / name.replace("___", "/").replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data.encode())


def zst(data):
    """As the program `zstd` packs: with a checksum at the end."""
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)


# ---------------------------------------------------------------- what is read

@pytest.mark.parametrize("name, pack", [
    ("a.jsonl", bytes), ("a.JSONL", bytes), ("a.Json", bytes), ("a.jsonl.gz", gzip.compress),
    ("a.json.gz", gzip.compress), ("A.JSONL.GZ", gzip.compress), ("a.jsonl.zst", zst),
    ("a.json.zst", zst)])
def test_lines_are_read_whatever_the_suffix_says_about_case_and_packing(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(lines("one\r\n", "two", "é")))
    assert texts_of(tmp_path) == texts_of(tmp_path / name) == ["one\r\n", "two", "é"]
    assert Corpus([tmp_path]).input_format == name[2:].lower()


@pytest.mark.parametrize("name, pack", [
    ("a.TXT", bytes), ("a.txt.gz", gzip.compress), ("a.py.gz", gzip.compress), ("a.txt.zst", zst)])
def test_packed_texts_are_kept_to_the_byte(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack("\ufeffa\r\n  é\n".encode()))
    assert texts_of(tmp_path) == ["\ufeffa\r\n  é\n"]


def test_frames_and_members_behind_each_other_are_one_file(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines("1")) + gzip.compress(lines("2")))
    (tmp_path / "b.jsonl.zst").write_bytes(zst(lines("3")) + zst(lines("4", "x" * 300_000)))
    assert texts_of(tmp_path) == ["1", "2", "3", "4", "x" * 300_000]
    corpus = Corpus([tmp_path])
    assert sum(document.progress for document in corpus) == corpus.nbytes


RECORD = {"content": "first\n", "meta": {"n": [1, 2]}}
JSON = {
    "array": json.dumps([RECORD, {"content": "second"}]),
    "pretty array": json.dumps([RECORD, {"content": "second"}], indent=2),
    "lines": json.dumps(RECORD) + "\n\n" + json.dumps({"content": "second"}),
    "pretty objects": json.dumps(RECORD, indent=2) + "\n" + json.dumps({"content": "second"}),
    "byte-order mark": "\ufeff" + json.dumps([RECORD, {"content": "second"}]),
}


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
@pytest.mark.parametrize("form", JSON)
def test_a_json_is_an_array_or_objects_that_follow_each_other(tmp_path, monkeypatch, form, block):
    monkeypatch.setattr(json_values, "BLOCK", block)
    put(tmp_path, a__json=JSON[form], b__json=json.dumps(RECORD, indent=1))
    assert texts_of(tmp_path) == ["first\n", "second", "first\n"]


@pytest.mark.parametrize("text, message", [
    ('[{"content": "x"}, {"content": 3}]', "record 2: .*which holds a number"),
    ('[{"content": "x"} {"content": "y"}]', "after value 1 the array needs"),
    ('[{"content": "x"}', "after value 1 the array needs"),
    ('[{"content": "x"}, ', "value 2 is not valid JSON"),
    ('[{"content": "x"}] 1', "there is more after"),
    ('{"content": "x"}\n{"content": ', "value 2 is not valid JSON"),
    ('{"content": "x"}\n["y"]', "record 2: an array"),
    ('{"content": null}', "record 1: .*which holds null")])
def test_a_json_that_breaks_off_is_named_with_the_record(tmp_path, text, message):
    put(tmp_path, a__json=text)
    with pytest.raises(CheckError, match=f"a.json: {message}"):
        texts_of(tmp_path / "a.json")


@pytest.mark.parametrize("data", [
    b'{"content": "abc def', b'[{"content": "a", ]', b'{"id": 1, "content": "a"', b'{"content" x'])
def test_a_damaged_json_of_a_folder_is_refused_by_name(tmp_path, data):
    put(tmp_path, a__json=data, good__txt="x" * 10_000)
    with pytest.raises(CheckError, match="a.json: value 1 is not valid JSON") as caught:
        Corpus([tmp_path])
    assert caught.value.exit_code == 5
    put(tmp_path, a__json=b"{ // no record here\n}")
    assert Corpus([tmp_path]).left_out == {"not valid JSON": [f"{tmp_path}/a.json"]}


def test_a_json_in_utf16_counts_as_no_utf8(tmp_path):
    array = json.dumps([RECORD, RECORD]).encode("utf-16")
    put(tmp_path, a__json=array, good__txt="x" * 200 * len(array))
    assert Corpus([tmp_path]).left_out == {"not UTF-8": [f"{tmp_path}/a.json"]}
    put(tmp_path, good__txt="x" * 50 * len(array))
    with pytest.raises(CheckError, match="1 of 2 files are not UTF-8"):
        Corpus([tmp_path])


@pytest.mark.parametrize("first", ['{"content": null}', '{"meta": 1}', '["x"]', "7"])
def test_a_json_is_judged_by_all_its_records(tmp_path, first):
    put(tmp_path, a__json=f'[{first}, {{"content": "text"}}]', b__txt="b")
    with pytest.raises(CheckError, match="a.json: record 1"):
        texts_of(tmp_path)
    put(tmp_path, a__json=f"[{first}, {first}]")
    assert list(Corpus([tmp_path]).left_out) == ["no record with a text in field 'content'"]


def test_texts_in_another_field_are_said(tmp_path):
    put(tmp_path, c___a__json='{"id": 3, "text": "one"}\n{"text": "two", "url": "u"}')
    with pytest.raises(CheckError, match="texts in 'text', 'url'.*--content-field text"):
        Corpus([tmp_path / "c"])
    assert texts_of(tmp_path / "c", content_field="text") == ["one", "two"]
    put(tmp_path, c___b__txt="words of a text of some words")
    result = aprnb_here("tokenize", "train", "--corpus", tmp_path / "c", "--vocab-size", 260,
                        "--output", tmp_path / "t")
    assert result.returncode == 0
    assert "a.json (texts in 'text', 'url')" in result.stderr
    assert "; --content-field reads another field" in result.stderr


def test_links_are_followed_and_nothing_is_read_twice(tmp_path):
    put(tmp_path, corpus___a__txt="a", elsewhere___b__txt="b", corpus___sub___c__txt="c")
    for name, target in (("l", "../elsewhere"), ("m", "../elsewhere"), ("up", ".."), ("self", "."),
                         ("z.txt", "a.txt"), ("n.txt", "../elsewhere/b.txt")):
        os.symlink(target, tmp_path / "corpus" / name)
    corpus = Corpus([tmp_path / "corpus"])
    assert [document.text for document in corpus] == ["a", "b", "c"]
    assert relative(corpus.left_out, tmp_path / "corpus") == {
        "read already under another name": [
            "m/ -> ../elsewhere", "n.txt -> ../elsewhere/b.txt", "self/ -> .", "z.txt -> a.txt"],
        "link to a folder that holds the corpus": ["up/ -> .."]}


# ---------------------------------------------------------------- what is not

LEFT_OUT = {
    "hidden": [".git/", ".secret.txt"], "cache": ["__pycache__/", "node_modules/"],
    "virtual environment": ["env/"], "unknown suffix": ["a.md", "b.txt.bz2", "c.parquet.gz", "d"],
    "held out by its name": ["Dev/", "sub/test/", "valid/"], "dangling link": ["f.jsonl", "loop"],
    "no regular file": ["pipe.txt"], "no record with a text in field 'content'": ["package.json"],
    "not UTF-8": ["latin.txt"], "empty": ["none.py"],
}


@pytest.fixture
def mixed(tmp_path):
    """A folder with one text to read and every kind of thing that is not read."""
    for names in LEFT_OUT.values():
        for name in names:
            file = tmp_path / name / "x.txt" if name.endswith("/") else tmp_path / name
            put(file.parent, **{})
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("{}")
    put(tmp_path, env___pyvenv__cfg="home = /usr", good__txt="x" * 1000, latin__txt=b"\xe9",
        none__py="")
    for name, target in (("f.jsonl", "/gone/blobs/0123"), ("loop", "loop")):
        (tmp_path / name).unlink()
        os.symlink(target, tmp_path / name)
    (tmp_path / "pipe.txt").unlink()
    os.mkfifo(tmp_path / "pipe.txt")
    return tmp_path


def relative(left_out, folder):
    return {reason: [name.removeprefix(f"{folder}/") for name in names]
            for reason, names in left_out.items()}


def test_everything_that_is_not_read_is_named_with_its_reason(mixed):
    corpus = Corpus([mixed])
    assert [document.text for document in corpus] == ["x" * 1000]
    assert relative(corpus.left_out, mixed) == LEFT_OUT


def test_include_takes_what_was_left_out_for_its_name(mixed):
    corpus = Corpus([mixed], include=["dev", "TEST", ".git", "env", "node_modules/", ".secret.txt"])
    assert len(corpus.files) == 7
    left = relative(corpus.left_out, mixed)
    assert left["held out by its name"] == ["valid/"] and left["cache"] == ["__pycache__/"]
    assert "hidden" not in left and "virtual environment" not in left
    with pytest.raises(UsageError, match="--include tset: nothing of that name"):
        Corpus([mixed], include=["dev", "tset"])


def test_links_are_judged_by_what_they_point_to_as_well(tmp_path):
    corpus = tmp_path / "up/corpus"
    put(corpus, test___part___a__txt="test", train__txt="train", sub___env___pyvenv__cfg="",
        sub___env___b__txt="env")
    put(tmp_path, Dev___c__txt="dev", out___d__txt="out", cache___node_modules___e__txt="js",
        up___dev___deep___f__txt="deep")
    for name, target in (("aaa", "test"), ("aab", "test/part"), ("aac.txt", "test/part/a.txt"),
                         ("aad", "../../Dev"), ("aae", "sub/env"), ("aaf", "../../out"),
                         ("aag", "../../cache/node_modules"), ("aah", "../dev/deep"),
                         ("aai", ".."), ("aaj", "../..")):
        os.symlink(target, corpus / name)
    found = Corpus([corpus])
    assert [document.text for document in found] == ["out", "train"]
    assert relative(found.left_out, corpus) == {
        "held out by its name": ["aaa/ -> test", "aab/ -> test/part", "aac.txt -> test/part/a.txt",
                                 "aad/ -> ../../Dev", "aah/ -> ../dev/deep", "test/"],
        "virtual environment": ["aae/ -> sub/env", "sub/env/"],
        "cache": ["aag/ -> ../../cache/node_modules"],
        "link to a folder that holds the corpus": ["aai/ -> ..", "aaj/ -> ../.."]}
    for include in ("test", "aaa"):
        assert "test" in texts_of(corpus, include=[include])


@pytest.mark.parametrize("marks", ["conda-meta/history", "lib/python3.11/site-packages/a.py",
                                   "lib/python3/dist-packages/a.py",
                                   "lib64/pypy3.10/site-packages/a.py", "pyvenv.cfg"])
def test_environments_are_known_without_their_usual_mark(tmp_path, marks):
    put(tmp_path, **{"my___tools___b__py": "b", f"my/tools/{marks}": "x", "c__py": "c"})
    found = Corpus([tmp_path])
    assert [document.text for document in found] == ["c"]
    assert relative(found.left_out, tmp_path) == {"virtual environment": ["my/tools/"]}


@pytest.mark.parametrize("name", ["site-packages", "dist-packages", "__pypackages__"])
def test_installed_packages_are_left_out_and_can_be_taken(tmp_path, name):
    put(tmp_path, c__py="c")
    put(tmp_path / "my/Lib" / name, b__py="b")
    assert relative(Corpus([tmp_path]).left_out, tmp_path) == {
        "installed packages": [f"my/Lib/{name}/"]}
    assert texts_of(tmp_path, include=[name]) == ["c", "b"]


@pytest.mark.parametrize("name", [
    "val.txt", "validation.txt.gz", "eval.txt", "Test-2.jsonl", "held-out.json", "held_out.txt",
    "testing/a.txt", "Test_data/a.jsonl", "a/dev-set/b/c.txt", "my_test.jsonl", "wiki.test.txt",
    "squad_dev_v2.0.json", "data-validation-00000-of-00001.jsonl", "de-held_out-part3.txt",
    "a.eval.jsonl.gz", "x-testset/a.txt", "2test.txt"])
def test_what_looks_held_out_is_read_and_named(tmp_path, name):
    data = lines("x") if ".json" in name else b"x"
    put(tmp_path, **{f"c/{name}": gzip.compress(data) if name.endswith("gz") else data})
    assert Corpus([tmp_path / "c"]).held_out == [tmp_path / "c" / name]
    assert Corpus([tmp_path / "c" / name]).held_out == []


def test_what_does_not_look_held_out_is_not_named(tmp_path):
    put(tmp_path, test_x__py="x", testing___y__py="x", value__txt="x", testament__txt="x",
        test___z__txt="x", device__txt="x", test___Dev___v__txt="x", latest__txt="x",
        contest__txt="x", game_dev_blog__txt="x", a_test_of_time__txt="x", attest_1__txt="x",
        protest_2__txt="x", revalidation__txt="x")
    found = Corpus([tmp_path], include=["test", "dev"])
    assert len(found.files) == 14 and found.held_out == []


def test_include_takes_the_path_that_the_warning_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path, roots___test___a__txt="a", roots___sub___test___b__txt="b", roots___c__txt="c")
    for name in ("roots/test", "roots/test/", "./roots/test", tmp_path / "roots/test"):
        assert texts_of("roots", include=[str(name)]) == ["c", "a"]
    assert texts_of("roots", include=["sub/test"]) == ["c", "b"]
    assert texts_of(tmp_path / "roots", include=["roots/test/"]) == ["c", "a"]
    with pytest.raises(UsageError, match="--include roots/tset: nothing of that name"):
        Corpus(["roots"], include=["roots/tset"])


def test_a_folder_that_is_named_itself_is_read_whatever_its_name(mixed):
    for name in (".git", "sub/test", "env", "node_modules"):
        assert texts_of(mixed / name) == ["{}"]


def test_a_folder_in_which_all_is_left_out_says_so(tmp_path):
    put(tmp_path, test___a__txt="x", b__md="x")
    with pytest.raises(CheckError, match="left out: 1 unknown suffix, 1 held out by its name"):
        Corpus([tmp_path])


def test_terminal_json_and_manifest_say_what_was_not_read(mixed, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    (out / "tok").mkdir()
    small_tokenizer().save(out / "tok")
    for i in range(30):
        (mixed / f"{i:02}.md").write_text("x")
    (mixed / "good.txt").write_text("".join(map(str, range(9999))))
    put(mixed, empty__jsonl=lines(""))
    result = aprnb_here("tokenize", "encode-corpus", "--corpus", mixed, "--tokenizer", out / "tok",
                        "--output", out / "s", "--quiet", "--json", "--allow-degenerate")
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout)["manifest"]
    assert said == json.loads((out / "s/manifest.json").read_text())
    counts = {reason: entry["count"] for reason, entry in said["skipped"].items()}
    assert counts == {reason: len(names) + 30 * (reason == "unknown suffix")
                      for reason, names in LEFT_OUT.items()}
    assert len(said["skipped"]["unknown suffix"]["names"]) == 20
    assert said["empty_documents"] == 1 and "1 document without a character" in result.stderr
    for reason, names in LEFT_OUT.items():
        assert f"skipped, {reason}" in result.stderr
    assert f"{mixed}/f.jsonl\n" in result.stderr and "and 26 more" in result.stderr
    trained = aprnb_here("tokenize", "train", "--corpus", mixed, "--vocab-size", 270, "--output",
                         out / "t", "--json", "--family", "gpt2")  # Qwen2 merges no digits
    assert json.loads(trained.stdout)["skipped"] == said["skipped"]


def test_names_that_are_no_utf8_are_said_and_written(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")  # as in most locales
    (tmp_path / "tok").mkdir()
    small_tokenizer().save(tmp_path / "tok")
    put(tmp_path, c___a__txt="".join(map(str, range(9999))))
    for name in (b"\xff.txt", b"\xfe.md"):
        with open(os.fsencode(tmp_path / "c") + b"/" + name, "w") as file:
            file.write("a text of some words")
    result = aprnb("tokenize", "encode-corpus", "--corpus", tmp_path / "c", "--tokenizer",
                   tmp_path / "tok", "--output", tmp_path / "s", "--json", "--allow-degenerate")
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)["manifest"]
    assert manifest["input_files"][1].endswith("/\udcff.txt")
    assert manifest["skipped"]["unknown suffix"]["names"][0].endswith("/\udcfe.md")


def test_a_file_that_two_paths_name_is_read_twice_and_that_is_said(tmp_path):
    put(tmp_path, a__txt="one text of some length", sub___b__txt="another text of some length")
    result = aprnb_here("tokenize", "train", "--corpus", tmp_path, "--corpus", tmp_path / "sub",
                        "--vocab-size", 260, "--output", tmp_path / "t")
    assert result.returncode == 0
    assert "1 file named by more than one --corpus, read as often" in result.stderr


def test_records_named_as_held_out_are_read_and_named(tmp_path):
    put(tmp_path, test_1__jsonl=lines("some text"), testament__jsonl=lines("more text"),
        test_it__py="def test(): pass", Validation__json=lines("other text"))
    verb = ["tokenize", "train", "--vocab-size", 260, "--output"]
    result = aprnb_here(*verb, tmp_path / "t", "--corpus", tmp_path)
    assert result.returncode == 0
    said, = [line for line in result.stderr.splitlines() if "named as held out" in line]
    assert "2 files read" in said and "test_1.jsonl" in said and "Validation.json" in said
    named = aprnb_here(*verb, tmp_path / "u", "--corpus", tmp_path / "test_1.jsonl")
    assert "named as held out" not in named.stderr


@pytest.mark.parametrize("name, pack", [("a.jsonl.gz", gzip.compress), ("a.txt.zst", zst)])
def test_a_damaged_or_cut_file_is_named(tmp_path, name, pack):
    whole = pack(lines(*(f"text {i} {i * i}" for i in range(3000))))
    put(tmp_path, good__txt="x" * 10_000_000)  # so that no share of bytes excuses it
    for damaged in (whole[:-9], whole[:len(whole) // 2], b"no such format", whole + b"garbage",
                    whole[:99] + bytes([whole[99] ^ 255]) + whole[100:]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CheckError, match=f"{name}: a damaged or cut") as caught:
            Corpus([tmp_path])
        assert caught.value.exit_code == 5


def test_a_pipe_is_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "p")
    refused(aprnb_here("tokenize", "train", "--corpus", tmp_path / "p", "--vocab-size", 300,
                       "--output", tmp_path / "t"), 2, "a pipe or device")
