"""The state decides over records and events: damage is found at the start and made good."""
import json
import shutil

import numpy as np
import pytest
from protected import base, contents, events, half, longer, older  # noqa: F401
from runs import Watcher, aprnb_here, leftovers, numbers, train

from aprnb.errors import CheckError
from aprnb.train.metrics import FIELDS
from aprnb.train.position import Position
from aprnb.train.records import check, rebuilt


# ---------------------------------------------------------------- metrics.jsonl

def damaged(run, how):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    if how == "missing":
        return path.unlink()
    if how == "replaced":  # as editors and sed -i write a file
        path.unlink()
    if how == "empty":
        lines = []
    elif how == "key renamed":
        lines = [line.replace('"loss_nats"', '"train_loss_nats"') for line in lines]
    elif how == "line lost":
        del lines[3]
    elif how == "line twice":
        lines.insert(3, lines[3])
    elif how == "loss edited":
        record = json.loads(lines[3])
        lines[3] = json.dumps(record | {"loss_nats": 1.0}) + "\n"
    elif how == "torn":
        lines[3] = lines[3][:20] + "\n"
    elif how == "zeros":
        lines[3] = "\0" * len(lines[3])
    elif how == "cut":
        lines[-1] = lines[-1][:-9]
    elif how == "pretty":
        lines = [json.dumps(json.loads(line), indent=1) + "\n" for line in lines]
    elif how == "array":
        lines = ["[\n", *[line.rstrip() + ",\n" for line in lines[:-1]], lines[-1], "]\n"]
    elif how == "NaN":
        lines[3] = json.dumps(json.loads(lines[3]) | {"wall_ms": float("nan")}) + "\n"
    elif how == "huge":
        lines[3] = lines[3].replace('"wall_ms": ', '"wall_ms": ' + "9" * 400 + ", \"x\": ")
    path.write_text("".join(lines))


DAMAGES = {"missing": 0, "empty": 0, "key renamed": 0, "line lost": 11, "line twice": 12,
           "loss edited": 11, "torn": 11, "zeros": 11, "cut": 11, "pretty": 12, "array": 12,
           "NaN": 11, "huge": 11}


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_file_of_records_is_found_at_the_start_and_made_anew(half, how):
    base, name = half
    whole = numbers(train(base, "whole", resume=True))
    damaged(base / name, how)
    before = contents(base / name)
    with pytest.raises(CheckError, match="metrics.jsonl: .*--override metrics.jsonl"):
        longer(base, name)
    assert contents(base / name) == before
    watcher = Watcher()
    report = longer(base, name, overrides=["metrics.jsonl"], watcher=watcher)
    assert numbers(report) == whole, "the state holds step, loss, norm and rate"
    assert all(list(r) == list(FIELDS) for r in report["per_step_metrics"])
    assert sum(r["wall_ms"] is None for r in report["per_step_metrics"]) == 12 - DAMAGES[how]
    said = [t for t in watcher.warnings if f"{DAMAGES[how]} of 12 records were sound" in t]
    assert said and any("records were sound" in line for line in open(base / name / "events.jsonl"))
    kept = base / name / "metrics.jsonl.damaged"
    assert kept.exists() == (how != "missing")
    assert how == "missing" or kept.read_bytes() == before[base / name / "metrics.jsonl"]
    assert numbers(longer(base, name)) == whole and not leftovers(base / name)


def test_records_that_are_only_written_otherwise_are_sound(half):
    base, name = half
    path = base / name / "metrics.jsonl"
    rows = [json.loads(line) for line in open(path)]
    path.write_text("".join(json.dumps(dict(sorted(r.items())), separators=(",", ":")) + "\r\n"
                            for r in rows))
    assert numbers(longer(base, name)) == numbers(train(base, "whole", resume=True))


def test_records_of_a_state_of_before_are_null_where_nobody_knows_them(base):
    train(base, "lost", num_steps=12, schedule="constant", warmup_steps=0)
    older(base / "lost")
    damaged(base / "lost", "torn")
    with pytest.raises(CheckError, match="line 4"):
        longer(base, "lost")
    report = longer(base, "lost", overrides=["metrics.jsonl"])
    assert report["status"] == "COMPLETED" and report["steps_recorded"] == 20  # gate 010 holds
    row = report["per_step_metrics"][3]
    assert row == dict.fromkeys(FIELDS) | {"step": 3}
    newest = max((base / "lost/ckpt").glob("state-*"))
    assert aprnb_here("validate", newest).returncode == 0
    assert (base / "lost/loss.svg").read_text().count("<polyline") == 2
    assert numbers(longer(base, "lost")) == numbers(report)


def test_without_a_state_that_says_so_no_step_is_invented(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(dict.fromkeys(FIELDS) | {"step": 0}) + "\n")
    position = Position(step=4, recorded=3)
    with pytest.raises(CheckError, match="which"):
        rebuilt(path, position)
    records, numbers, kept = rebuilt(path, position, skipped=[2])
    assert [r["step"] for r in records] == [0, 1, 3] and kept == 1
    assert np.array_equal(numbers[:, 0], [0, 1, 3])


@pytest.mark.parametrize("how, word", [("torn", "changed"), ("replaced", "removed or replaced"),
                                       ("empty", "changed"), ("line lost", "changed")])
def test_records_that_are_damaged_while_the_run_writes_them(base, how, word):
    name = f"while {how}"

    def damage(record):
        if record["step"] == 13:
            damaged(base / name, how)
    watcher = Watcher(damage)
    report = train(base, name, watcher=watcher)
    assert numbers(report) == numbers(train(base, "whole", resume=True))
    said = [text for text in watcher.warnings if f"metrics.jsonl was {word}" in text]
    assert len(said) == 1 and "--resume --override metrics.jsonl" in said[0]
    with pytest.raises(CheckError, match="--override metrics.jsonl"):
        longer(base, name)
    assert numbers(longer(base, name, overrides=["metrics.jsonl"])) == numbers(report)


@pytest.mark.parametrize("files", [["metrics.jsonl"], ["events.jsonl"], ["config.json"],
                                   ["metrics.jsonl", "events.jsonl", "config.json", "ckpt"]])
@pytest.mark.parametrize("step", [9, 19])
def test_files_that_are_removed_while_the_run_writes_them_are_put_back(tmp_path, files, step):
    whole = train(tmp_path, "whole")

    def remove(record):
        for file in files if record["step"] == step else []:
            path = tmp_path / "run" / file
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    watcher = Watcher(remove)
    report = train(tmp_path, watcher=watcher)
    assert numbers(report) == numbers(whole)
    assert all((tmp_path / "run" / file).exists() for file in files)
    assert len(events(tmp_path / "run", "start")) == 1
    said = [text for text in watcher.warnings if "removed while the run wrote there" in text]
    assert len(said) == 1 and files[0] in said[0]
    assert said[0] in [event["text"] for event in events(tmp_path / "run", "warning")]
    again = train(tmp_path, resume=True, num_steps=22)
    assert again["steps_recorded"] == 22 and numbers(again)[:20] == numbers(whole)


def test_no_records_are_no_damage(tmp_path):
    numbers, end = check(tmp_path / "metrics.jsonl", Position())
    assert numbers.shape == (0, 4) and end == 0


# ---------------------------------------------------------------- the other files

def test_damaged_events_do_not_stop_a_resume_and_are_said(half):
    base, name = half
    path = base / name / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "garbage\n", *lines[1:], "7\n"]))
    watcher = Watcher()
    longer(base, name, watcher=watcher)
    assert [t for t in watcher.warnings if "events.jsonl: line 2 and 1 more" in t]
    assert "garbage\n" in path.read_text() and "events.jsonl: line 2" in path.read_text()
    path.unlink()
    watcher = Watcher()
    longer(base, name, watcher=watcher)
    assert [t for t in watcher.warnings if "events.jsonl: is missing" in t]


@pytest.mark.parametrize("tail, said", [(b"\0" * 512, True), (b"\x80junk", True),
                                        (b'{"event": "che', False), (b'{"ev', False)])
def test_an_end_of_events_that_is_cut_off_is_said_unless_it_is_torn(half, tail, said):
    base, name = half
    path = base / name / "events.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + tail)
    watcher = Watcher()
    longer(base, name, watcher=watcher)
    assert path.read_bytes().startswith(before + b'{"event": "resume"')
    cut = f"events.jsonl: its last {len(tail)} bytes"
    assert any(cut in text for text in watcher.warnings) == said


def test_a_last_event_that_lacks_only_its_end_stays(half):
    base, name = half
    path = base / name / "events.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[:-1])  # as some editors save it
    watcher = Watcher()
    longer(base, name, watcher=watcher)
    assert path.read_bytes().startswith(before)
    assert not [text for text in watcher.warnings if "events.jsonl" in text]


@pytest.mark.parametrize("file", ["metrics.jsonl", "events.jsonl", "summary.json", "loss.svg"])
def test_a_folder_in_the_place_of_a_file_is_found_at_the_start(half, file):
    base, name = half
    (base / name / file).unlink()
    (base / name / file).mkdir()
    before = contents(base / name)
    with pytest.raises(CheckError, match=f"{file}: is no file"):
        longer(base, name)
    assert contents(base / name) == before


def test_a_damaged_summary_is_replaced(half):
    base, name = half
    (base / name / "summary.json").write_text("{")
    report = longer(base, name)
    assert json.loads((base / name / "summary.json").read_text()) == report
