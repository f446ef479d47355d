"""The horizon of the schedule: a run may be longer or shorter, and its rate never jumps in silence.
"""
import json

import pytest
from runs import Watcher, aprnb, numbers, train

from aprnb.errors import CheckError, UsageError
from aprnb.train.horizon import beyond, changed
from aprnb.train.schedule import SHAPES, Schedule
from aprnb.train.settings import Settings, resolve

DECAYING = [shape for shape in SHAPES if shape != "constant"]


def rates(report):
    return [record["lr"] for record in report["per_step_metrics"]]


def events(run, kind="schedule"):
    found = [json.loads(line) for line in open(run / "events.jsonl")]
    return [event for event in found if event["event"] == kind]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup, steps", [(0, 1), (0, 20), (10, 11), (10, 100), (10, 5)])
def test_after_the_horizon_the_rate_stays_where_its_last_step_was(shape, warmup, steps):
    schedule = Schedule(shape, 1e-3, 1e-4, warmup, steps)
    end = 1e-3 if shape == "constant" else 1e-4
    assert {schedule.rate(s) for s in range(max(warmup + 1, steps), 1000)} == {end}


@pytest.mark.parametrize("shape", SHAPES)
def test_more_steps_at_a_resume_keep_the_horizon_and_say_so(tmp_path, shape):
    given = {"num_steps": 8, "schedule": shape, "warmup_steps": 2}
    first = train(tmp_path, **given)
    watcher = Watcher()
    longer = train(tmp_path, resume=True, num_steps=12, watcher=watcher)
    assert rates(longer) == rates(first) + 4 * rates(first)[-1:]
    assert longer["status"] == "COMPLETED"
    said = [text for text in watcher.warnings if "--num-steps was 8 and is 12" in text]
    assert len(said) == 1
    last = f"{rates(first)[-1]:.3g}"
    assert f"the rate of the next step, 8, stays {last} (step 7 had {last})" in said[0]
    event, = events(tmp_path / "run")
    assert (event["old_rate"], event["new_rate"], event["next_step"], event["schedule_steps"]) == (
        rates(first)[-1], rates(first)[-1], 8, 8)
    watcher = Watcher()
    train(tmp_path, resume=True, watcher=watcher)
    assert not [text for text in watcher.warnings if "num-steps" in text], "said once"


@pytest.mark.parametrize("shape", DECAYING)
def test_a_new_horizon_at_a_resume_is_laid_out_from_there_and_said(tmp_path, shape):
    given = {"schedule": shape, "warmup_steps": 2}
    first = train(tmp_path, num_steps=8, **given)
    straight = train(tmp_path, "straight", num_steps=12, **given)
    watcher = Watcher()
    longer = train(tmp_path, resume=True, num_steps=12, schedule_steps=12, watcher=watcher)
    assert rates(longer) == rates(first) + rates(straight)[8:]
    said = [text for text in watcher.warnings if "--schedule-steps was 8 and is 12" in text]
    assert len(said) == 1
    assert (f"the rate of the next step, 8, was to be {rates(first)[-1]:.3g} and is "
            f"{rates(straight)[8]:.3g}") in said[0]
    event, = events(tmp_path / "run")
    assert (event["old_rate"], event["new_rate"]) == (rates(first)[-1], rates(straight)[8])
    config = json.loads((tmp_path / "run/config.json").read_text())["settings"]
    assert config["schedule_steps"] == {"value": 12, "from": "flag"}


def test_only_the_flag_moves_the_horizon(tmp_path):
    """In config.json it raised the rate five times, "as the run was last started"."""
    train(tmp_path, num_steps=8)
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["settings"]["num_steps"]["value"] = 12
    config["settings"]["schedule_steps"]["value"] = 12
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckError, match="schedule_steps is 12, the state says 8.*or take .*"
                                         "--schedule-steps 12"):
        train(tmp_path, resume=True)
    watcher = Watcher()
    train(tmp_path, resume=True, watcher=watcher, schedule_steps=12)
    assert [text for text in watcher.warnings if "--schedule-steps was 8 and is 12" in text]


@pytest.mark.parametrize("shape", DECAYING)
def test_a_longer_horizon_is_the_beginning_of_a_longer_run(tmp_path, shape):
    given = {"schedule": shape, "steps_per_epoch": 4}
    watcher = Watcher()
    part = train(tmp_path, "part", num_steps=8, schedule_steps=12, watcher=watcher, **given)
    whole = train(tmp_path, "whole", num_steps=12, **given)
    assert numbers(part) == numbers(whole)[:8]
    said = [text for text in watcher.notes if "more than --num-steps 8" in text]
    assert len(said) == 1 and f"{rates(part)[-1]:.3g}" in said[0]
    assert events(tmp_path / "part")[0]["text"] == said[0]
    assert numbers(train(tmp_path, "part", resume=True, num_steps=12)) == numbers(whole)


def test_a_shorter_horizon_ends_at_the_lowest_rate(tmp_path):
    watcher = Watcher()
    report = train(tmp_path, num_steps=8, schedule_steps=5, watcher=watcher)
    assert rates(report)[4:] == [3e-3 / 10] * 4
    assert [text for text in watcher.notes if "from step 5 on the rate stays at --min-lr" in text]


def test_the_default_warm_up_is_a_share_of_the_horizon():
    given = {"dataset": "d", "run_dir": "r", "arch": "tiny", "num_steps": 100}
    assert resolve(given)[0].warmup_steps == 10
    assert resolve(given)[0].schedule_steps == 100
    assert resolve(given | {"schedule_steps": 5000})[0].warmup_steps == 500
    with pytest.raises(UsageError, match="--schedule-steps 0"):
        resolve(given | {"schedule_steps": 0})


def settings(**given):
    return Settings("d", "r", arch="tiny", **{"lr": 1e-3, "min_lr": 1e-4, "warmup_steps": 10,
                                              "num_steps": 100, "schedule_steps": 100} | given)


@pytest.mark.parametrize("given, words", [
    ({}, None), ({"schedule_steps": None}, None),
    ({"schedule_steps": 200}, "is more than --num-steps 100: the last step has a rate of 0.000"),
    ({"schedule_steps": 50}, "from step 50 on the rate stays at --min-lr 0.0001"),
    ({"schedule_steps": 50, "min_lr": 0.0}, "at which nothing is learnt"),
    ({"schedule_steps": 10, "warmup_steps": 20}, "from step 21 on .* at once after --warmup-steps"),
    ({"schedule_steps": 50, "warmup_steps": 200}, None),
    ({"schedule_steps": 50, "schedule": "constant"}, "changes nothing with --schedule constant")])
def test_what_the_end_of_a_run_does_in_words(given, words):
    text = beyond(settings(**given))
    if words is None:
        assert text is None
    else:
        import re
        assert re.search(words, text), text


def test_the_other_choice_is_named_where_the_horizon_stays():
    text, facts = changed(settings(), settings(num_steps=200), 100)
    assert "--schedule-steps 200 would lay the decay out anew, with 0.000584 at step 100" in text
    assert facts["old_schedule_steps"] == facts["schedule_steps"] == 100
    assert changed(settings(), settings(), 50) is None
    assert changed(settings(), settings(keep=3), 50) is None
    text, _ = changed(settings(), settings(num_steps=60), 50)
    assert "is more than --num-steps 60" in text and "lay the decay" not in text
    text, _ = changed(settings(), settings(lr=2e-3), 50)  # --override lr
    assert "was to be" in text


def test_the_command_line_says_old_and_new_rate_also_quietly(tmp_path):
    train(tmp_path, num_steps=4)
    result = aprnb("pretrain", "--run-dir", tmp_path / "run", "--resume", "--num-steps", 6,
                   "--quiet")
    assert result.returncode == 0 and "the rate of the next step, 4, stays 0.0003" in result.stderr
