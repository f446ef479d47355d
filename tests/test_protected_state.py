"""The state decides: what the files beside it say otherwise is found before anything is written."""
import json
import shutil

import numpy as np
import pytest
from runs import Watcher, aprnb, aprnb_here, leftovers, numbers, refused, train

from aprnb.errors import CheckError, UsageError
from aprnb.formats.apr import read_apr, write_apr
from aprnb.train.metrics import FIELDS
from aprnb.train.loop import Position
from aprnb.train.records import check, rebuilt


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the run `whole` of 20 steps."""
    folder = tmp_path_factory.mktemp("protected")
    train(folder, "whole")
    return folder


@pytest.fixture
def half(base, request):
    """(folder, name) of a run of 12 of 20 steps, horizon 20, to be damaged."""
    name = request.node.name.replace("/", "-")
    train(base, name, num_steps=12, schedule_steps=20)
    return base, name


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit(run, **values):
    """Type other values into config.json."""
    config = json.loads((run / "config.json").read_text())
    for name, value in values.items():
        config["settings"][name]["value"] = value
    (run / "config.json").write_text(json.dumps(config))


def events(run, kind):
    found = [json.loads(line) for line in open(run / "events.jsonl")]
    return [event for event in found if event["event"] == kind]


def longer(base, name, **given):
    return train(base, name, resume=True, num_steps=20, **given)


# ---------------------------------------------------------------- config.json

EDITS = {"lr": 0.1, "weight_decay": 0.5, "grad_clip": 0.0, "beta2": 0.5, "warmup_steps": 7,
         "schedule": "linear", "min_lr": 0.0, "eps": 1e-3, "decay_on": "all", "batch_size": 2,
         "steps_per_epoch": 3, "seed": 1, "order": "sequential", "val_windows": 3,
         "precision": "bf16", "residual": "bf16", "micro_batch": 1, "recompute": "ffn",
         "kernels": "portable", "seq_length": 16, "mode": "finetune", "device": "cuda:1",
         "beta1": 0.5, "val_order": "sequential"}


@pytest.mark.parametrize("name", EDITS)
def test_every_edited_setting_is_refused_before_anything_is_written(base, name):
    kept = (base / "whole/config.json").read_text()
    said = json.loads(kept)["settings"][name]["value"]
    edit(base / "whole", **{name: EDITS[name]})
    before = contents(base / "whole")
    try:
        with pytest.raises(CheckError, match="state-000020.apr") as caught:
            train(base, "whole", resume=True)
        assert contents(base / "whole") == before
    finally:
        (base / "whole/config.json").write_text(kept)
    assert f"{name} is {EDITS[name]}, the state says {said}" in str(caught.value)
    assert "--override config.json" in str(caught.value)


def test_all_protected_settings_are_tried_here():
    from aprnb.train.settings import MAY_CHANGE, PATHS, PLACES, Settings
    names = set(Settings.__dataclass_fields__) - MAY_CHANGE - {*PATHS, *PLACES}
    assert names - {"val_batches"} <= EDITS.keys()  # beside val_windows it is null


def test_all_differences_stand_in_one_message(half):
    base, name = half
    edit(base / name, lr=0.1, beta2=0.5, seed=3)
    result = aprnb_here("pretrain", "--run-dir", base / name, "--resume")
    refused(result, 5, "lr is 0.1, the state says 0.003", "beta2 is 0.5, the state says 0.95",
            "seed is 3, the state says 42", "--override lr --override beta2")
    assert "--override seed" not in result.stderr


@pytest.mark.parametrize("values, words", [
    ({"lr": -1}, "lr is -1, the state says 0.003"),
    ({"keep": 0}, "--keep 0: need at least 1; it was"),
    ({"batch_size": 2, "keep": 0}, "batch_size is 2, the state says 4")])
def test_edited_values_that_cannot_be_are_refused_too(half, values, words):
    base, name = half
    edit(base / name, **values)
    with pytest.raises(CheckError, match=words):
        longer(base, name)


def test_an_override_takes_the_value_of_the_file_and_says_so(half):
    base, name = half
    edit(base / name, lr=1e-3, beta2=0.5)
    with pytest.raises(CheckError, match="beta2 is 0.5"):
        longer(base, name, overrides=["lr"])
    watcher = Watcher()
    report = longer(base, name, overrides=["lr", "beta2"], watcher=watcher)
    assert report["per_step_metrics"][12]["lr"] < 1e-3
    assert "--override lr: 0.001, the state was saved with 0.003" in watcher.warnings
    assert [(e["setting"], e["state"], e["now"], e["from"]) for e in events(base / name, "override")
            ] == [("lr", 0.003, 0.001, "config.json"), ("beta2", 0.95, 0.5, "config.json"),
                  ("min_lr", 0.003 / 10, 0.001 / 10, "lr")]
    watcher = Watcher()
    longer(base, name, overrides=["lr"], watcher=watcher)  # as a script says it every time
    assert "--override lr: nothing to override, the state says 0.001 too" in watcher.warnings


def test_what_was_made_of_an_overridden_setting_follows_it_unless_it_was_given(half):
    """A rate a hundred times lower is what NON-FINITE advises; the lowest rate was above it."""
    base, name = half
    watcher = Watcher()
    report = longer(base, name, overrides=["lr"], lr=3e-5, watcher=watcher)
    assert report["status"] == "COMPLETED"
    said = f"min_lr follows lr: {3e-5 / 10}, the state was saved with {0.003 / 10}"
    assert said in watcher.warnings
    with pytest.raises(UsageError, match="--min-lr"):
        longer(base, name, overrides=["lr", "min_lr"], lr=1e-6, min_lr=1e-5)


def test_whoever_is_killed_after_an_override_goes_on_with_it(half):
    base, name = half

    class Killed(Watcher):
        def step(self, record, steps):
            raise RuntimeError("killed")
    with pytest.raises(RuntimeError):
        longer(base, name, overrides=["lr"], lr=1e-3, watcher=Killed())
    report = longer(base, name)
    assert report["status"] == "COMPLETED"
    assert 0 < report["per_step_metrics"][12]["lr"] < 1e-3


def test_an_override_takes_the_value_of_the_command_line_too(half):
    base, name = half
    with pytest.raises(CheckError, match="with --override lr"):
        longer(base, name, lr=1e-3)
    result = aprnb("pretrain", "--run-dir", base / name, "--resume", "--num-steps", 20, "--lr",
                   "1e-3", "--override", "lr", "--override", "--grad-clip", "--grad-clip", 0.5)
    assert result.returncode == 0, result.stderr
    assert [e["now"] for e in events(base / name, "override")] == [0.001, 0.5, 0.001 / 10]
    settings = json.loads((base / name / "config.json").read_text())["settings"]
    assert settings["lr"] == {"value": 0.001, "from": "flag"}


def test_steps_per_epoch_can_be_overridden_in_the_middle_of_an_epoch(half):
    base, name = half  # 4 steps into an epoch of 8
    report = longer(base, name, steps_per_epoch=3, overrides=["steps_per_epoch"])
    assert report["epochs_completed"] == 5  # at 8, 12, 15, 18, 20


@pytest.mark.parametrize("key, error, word", [
    ("lrr", UsageError, "need a setting"), ("keep", UsageError, "not needed"),
    ("dataset", UsageError, "not needed"), ("seed", CheckError, "depend on it"),
    ("arch", UsageError, "need a setting")])
def test_keys_that_cannot_be_overridden(base, key, error, word):
    before = contents(base / "whole")
    with pytest.raises(error, match=word):
        train(base, "whole", resume=True, overrides=[key])
    assert contents(base / "whole") == before


def test_an_override_of_a_run_that_auto_starts_is_said(tmp_path):
    watcher = Watcher()
    train(tmp_path, resume="auto", num_steps=1, overrides=["lr"], watcher=watcher)
    assert [text for text in watcher.warnings if "--override lr: nothing to override" in text]


def test_an_override_needs_a_resume(base):
    with pytest.raises(UsageError, match="needs --resume"):
        train(base, "new", overrides=["lr"])


@pytest.mark.parametrize("text", [None, "no JSON", "[1]", '{"settings": {}}', "[" * 100_000,
                                  '{"settings": {"lr": 3}}'])
def test_a_damaged_config_is_written_anew_from_the_state(half, text):
    base, name = half
    path = base / name / "config.json"
    path.unlink() if text is None else path.write_text(text)
    before = contents(base / name)
    with pytest.raises(CheckError, match="--override config.json"):
        longer(base, name)
    with pytest.raises(CheckError, match="give --dataset and --init or --arch"):
        longer(base, name, overrides=["config.json"])
    assert contents(base / name) == before
    report = longer(base, name, overrides=["config.json"], dataset=str(base / "data"),
                    arch=str(base / "config.json"))
    assert numbers(report) == numbers(train(base, "whole", resume=True))
    assert numbers(longer(base, name)) == numbers(report)


def test_an_edited_config_is_put_back_by_the_state_with_its_own_paths(half):
    base, name = half
    edit(base / name, lr=0.1, seed=7)
    report = longer(base, name, overrides=["config.json"])
    assert numbers(report) == numbers(train(base, "whole", resume=True))


def test_settings_that_may_change_are_taken_and_said(half):
    base, name = half
    edit(base / name, num_steps=20, keep=3)
    watcher = Watcher()
    report = train(base, name, resume=True, watcher=watcher)
    assert numbers(report) == numbers(train(base, "whole", resume=True))
    said = " ".join(watcher.warnings)
    assert "num_steps 20" in said and "keep 3" in said


def older(run, settings=True):
    """Make the newest state one of a version that stored no records, or no settings either."""
    path = max((run / "ckpt").glob("state-*"))
    with read_apr(path) as file:
        metadata = {k: v for k, v in file.metadata.items() if settings or k != "training_settings"}
        if settings:
            metadata["training_settings"] = {
                k: v for k, v in metadata["training_settings"].items()
                if k not in ("schedule_steps", "keep_best")}
        tensors = {n: file.array(n) for n in file.tensors if n != "__training__.records"}
    write_apr(path, metadata, tensors, force=True)
    config = json.loads((run / "config.json").read_text())
    for name in ("schedule_steps", "keep_best"):
        del config["settings"][name]
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("settings", [True, False])
def test_states_of_before_go_on(base, settings):
    name = f"older{settings}"
    train(base, name, num_steps=12, schedule="constant", warmup_steps=0)
    older(base / name, settings)
    straight = train(base, f"straight{settings}", schedule="constant", warmup_steps=0)
    assert numbers(longer(base, name)) == numbers(straight)


def test_a_config_of_before_with_more_steps_keeps_the_horizon_of_the_state(base):
    train(base, "before", num_steps=12)  # then a longer start that came to no state
    older(base / "before")
    edit(base / "before", num_steps=20)
    watcher = Watcher()
    report = train(base, "before", resume=True, watcher=watcher)
    rates = [row["lr"] for row in report["per_step_metrics"]]
    assert rates[12:] == rates[11:12] * 8 and rates[11] < rates[10]
    assert [text for text in watcher.warnings if "--schedule-steps stays 12" in text]


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
