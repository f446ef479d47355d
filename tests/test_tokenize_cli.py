"""The tokenize verbs as a user meets them: output, exit codes, messages, nothing half-written."""
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import processes
import pytest
from corpora import STDLIB, small_tokenizer, stdlib_ids, stdlib_texts

from aprnb.data.shards import open_dataset, repair_manifest
from aprnb.data.tokenizer import TokenizerFormatError, from_json
from aprnb.errors import StorageError

VERBS = ["train", "import-hf", "encode-corpus", "audit", "repair-manifest"]


def aprnb(*arguments, **options):
    """Run `aprnb tokenize ...` in a process of its own."""
    command = [sys.executable, "-m", "aprnb", "tokenize", *map(str, arguments)]
    return processes.run(command, **options)


def refused(result, code, *words):
    """The run ended with `code` and one `error:` line that holds all `words`."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == code, (result.returncode, result.stderr)
    assert len(errors) == 1 and "Traceback" not in result.stderr
    for word in words:
        assert word in errors[0], errors[0]


@pytest.fixture
def here(tmp_path):
    """A folder with a tokenizer `tok` and a corpus `src` of standard-library files."""
    (tmp_path / "tok").mkdir()
    small_tokenizer().save(tmp_path / "tok")
    (tmp_path / "src").mkdir()
    for i, text in enumerate(stdlib_texts(500_000)):
        (tmp_path / "src" / f"{i:03d}.py").write_bytes(text.encode())
    return tmp_path


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def encode(here, *more, output="out", **options):
    return aprnb("encode-corpus", "--corpus", here / "src", "--tokenizer", here / "tok",
                 "--output", here / output, *more, **options)


def test_the_road_from_source_to_audited_shards(here):
    trained = aprnb("train", "--corpus", here / "src", "--vocab-size", 600, "--output",
                    here / "tok600", "--json")
    assert trained.returncode == 0, trained.stderr
    summary = json.loads(trained.stdout)
    assert (summary["schema"], summary["vocab_size"]) == ("aprnb-tokenize-train-v1", 600)
    assert names(here / "tok600") == ["merges.txt", "tokenizer.json", "tokenizer_config.json",
                                      "vocab.json"]
    assert (here / "tok600" / "merges.txt").read_text().startswith("#version: 0.2\n")

    encoded = aprnb("encode-corpus", "--corpus", here / "src", "--tokenizer", here / "tok600",
                    "--output", here / "out", "--shard-tokens", 50_000, "--json")
    assert encoded.returncode == 0, encoded.stderr
    summary = json.loads(encoded.stdout)
    assert summary["schema"] == "aprnb-encode-v1" and summary["audit"]["ok"]
    assert "MB/s" in encoded.stderr and "ETA" in encoded.stderr

    audited = aprnb("audit", here / "out", "--json")
    assert audited.returncode == 0, audited.stderr
    report = json.loads(audited.stdout)
    assert report["schema"] == "aprnb-audit-v1" and report["tokens"] > 100_000
    assert {key: report[key] for key in report if key != "path"} == {
        key: summary["audit"][key] for key in report if key != "path"}

    before = (here / "out" / "manifest.json").read_bytes()
    repaired = aprnb("repair-manifest", here / "out", "--json")
    assert json.loads(repaired.stdout)["schema"] == "aprnb-repair-manifest-v1"
    assert (here / "out" / "manifest.json").read_bytes() == before


def test_plain_output_names_what_the_shards_hold(here):
    encoded = encode(here, "--quiet")
    assert encoded.returncode == 0 and encoded.stderr == ""
    for word in ("tokens", "entropy", "bits", "most frequent", "plausible text"):
        assert word in encoded.stdout


def test_import_keeps_the_file_to_the_byte(here):
    source = here / "tok" / "tokenizer.json"
    source.write_bytes(source.read_bytes().replace(b"\n", b"\r\n"))
    result = aprnb("import-hf", "--input", source, "--output", here / "copy", "--json")
    assert json.loads(result.stdout)["vocab_size"] == 1024
    assert (here / "copy" / "tokenizer.json").read_bytes() == source.read_bytes()
    assert names(here / "copy") == ["manifest.json", "merges.txt", "tokenizer.json",
                                    "tokenizer_config.json", "vocab.json"]


def test_missing_inputs_exit_3(here):
    for arguments in (["audit", here / "absent"], ["repair-manifest", here / "absent"],
                      ["import-hf", "--input", here / "absent", "--output", here / "new"],
                      ["train", "--corpus", here / "absent", "--vocab-size", 300,
                       "--output", here / "new"],
                      ["encode-corpus", "--corpus", here / "absent", "--tokenizer", here / "tok",
                       "--output", here / "new"],
                      ["encode-corpus", "--corpus", here / "src", "--tokenizer", here / "absent",
                       "--output", here / "new"]):
        refused(aprnb(*arguments), 3, "absent")
    assert names(here) == ["src", "tok"]


def test_a_file_that_is_no_tokenizer_exits_4(here):
    for text in ("", "{"):
        (here / "tok" / "tokenizer.json").write_text(text)
        refused(encode(here), 4, "tokenizer.json", "not valid JSON")
    refused(aprnb("import-hf", "--input", here / "tok" / "tokenizer.json", "--output",
                  here / "new"), 4, "tokenizer.json")
    assert names(here) == ["src", "tok"]


@pytest.mark.parametrize("change", [
    lambda spec: spec.clear(), lambda spec: spec.update(model=None),
    lambda spec: spec["model"].update(merges=5), lambda spec: spec.update(added_tokens=5),
    lambda spec: spec.update(added_tokens=["x"]), lambda spec: spec.update(normalizer=5),
], ids=["nothing", "model", "merges", "added_tokens", "added token", "normalizer"])
def test_a_broken_tokenizer_is_refused_as_such(change):
    spec = json.loads(small_tokenizer().text)
    change(spec)
    with pytest.raises(TokenizerFormatError):
        from_json(json.dumps(spec))


def test_a_hex_byte_vocabulary_exits_5_instead_of_writing_unk(here):
    vocab = {f"{byte:02x}": byte for byte in range(256)} | {"<unk>": 256}
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (here / "tok" / name).unlink()
    (here / "tok" / "vocab.json").write_text(json.dumps(vocab))
    refused(encode(here), 5, "hex-byte", "tokenize train")
    assert names(here) == ["src", "tok"]


def test_unknown_flag_values_exit_2(here):
    for flag, value in (("--eos-policy", "sometimes"), ("--num-workers", "0"),
                        ("--shard-tokens", "many"), ("--colour", "red")):
        result = encode(here, flag, value)
        assert result.returncode == 2 and flag in result.stderr
    result = aprnb("train", "--corpus", here / "src", "--vocab-size", 0, "--output", here / "new")
    assert result.returncode == 2
    assert names(here) == ["src", "tok"]


def usage(here, *arguments):
    """The arguments are refused as usage: exit 2, one line, nothing left behind."""
    before = names(here)
    result = aprnb(*arguments, cwd=here)
    refused(result, 2, str(arguments[-2]))
    assert names(here) == before


def test_numbers_beyond_all_sense_exit_2(here):
    train = ["train", "--corpus", here / "src", "--output", here / "new"]
    usage(here, *train, "--vocab-size", 10 ** 12)
    usage(here, *train, "--vocab-size", 256)
    usage(here, *train, "--vocab-size", 10 ** 30)
    usage(here, *train, "--vocab-size", 300, "--min-frequency", 10 ** 30)
    usage(here, "audit", here / "src", "--vocab-size", 10 ** 30)
    encode = ["encode-corpus", "--corpus", here / "src", "--tokenizer", here / "tok",
              "--output", here / "new"]
    usage(here, *encode, "--shard-tokens", 10 ** 30)
    usage(here, *encode, "--num-workers", 10 ** 30)


def test_the_largest_numbers_allowed_are_borne(here):
    (here / "small.txt").write_text("ab" * 50)
    result = aprnb("train", "--corpus", here / "small.txt", "--vocab-size", 1_000_000, "--output",
                   here / "new")
    assert result.returncode == 0 and "1000000 were asked for" in result.stderr
    refused(aprnb("train", "--corpus", here / "small.txt", "--vocab-size", 300, "--min-frequency",
                  10 ** 15, "--output", here / "new2"), 5, "nothing to train on")
    folder = shards(here, stdlib_ids())
    assert aprnb("audit", folder, "--vocab-size", 2 ** 32).returncode == 0


def test_an_empty_path_is_not_the_current_folder(here):
    usage(here, "train", "--vocab-size", 300, "--output", "new", "--corpus", "")
    usage(here, "train", "--vocab-size", 300, "--corpus", "src", "--output", "")
    usage(here, "encode-corpus", "--corpus", "src", "--output", "new", "--tokenizer", "")
    result = aprnb("audit", "", cwd=here)
    assert result.returncode == 2 and "empty path" in result.stderr


def test_existing_output_exits_5_unless_forced(here):
    assert encode(here).returncode == 0
    shard = here / "out" / "shard-00000.bin"
    before = shard.read_bytes()
    refused(encode(here, "--eos-policy", "none"), 5, "exists already", "--force")
    assert shard.read_bytes() == before
    assert encode(here, "--eos-policy", "none", "--force").returncode == 0
    assert shard.read_bytes() != before
    assert names(here) == ["out", "src", "tok"]
    refused(aprnb("train", "--corpus", here / "src", "--vocab-size", 300, "--output",
                  here / "tok"), 5, "exists already")


def test_force_does_not_delete_foreign_files(here):
    before = names(here / "src")
    refused(encode(here, "--force", output="src"), 5, "000.py", "choose another output")
    assert names(here / "src") == before


def test_a_forced_run_that_fails_keeps_the_older_output(here):
    assert encode(here).returncode == 0
    before = {file.name: file.read_bytes() for file in (here / "out").iterdir()}
    for file in (here / "src").iterdir():
        file.write_text("a" * 1000)
    refused(encode(here, "--force"), 5, "degenerate", "out.degenerate")
    assert {file.name: file.read_bytes() for file in (here / "out").iterdir()} == before


def test_a_refused_corpus_is_taken_where_it_is_kept(here):
    for file in (here / "src").iterdir():
        file.write_text("a" * 1000)
    assert encode(here).returncode == 5
    kept = here / "out.degenerate"
    refused(aprnb("audit", kept), 5, "--allow-degenerate")
    taken = aprnb("audit", kept, "--allow-degenerate")
    assert taken.returncode == 0 and "warning: --allow-degenerate: " in taken.stderr
    assert json.loads((kept / "manifest.json").read_text())["audit"]["allowed"] is True
    assert encode(here, "--allow-degenerate").returncode == 0


def shards(here, ids):
    (here / "out").mkdir()
    np.asarray(ids, "<u4").tofile(here / "out" / "shard-00000.bin")
    return here / "out"


def test_audit_of_an_empty_dataset_exits_5(here):
    (here / "out").mkdir()
    refused(aprnb("audit", here / "out"), 5, "empty dataset")


def test_a_folder_that_may_not_be_listed_exits_7():
    """Permissions do not bind root, who therefore tries as somebody else."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o711)
        locked = Path(folder, "locked")
        locked.mkdir(mode=0o111)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            for verb in (open_dataset, repair_manifest):
                with pytest.raises(StorageError, match="locked: Permission denied"):
                    verb(locked)
        finally:
            os.seteuid(user)


def test_audit_of_one_repeated_token_exits_5_with_the_report(here):
    result = aprnb("audit", shards(here, np.full(9000, 3)), "--json")
    refused(result, 5, "every token has id 3")
    report = json.loads(result.stdout)
    assert not report["ok"] and report["distinct"] == 1 and report["entropy_bits"] == 0


def test_audit_of_an_id_beyond_the_vocabulary_exits_5(here):
    folder = shards(here, stdlib_ids())
    accepted = aprnb("audit", folder, "--vocab-size", 1024)
    assert accepted.returncode == 0 and "no manifest.json" in accepted.stderr
    refused(aprnb("audit", folder, "--vocab-size", 500), 5, "shard-00000.bin", "token ", "500")


def test_audit_with_another_tokenizer_exits_5(here):
    assert encode(here).returncode == 0
    text = small_tokenizer().text.replace('"use_regex": true', '"use_regex": false', 1)
    (here / "tok" / "tokenizer.json").write_text(text)
    refused(aprnb("audit", here / "out", "--tokenizer", here / "tok"), 5, "encoded with tokenizer")


def test_audit_with_a_leaked_validation_shard_exits_5(here):
    assert encode(here).returncode == 0
    refused(aprnb("audit", here / "out", "--val-shard", here / "out"), 5, "stand in training")


def test_files_that_are_no_utf8_are_named_and_too_many_exit_5(here):
    (here / "src" / "latin.py").write_bytes("# é\n".encode("latin-1"))
    result = encode(here)
    assert result.returncode == 0 and "latin.py" in result.stderr
    manifest = json.loads((here / "out" / "manifest.json").read_text())
    assert [os.path.basename(file) for file in manifest["skipped_files"]] == ["latin.py"]
    (here / "src" / "latin.py").write_bytes(b"\xff" * 50_000)
    refused(encode(here, output="new"), 5, "latin.py", "not UTF-8", "1 %")
    refused(aprnb("train", "--corpus", here / "src", "--vocab-size", 300, "--output",
                  here / "new"), 5, "latin.py", "not UTF-8")
    assert names(here) == ["out", "src", "tok"]


def test_a_corpus_without_text_exits_5(here):
    (here / "empty.txt").write_text("")
    refused(aprnb("train", "--corpus", here / "empty.txt", "--vocab-size", 300, "--output",
                  here / "new"), 5, "nothing to train on")
    refused(aprnb("encode-corpus", "--corpus", here / "empty.txt", "--tokenizer", here / "tok",
                  "--output", here / "new"), 5, "empty corpus")
    (here / "bad.jsonl").write_text('{"content": "x"}\n{"text": "y"}\n')
    refused(aprnb("train", "--corpus", here / "bad.jsonl", "--vocab-size", 300, "--output",
                  here / "new"), 5, "bad.jsonl:2", "--content-field")
    assert names(here) == ["bad.jsonl", "empty.txt", "src", "tok"]


def limit_file_size(nbytes):
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, nbytes))


@pytest.mark.parametrize("nbytes", [0, 1, 4096, 100_000, 300_000])
def test_a_write_that_fails_exits_7_and_leaves_nothing(here, nbytes):
    result = encode(here, preexec_fn=limit_file_size(nbytes))
    refused(result, 7, "out", "free some space")
    assert names(here) == ["src", "tok"]


def test_a_full_disk_exits_7_and_leaves_nothing(here):
    small = here / "small"
    small.mkdir()
    mounted = processes.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)])
    if mounted.returncode:
        pytest.skip(f"cannot mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        refused(encode(here, output="small/out"), 7, "No space left on device", "shard-00000.bin")
        assert names(small) == []
    finally:
        processes.run(["umount", str(small)], check=True)


def test_a_folder_that_cannot_be_written_exits_7(here):
    (here / "file").write_text("in the way")
    refused(encode(here, output="file/out"), 7, "file")
    assert names(here) == ["file", "src", "tok"]


def test_ctrl_c_exits_130_and_leaves_nothing(here):
    command = [sys.executable, "-m", "aprnb", "tokenize", "encode-corpus", "--corpus", str(STDLIB),
               "--tokenizer", str(here / "tok"), "--output", str(here / "out")]
    with processes.started(command, stderr=subprocess.PIPE, text=True) as process:
        while not any(name.startswith(".out.") for name in names(here)):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130 and "error: interrupted" in errors
    assert "Traceback" not in errors and names(here) == ["src", "tok"]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb):
    text = aprnb(verb, "--help").stdout
    assert text.count(f"aprnb tokenize {verb} ") >= 3  # usage and two examples
    assert "Exit codes: 0" in text and "--json" in text
