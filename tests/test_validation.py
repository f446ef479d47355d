"""Validation: which windows, that no batch size changes them, and the loss before step 0."""
import json

import hf_fixture
import pytest
from corpora import stdlib_ids
from exact import loss_rounding
from protected import older
from runs import SEQ, aprnb_here, arch, flags, numbers, refused, shards, state, train
from tolerance import allowed

WIDTH = SEQ + 1
STILL = {"lr": 1e-30, "min_lr": 1e-30, "schedule": "constant", "warmup_steps": 0,
         "weight_decay": 0, "num_steps": 1}  # an update of 1e-30 is lost in any float32 weight


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("validation")
    shards(folder / "data", stdlib_ids()[:200 * WIDTH + 7], stdlib_ids()[-4:])
    shards(folder / "val", stdlib_ids()[20_000:20_000 + 50 * WIDTH + 3])
    arch(folder / "config.json")
    return folder


def config_of(run):
    return json.loads((run / "config.json").read_text())


# ---------------------------------------------------------------- the same windows

@pytest.mark.numeric
@pytest.mark.parametrize("given", [{}, {"val_shard": "val", "val_windows": 12}])
def test_the_validation_loss_of_the_same_weights_does_not_depend_on_the_batch_size(base, given):
    given = {k: str(base / v) if k == "val_shard" else v for k, v in given.items()}
    reports = [train(base, f"b{len(given)}-{b}-{micro}", batch_size=b, micro_batch=micro, **STILL,
                     **given) for b, micro in ((2, 1), (4, 4), (16, 16))]
    losses = [report["final_val_loss"] for report in reports]
    limit = allowed(loss_rounding(reports[0]["checkpoint"], base / "val", SEQ), losses[0])
    assert max(losses) - min(losses) <= limit


def test_val_batches_still_counts_in_batches_and_says_what_that_means(base, capsys):
    for b, windows in ((2, 6), (4, 10)):
        result = aprnb_here("pretrain", *flags(base, f"batches{b}", batch_size=b, val_batches=3,
                                               val_windows=None, **STILL))
        assert result.returncode == 0
        assert f"--val-windows {3 * b}" in result.stderr
        assert config_of(base / f"batches{b}")["data"]["val_windows"] == min(windows, 10)
    refused(aprnb_here("pretrain", *flags(base, "both", val_batches=3)), 2, "--val-windows",
            "--val-batches")


def test_what_is_left_out_is_said_on_the_console_in_config_and_in_summary(base):
    result = aprnb_here("pretrain", *flags(base, "left", val_shard=base / "val", **STILL))
    assert result.returncode == 0
    assert "42 windows of" in result.stdout and "never validated on" in result.stdout
    assert "11 tokens of" in result.stdout and "3 tokens of" in result.stdout
    assert "1 shard shorter than a window of 33 tokens and not read: shard-00001.bin (4)" \
        in result.stderr
    summary = json.loads((base / "left/summary.json").read_text())
    for data in (config_of(base / "left")["data"], summary["data"]):
        assert (data["train_windows"], data["val_windows"], data["val_windows_left_out"]) == (
            200, 8, 42)
        rest = data["tokens_in_no_window"]
        assert rest["dataset"]["by_shard"]["names"] == {"shard-00000.bin": 7, "shard-00001.bin": 4}
        assert rest["dataset"]["short_shards"] == {"count": 1, "names": {"shard-00001.bin": 4}}
        assert rest["val_shard"]["tokens"] == 3


def test_validation_windows_that_stand_in_training_are_counted_also_without_a_shard(base, tmp_path):
    ids = stdlib_ids()[:100 * WIDTH]
    shards(tmp_path / "twice", ids, ids)
    result = aprnb_here("pretrain", *flags(base, "twice", dataset=tmp_path / "twice", **STILL))
    assert result.returncode == 0
    assert "8 of 8 validation windows also stand in the training data" in result.stderr


# ---------------------------------------------------------------- before step 0

def test_the_loss_before_step_0_is_that_of_the_first_weights(base):
    report = train(base, "before", **STILL)
    assert report["initial_val_loss"] == report["final_val_loss"]
    assert len(report["val_loss_history"]) == 1
    events = [json.loads(line) for line in open(base / "before/events.jsonl")]
    first = [e["val_loss_nats"] for e in events if e["event"] == "initial_validation"]
    assert first == [report["initial_val_loss"]]
    position = state(base / "before")[1][0]
    assert position["initial_val_nats"] == report["initial_val_loss"]


def test_a_resumed_run_keeps_the_loss_before_step_0_and_does_not_measure_it_again(base):
    begun = train(base, "longer", num_steps=4, steps_per_epoch=4)
    again = train(base, "longer", resume=True, num_steps=6)
    assert again["initial_val_loss"] == begun["initial_val_loss"] != again["final_val_loss"]
    events = [json.loads(line)["event"] for line in open(base / "longer/events.jsonl")]
    assert events.count("initial_validation") == 1


def test_a_model_whose_first_loss_is_not_finite_ends_before_it_is_trained(base, tmp_path):
    tensors = hf_fixture.tensors(dtype="F32")
    tensors["model.norm.weight"][:] = 3e38
    folder = hf_fixture.folder(tmp_path / "model", tensors, hf_fixture.config(), tokenizer=False)
    shards(tmp_path / "data", stdlib_ids()[:6000] % 272)
    report = train(tmp_path, "huge", init=str(folder))
    assert (report["status"], report["exit_code"]) == ("ABORTED", 8)
    assert report["detail"].startswith("NON-FINITE before step 0: ")
    assert report["steps_recorded"] == 0 and report["initial_val_loss"] is None


@pytest.mark.parametrize("given, said", [
    ({}, False), ({"val_windows": 5}, False), ({"seed": 7}, True), ({"val_windows": 9}, True),
    ({"val_order": "sequential"}, True), ({"seq_length": 16}, True), ({"val_shard": "val"}, False)])
def test_going_on_with_windows_that_were_trained_on_is_warned_about(base, tmp_path, given, said):
    if not (base / "first").exists():
        train(base, "first", **STILL)
    given = {k: base / v if k == "val_shard" else v for k, v in given.items()}
    result = aprnb_here("pretrain", *flags(base, arch=None, num_steps=1, run_dir=tmp_path / "run",
                                           init=base / "first/ckpt/epoch-000.apr", **given))
    assert result.returncode == 0, result.stderr
    assert ("with other validation windows" in result.stderr) == said


# ---------------------------------------------------------------- runs begun before

def test_a_run_begun_before_these_settings_resumes_with_its_own_split(base):
    """Such a config.json has val_batches alone, and its states name a range."""
    old = {"val_windows": None, "val_batches": 2, "val_order": "sequential"}
    whole = train(base, "whole", num_steps=12, **old)
    train(base, "old", num_steps=12, checkpoint_every=6, keep=9, **old)
    for file in (base / "old/ckpt").iterdir():
        if file.name not in ("state-000006.apr",):
            file.unlink()
    older(base / "old", lacks=("val_windows", "val_order"))
    again = train(base, "old", resume=True)
    assert numbers(again) == numbers(whole)
    assert again["val_loss_history"] == whole["val_loss_history"]
    saved = state(base / "old")[1][1]
    assert saved["windows"] == [0, 192]


# ---------------------------------------------------------------- eval

def evaluated(model, dataset, *more):
    result = aprnb_here("eval", model, "--dataset", dataset, "--seq-length", SEQ, "--device", "cpu",
                        "--json", *more)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.numeric
def test_eval_draws_the_windows_that_pretrain_validates_on(base):
    report = train(base, "drawn", val_shard=str(base / "val"), val_windows=12, **STILL)
    losses = []
    for batch in (1, 5, 12):
        found = evaluated(report["checkpoint"], base / "val", "--windows", 12, "--batch-size",
                          batch)
        assert (found["windows"], found["windows_left_out"]) == (12, 38)
        assert found["tokens_in_no_window"]["tokens"] == 3
        losses.append(found["loss_nats"])
    limit = allowed(loss_rounding(report["checkpoint"], base / "val", SEQ), losses[0])
    losses.append(report["final_val_loss"])
    assert max(losses) - min(losses) <= limit
    other = evaluated(report["checkpoint"], base / "val", "--windows", 12, "--seed", 1)
    assert abs(other["loss_nats"] - losses[0]) > limit


def test_eval_refuses_two_ways_to_say_how_many(base):
    refused(aprnb_here("eval", "m.apr", "--dataset", base / "val", "--seq-length", SEQ, "--windows",
                       3, "--max-batches", 2), 2, "--windows and --max-batches")
