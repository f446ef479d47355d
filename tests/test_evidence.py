"""Folders of evidence: written whole, generated from data, and any later change is named."""
import json
import math
import os
import re
import shutil
import sys
from pathlib import Path

import processes
import pytest
import runs

from aprnb.errors import UsageError
from aprnb.proof.evidence.folder import attach, draft, read_record, seal, verify
from aprnb.proof.evidence.origin import sha256
from aprnb.proof.evidence.training import inputs_of_run
from aprnb.proof.paths import shorten, shown
from aprnb.provenance import origin

ROOT = Path(__file__).parents[1]
TOOL = ROOT / "tools/record_evidence.py"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "2026-11-21-cpu-trajectory"  # recorded before records had a seal


def record(root, name, *arguments):
    """The tool in a process of its own; (result, the folder)."""
    result = processes.run([sys.executable, TOOL, name, "--root", root, *map(str, arguments)])
    return result, next(root.glob(f"*-{name}"), None) if root.exists() else None


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Evidence of a small training run: (folder, report of the run)."""
    base = tmp_path_factory.mktemp("told")
    report = runs.train(base)
    result, folder = record(base / "evidence", "training", "--commit", COMMIT, "--run-dir",
                            base / "run", "--note", "Weights are random.", "--input",
                            base / "config.json", "--",
                            sys.executable, "-c", f"print('seen', r'{base}/run/ckpt')")
    assert result.returncode == 0, result.stderr
    return folder, report


@pytest.fixture
def copy(told, tmp_path):
    return Path(shutil.copytree(told[0], tmp_path / "copy"))


def test_a_record_says_what_ran_where_on_which_code(told):
    folder, report = told
    said = read_record(folder)
    assert (said["commit"], said["tree_clean"], said["exit_code"]) == (COMMIT, None, 0)
    assert said["argv"][1] == "-c" and said["device"] == report["device"]
    assert said["hardware"]["cores"] >= 1 and said["versions"]["numpy"] and said["seconds"] > 0
    digest = sha256(folder.parents[1] / "config.json")
    assert [v for k, v in said["inputs"].items() if k.endswith("config.json")] == [digest]
    assert set(said["files"]) == {f.name for f in folder.iterdir()} - {"record.json"}
    assert verify(folder) == []


def test_a_training_run_leaves_its_epochs_its_summary_and_the_raw_output(told):
    folder, report = told
    for epoch in range(report["epochs_completed"]):
        original = Path(report["run_dir"]) / f"ckpt/epoch-{epoch:03}.metadata.json"
        assert (folder / original.name).read_bytes() == original.read_bytes()
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["val_loss_history"] == report["val_loss_history"]
    assert (folder / "dispatch.txt").read_text() == "seen run/ckpt\n"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == report["steps_recorded"]


def test_the_table_of_epochs_comes_from_what_the_run_measured(told):
    folder, report = told
    rows = [re.split(r" *\| *", line)[1:-1] for line in (folder / "README.md").read_text(
        ).splitlines() if re.match(r"\| \d+ \|", line)]
    assert len(rows) == report["epochs_completed"] == 3
    for epoch, row in enumerate(rows):
        steps = report["per_step_metrics"][8 * epoch:8 * epoch + 8]
        assert row[0] == str(epoch) and row[3] == f"{math.log(1024):.4f}"
        train, validation, perplexity, rate = map(float, (row[1], row[2], row[4], row[6]))
        assert math.isclose(train, sum(s["loss_nats"] for s in steps) / len(steps), abs_tol=1e-4)
        assert math.isclose(validation, report["val_loss_history"][epoch], abs_tol=1e-4)
        assert math.isclose(perplexity, math.exp(validation), rel_tol=1e-3)
        assert math.isclose(rate, steps[-1]["lr"], rel_tol=1e-3)
        speeds = sorted(s["tokens_per_sec"] for s in steps)
        assert speeds[0] * 0.99 <= float(row[5].replace(",", "")) <= speeds[-1] * 1.01


def test_the_page_names_command_note_and_what_is_not_proven(told):
    text = (told[0] / "README.md").read_text()
    for words in ("print(", "Weights are random.", COMMIT, "exit code 0", "## Hardware",
                  "Any contract: no falsifier was run", "one run on one machine",
                  "the tree was not seen clean", "COMPLETED: 20 steps",
                  f"{told[1]['corpus_entropy_nats']:.4f} nats, the entropy of the corpus"):
        assert words in text, words


def test_the_manifest_of_a_dataset_stands_for_its_shards(tmp_path):
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed/manifest.json").write_text("{}")
    given = {"init": tmp_path / "m.apr", "tokenizer": None, "dataset": tmp_path / "listed",
             "val_shard": tmp_path}
    (tmp_path / "config.json").write_text(json.dumps({"settings": {
        name: {"value": path and str(path), "from": "flag"} for name, path in given.items()}}))
    assert inputs_of_run(tmp_path) == [tmp_path / "m.apr", tmp_path / "listed/manifest.json",
                                       tmp_path]


def test_no_path_of_the_machine_is_left(told):
    base = str(told[0].parents[1])
    for file in told[0].iterdir():
        assert base not in file.read_text(), file.name


@pytest.mark.parametrize("name", ["dispatch.txt", "README.md", "summary.json",
                                  "epoch-001.metadata.json"])
def test_one_changed_byte_is_named(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    assert verify(copy) == [f"{name}: changed"]


def test_missing_and_extra_files_are_named(copy):
    (copy / "metrics.jsonl").unlink()
    (copy / "typed.md").write_text("all is well")
    assert verify(copy) == ["metrics.jsonl: missing", "typed.md: extra"]


@pytest.mark.parametrize("key, value", [("exit_code", 1), ("commit", "f" * 40), ("inputs", {}),
                                        ("tree_clean", True), ("seal", None)])
def test_a_record_that_was_edited_is_named(copy, key, value):
    record = json.loads((copy / "record.json").read_text())
    (copy / "record.json").write_text(json.dumps(record | {key: value}))
    assert verify(copy) == ["record.json: changed"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "aprnb-evidence-v1"}', "null",
                                  '{"schema": "x", "files": {}}', "[" * 100_000, "\ud800",
                                  '{"schema": "aprnb-evidence-v1", "files": {"../x": ""}}'])
def test_a_record_that_is_none_is_named(copy, text):
    (copy / "record.json").write_bytes(text.encode(errors="surrogatepass"))
    assert len(verify(copy)) == 1 and "record.json: changed: " in verify(copy)[0]
    (copy / "record.json").unlink()
    assert verify(copy) == ["record.json: missing"]


@pytest.mark.parametrize("name, said", [
    ("\ud800", r"\ud800: missing"), ("a" * 300, "a" * 80 + "...: cannot be read: File name too"),
    ("a\0b", r"a\x00b: missing"), ("a\nb\x1b[2J", r"a\nb\x1b[2J: missing")])
def test_a_record_that_lists_a_name_of_no_file_is_named(copy, name, said):
    record = json.loads((copy / "record.json").read_text())
    record["files"][name] = "0" * 64
    (copy / "record.json").write_text(json.dumps(record))
    first, second = verify(copy)
    assert first == "record.json: changed" and second.startswith(said)
    assert second.isprintable()


def test_a_file_that_was_added_under_a_name_that_is_no_text_is_named(copy):
    (copy / os.fsdecode(b"\xff.txt")).write_text("")
    assert verify(copy) == [r"\udcff.txt: extra"]


@pytest.mark.parametrize("make", [
    os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")],
    ids=["fifo", "folder", "device"])
def test_a_record_that_is_no_file_is_named_and_never_waited_for(copy, make):
    (copy / "record.json").unlink()
    make(copy / "record.json")
    said = processes.run([sys.executable, "-c", "import sys; from aprnb.proof.evidence.folder "
                          "import verify; print(verify(sys.argv[1]))", copy], cwd=ROOT)
    assert said.stdout == "['record.json: changed: it is no regular file']\n", said.stderr


@pytest.mark.parametrize("lost", [("argv",), ("seal",), ("argv", "seal")])
def test_verdicts_need_a_seal(copy, lost):
    """Records from before there were seals hold no verdicts; one that claims to be such is none."""
    record = json.loads((copy / "record.json").read_text())
    record = {key: value for key, value in record.items() if key not in lost}
    (copy / "verdicts.json").write_text("{}")
    record["files"]["verdicts.json"] = sha256(copy / "verdicts.json")
    (copy / "record.json").write_text(json.dumps(record))
    assert verify(copy) == ["record.json: changed"]
    del record["files"]["verdicts.json"]  # not even as a file that was added
    (copy / "record.json").write_text(json.dumps(record))
    assert verify(copy) == ["record.json: changed", "verdicts.json: extra"]


@pytest.mark.parametrize("folder", sorted(f.name for f in (ROOT / "evidence").iterdir()
                                          if f.is_dir()))
def test_evidence_of_this_checkout_is_as_it_was_recorded(folder):
    assert verify(ROOT / "evidence" / folder) == []


def test_older_records_are_read_and_checked(tmp_path):
    copy = Path(shutil.copytree(ROOT / "evidence" / OLDER, tmp_path / OLDER))
    assert read_record(copy)["argv"][0] == "bash" and verify(copy) == []
    (copy / "metrics.jsonl").write_text("")
    assert verify(copy) == ["metrics.jsonl: changed"]


def test_a_command_that_fails_is_recorded_with_its_code(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    result, folder = record(tmp_path / "evidence", "failing", "--commit", COMMIT, "--result",
                            tmp_path / "report.json", "--result", tmp_path / "absent.json",
                            "--input", tmp_path / "absent.bin", "--", "sh", "-c", "echo no; exit 3")
    assert result.returncode == 3 and (folder / "output.txt").read_text() == "no\n"
    said = read_record(folder)
    assert said["exit_code"] == 3 and list(said["inputs"].values()) == [None]
    assert set(said["files"]) == {"output.txt", "report.json", "README.md"}
    assert "what it was to show is not shown" in (folder / "README.md").read_text()
    again, _ = record(tmp_path / "evidence", "failing", "--commit", COMMIT, "--", "true")
    assert again.returncode == 0 and set(read_record(folder)["files"]) == {"output.txt",
                                                                          "README.md"}


def test_files_of_others_are_never_replaced(tmp_path):
    _, folder = record(tmp_path, "mine", "--commit", COMMIT, "--", "true")
    (folder / "thoughts.md").write_text("by hand")
    result, _ = record(tmp_path, "mine", "--commit", COMMIT, "--", "touch", tmp_path / "ran")
    assert result.returncode == 5 and "thoughts.md" in result.stderr
    assert not (tmp_path / "ran").exists() and (folder / "thoughts.md").exists()


def test_what_fails_on_the_way_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), draft(tmp_path / "evidence/x") as folder:
        attach(folder, [TOOL], ROOT)
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("commit", ["", "HEAD", "main", "0123abc; true", "012345", "f" * 41,
                                    "g" * 40, "0123456\n", "../x"])
def test_a_commit_is_one_to_git_or_it_is_refused(tmp_path, commit):
    result, folder = record(tmp_path / "evidence", "x", "--commit", commit, "--", "touch",
                            tmp_path / "ran")
    assert result.returncode == 2 and "7 to 40 hexadecimal digits" in result.stderr
    assert folder is None and not (tmp_path / "ran").exists()
    with pytest.raises(UsageError, match="7 to 40 hexadecimal digits"):
        origin(ROOT, commit)


@pytest.mark.parametrize("name", ["../../x", "a/b", ".x", ".", "", "a b", "x\n"])
def test_a_name_leads_nowhere_else_or_it_is_refused(tmp_path, name):
    root = tmp_path / "house/evidence"
    result, _ = record(root, name, "--commit", COMMIT, "--", "touch", tmp_path / "ran")
    runs.refused(result, 2, repr(name), "letters, digits, '.', '_' and '-'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("commit", ["0123abc", "0123456789", COMMIT])
def test_a_commit_may_be_shortened(commit):
    assert origin(ROOT, commit)["commit"] == commit


def test_every_digest_is_that_of_the_file_as_it_lies_there(tmp_path):
    with draft(tmp_path / "x") as folder:
        (folder / "bytes.bin").write_bytes(bytes(range(256)))
        seal(folder, ROOT, "x", origin(ROOT, COMMIT), ["true"], 0, 0.5)
    said = read_record(tmp_path / "x")["files"]
    assert said["bytes.bin"] == ("40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880")
    assert said["README.md"] == sha256(tmp_path / "x/README.md")


def test_without_git_the_commit_is_asked_for(tmp_path):
    assert origin(tmp_path) == {"commit": None, "tree_clean": None}
    shutil.copytree(ROOT / "tools", tmp_path / "copy/tools")
    shutil.copytree(ROOT / "aprnb", tmp_path / "copy/aprnb")
    result = processes.run([sys.executable, tmp_path / "copy/tools/record_evidence.py", "x", "--",
                            "true"])
    assert result.returncode == 2 and "--commit" in result.stderr
    assert not (tmp_path / "copy/evidence").exists()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_checkout_itself(tmp_path):
    def git(*words):
        processes.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words],
                      check=True)

    git("init", "-q")
    (tmp_path / "code.py").write_text("x = 1\n")
    (tmp_path / "evidence").mkdir()
    (tmp_path / "evidence/table.csv").write_text("1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = origin(tmp_path)
    assert re.fullmatch("[0-9a-f]{40}", clean["commit"]) and clean["tree_clean"] is True
    (tmp_path / "evidence/table.csv").write_text("2\n")  # not code
    assert origin(tmp_path) == clean
    (tmp_path / "new.py").write_text("x = 2\n")  # git does not know it, Python does
    assert origin(tmp_path) == clean | {"tree_clean": False}
    (tmp_path / "new.py").unlink()
    assert origin(tmp_path) == clean
    (tmp_path / "code.py").write_text("x = 2\n")
    assert origin(tmp_path) == clean | {"tree_clean": False}
    (tmp_path / "inside").mkdir()
    assert origin(tmp_path / "inside")["commit"] is None


@pytest.mark.parametrize("text, want", [
    ("/srv/house/aprnb/cli.py:3", "aprnb/cli.py:3"),
    ("see /home/one/data/x.bin.", "see data/x.bin."),
    ('"/home/one/data"', '"one/data"'), ("https://host/a/b", "https://host/a/b"),
    ("3 tok/s of a/b/c", "3 tok/s of a/b/c"), ("../shared/data/x", "../shared/data/x"),
    ("=/home/one/two:/home/three/four", "=one/two:three/four")])
def test_absolute_paths_in_texts_are_shortened(text, want):
    assert shorten(text, Path("/srv/house")) == want


@pytest.mark.parametrize("data, want", [
    (b"{'a': '/home/one/two/three'}", b"{'a': 'two/three'}"),
    (b"\xff /home/one/two/three", b"\xff two/three"),
    (b"\0 /home/one/two/three", b"\0 /home/one/two/three")])
def test_texts_are_attached_with_shortened_paths_and_binaries_as_they_are(tmp_path, data, want):
    (tmp_path / "result").write_bytes(data)
    with draft(tmp_path / "x") as folder:
        attach(folder, [tmp_path / "result", tmp_path / "absent"], ROOT)
    assert (tmp_path / "x/result").read_bytes() == want
    assert [f.name for f in (tmp_path / "x").iterdir()] == ["result"]


def test_a_path_is_shown_below_the_checkout_or_by_its_last_two_parts():
    assert shown("/srv/house/a/b/c", Path("/srv/house")) == "a/b/c"
    assert shown("/home/one/two/three", Path("/srv/house")) == "two/three"
    assert shown("/tmp", Path("/srv/house")) == "tmp" and shown("a/b/c/d", ROOT) == "a/b/c/d"
