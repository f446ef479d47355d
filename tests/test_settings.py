"""Settings: defaults by mode, where values came from, refusals, what a resumed run may change."""
import json
import re
from dataclasses import asdict

import pytest

from aprnb.errors import CheckError, UsageError
from aprnb.train.settings import (LATER, MAY_CHANGE, Settings, resolve, resolve_resumed,
                                  stored_settings)

NEEDED = {"dataset": "d", "run_dir": "r"}


def given(**flags):
    return NEEDED | {"arch": "tiny"} | flags


@pytest.mark.parametrize("flags, mode, lr, warmup", [
    ({"init": "m.apr", "arch": None}, "finetune", 5e-5, 100),
    ({}, "from-scratch", 3e-4, 1000),
    ({"mode": "finetune"}, "finetune", 5e-5, 100),
    ({"init": "m.apr", "arch": None, "mode": "from-scratch"}, "from-scratch", 3e-4, 1000),
])
def test_a_mode_sets_its_defaults_together(flags, mode, lr, warmup):
    settings, origins = resolve(given(num_steps=100_000, **flags))
    assert (settings.mode, settings.lr, settings.warmup_steps) == (mode, lr, warmup)
    assert settings.min_lr == lr / 10
    assert origins["lr"] == origins["warmup_steps"] == origins["min_lr"] == "mode default"


def test_default_warm_up_is_at_most_a_tenth_and_a_given_one_is_taken_as_it_is():
    assert resolve(given(num_steps=50))[0].warmup_steps == 5
    settings, origins = resolve(given(num_steps=50, warmup_steps=40))
    assert settings.warmup_steps == 40 and origins["warmup_steps"] == "flag"


def test_defaults_are_those_of_the_interface():
    s = resolve(given())[0]
    assert (s.num_steps, s.batch_size, s.seq_length, s.steps_per_epoch) == (1000, 16, 1024, 100)
    assert (s.beta1, s.beta2, s.eps, s.weight_decay) == (0.9, 0.95, 1e-8, 0.1)
    assert (s.decay_on, s.grad_clip, s.schedule, s.order) == ("matrices", 1.0, "cosine", "shuffled")
    assert (s.seed, s.val_windows, s.patience, s.on_nonfinite) == (42, 256, 5, "skip")
    assert (s.val_batches, s.val_order) == (None, "shuffled")
    assert (s.target_val_loss, s.preflight, s.device, s.precision) == (None, "auto", "auto", "auto")


@pytest.mark.parametrize("flags, word", [
    ({"num_steps": 0}, "--num-steps 0"), ({"batch_size": -1}, "--batch-size -1"),
    ({"seq_length": 0}, "--seq-length"), ({"steps_per_epoch": 0}, "--steps-per-epoch"),
    ({"lr": 0.0}, "--lr"), ({"lr": float("nan")}, "--lr"), ({"lr": float("inf")}, "--lr"),
    ({"min_lr": 1.0}, "--min-lr"), ({"warmup_steps": -1}, "--warmup-steps"),
    ({"beta1": 1.0}, "--beta1"), ({"beta2": -0.1}, "--beta2"), ({"eps": 0.0}, "--eps"),
    ({"weight_decay": -0.1}, "--weight-decay"), ({"grad_clip": -1.0}, "--grad-clip"),
    ({"micro_batch": 3}, "--micro-batch 3"), ({"micro_batch": 0}, "--micro-batch"),
    ({"device": "gpu"}, "--device gpu"), ({"device": "cuda:16"}, "--device cuda:16"),
    ({"precision": "fp16"}, "--precision"),
    ({"residual": "fp16"}, "--residual fp16: need auto or fp32 or bf16"),
    ({"schedule": "step"}, "--schedule"),
    ({"order": "random"}, "--order"), ({"seed": -1}, "--seed"), ({"keep": 0}, "--keep"),
    ({"patience": 0}, "--patience"), ({"target_val_loss": 0.0}, "--target-val-loss"),
    ({"arch": None}, "--init"), ({"init": "m.apr"}, "--arch"), ({"mode": "both"}, "--mode"),
    ({"dataset": None}, "--dataset"),
    ({"lr": 1e300}, "--lr 1e.300: need 1e-30 to 1e.30"), ({"lr": 1e-300}, "--lr"),
    ({"eps": 1e-320}, "--eps"), ({"eps": 1e300}, "--eps 1e.300: need 1e-30 to 1"),
    ({"weight_decay": 1e300}, "--weight-decay 1e.300: need 1e-12 to 1000, or 0"),
    ({"weight_decay": 1e-300}, "--weight-decay"), ({"grad_clip": 1e300}, "--grad-clip"),
    ({"grad_clip": 1e-300}, "--grad-clip"), ({"max_epoch0_loss": 1e300}, "--max-epoch0-loss"),
    ({"target_val_loss": 1e-300}, "--target-val-loss 1e-300: need 1e-06 to 1e.06"),
])
def test_values_that_cannot_be_meant_are_refused_by_flag(flags, word):
    with pytest.raises(UsageError, match=word):
        resolve(given(**flags))


def test_a_resumed_run_keeps_its_settings():
    settings, origins = resolve(given(num_steps=50, lr=1e-3))
    again, came_from = resolve_resumed({"run_dir": "r"}, asdict(settings), origins)
    assert again == settings and came_from["lr"] == "flag"


@pytest.mark.parametrize("name, value", [
    ("lr", 2e-3), ("batch_size", 8), ("seq_length", 64), ("schedule", "linear"), ("seed", 1),
    ("beta2", 0.99), ("weight_decay", 0.0), ("decay_on", "all"), ("order", "sequential"),
    ("warmup_steps", 3), ("steps_per_epoch", 10), ("val_batches", 3), ("val_windows", 3),
    ("val_order", "sequential"), ("init", "other.apr"),
    ("precision", "bf16"), ("residual", "bf16"), ("micro_batch", 4), ("device", "cuda:0"),
])
def test_a_setting_that_changes_the_numbers_cannot_change_on_resume(name, value):
    settings, origins = resolve(given(num_steps=50, lr=1e-3, device="cpu", precision="fp32"))
    with pytest.raises(CheckError, match=f"--{name.replace('_', '-')} was"):
        resolve_resumed({"run_dir": "r", name: value}, asdict(settings), origins)


def test_same_values_and_auto_can_be_given_again_on_resume():
    settings, origins = resolve(given(lr=1e-3, device="cpu", precision="fp32"))
    again, _ = resolve_resumed({"run_dir": "r", "lr": 1e-3, "device": "auto", "precision": "auto",
                                "residual": "auto", "arch": "./tiny"}, asdict(settings), origins)
    assert (again.device, again.precision, again.arch) == ("cpu", "fp32", "tiny")


def test_steps_and_gates_may_change_on_resume():
    settings, origins = resolve(given(num_steps=50))
    again, came_from = resolve_resumed(
        {"run_dir": "r", "num_steps": 80, "target_val_loss": 2.0}, asdict(settings), origins)
    assert (again.num_steps, again.target_val_loss) == (80, 2.0)
    assert again.warmup_steps == settings.warmup_steps == 5
    assert came_from["num_steps"] == "flag"


def test_every_setting_is_known_to_the_command_line():
    from aprnb.cli.pretrain import pretrain
    flags = {parameter.name for parameter in pretrain.params}
    names = set(Settings.__dataclass_fields__)
    assert names <= flags and MAY_CHANGE <= names
    assert flags - names == {"resume", "override", "force", "as_json", "quiet"}


@pytest.mark.parametrize("change, words", [
    (lambda rows: rows.pop("lr"), "settings.lr needs \"value\""),
    (lambda rows: rows.update(speed=1), "unknown setting speed"),
    (lambda rows: rows.update(lr=1e-3), "settings.lr needs \"value\""),
    (lambda rows: rows["lr"].update(value="fast"), "settings.lr is 'fast', need a number"),
    (lambda rows: rows["num_steps"].update(value=2.5), "is 2.5, need a whole number"),
    (lambda rows: rows["num_steps"].update(value=True), "is True, need a whole number"),
    (lambda rows: rows["keep"].update(value=[]), "need a whole number or null"),
    (lambda rows: rows["seed"].update(value=None), "is None, need a whole number"),
    (lambda rows: rows["dataset"].update(value=3), "is 3, need a text"),
])
def test_an_edited_config_is_refused_in_the_words_of_its_keys(change, words):
    settings, origins = resolve(given(num_steps=50))
    rows = {name: {"value": value, "from": origins[name]}
            for name, value in asdict(settings).items()}
    assert stored_settings({"settings": rows}, "c.json") == (asdict(settings), origins)
    rows = json.loads(json.dumps(rows))
    change(rows)
    with pytest.raises(CheckError, match=f"c.json: .*{re.escape(words)}.*edited"):
        stored_settings({"settings": rows}, "c.json")


def test_a_run_from_before_a_setting_goes_on_as_it_began():
    """Before --val-windows the last windows validated, as many as --val-batches held."""
    settings, origins = resolve(given(num_steps=50, val_batches=16, val_order="sequential"))
    origins["val_order"] = "default"
    rows = {name: {"value": value, "from": origins[name]}
            for name, value in asdict(settings).items() if name not in LATER}
    values = asdict(settings) | {"schedule_steps": None}  # that of the state, see resume.py
    assert stored_settings({"settings": rows}, "c.json") == (values, origins)


@pytest.mark.parametrize("config", [[], {}, {"settings": []}, None])
def test_a_config_without_settings_is_refused(config):
    with pytest.raises(CheckError, match="c.json: holds no object"):
        stored_settings(config, "c.json")
