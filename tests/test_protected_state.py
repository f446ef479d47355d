"""The state decides over config.json: what differs there is found before anything is written."""
import json

import pytest
from protected import base, contents, edit, events, half, longer, older  # noqa: F401
from runs import Watcher, aprnb, aprnb_here, numbers, refused, train

from aprnb.errors import CheckError, UsageError


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
