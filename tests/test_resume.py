"""A resumed run gives, bit by bit, the numbers of one that was never interrupted."""
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import processes
import pytest
from corpora import small_tokenizer
from runs import aprnb, leftovers, numbers, state, text_shards, train

from aprnb import interrupt
from aprnb.errors import CheckError, Interrupted, NotFoundError

STEPS = 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of 20 steps in epochs of 8, over 2.3 passes of the data, never interrupted."""
    base = tmp_path_factory.mktemp("resume")
    return base, train(base, "whole")


def interrupted(base, name, after, **given):
    """A run stopped by a real SIGINT while step `after` reports itself."""
    def stop(record):
        if record["step"] + 1 == after:
            os.kill(os.getpid(), signal.SIGINT)
    return train(base, name, stop, **given)


def test_the_same_seed_gives_the_same_losses_and_another_one_does_not(whole):
    base, report = whole
    assert numbers(train(base, "again")) == numbers(report)
    assert numbers(train(base, "seed", seed=43)) != numbers(report)


@pytest.mark.parametrize("after", range(1, STEPS + 1))
def test_interrupted_after_any_step_and_resumed(whole, after):
    """Cut points lie in warm-up (steps 1, 2), inside epochs, at their ends, before a new pass."""
    base, report = whole
    name = f"cut{after}"
    first = interrupted(base, name, after)
    assert (first["status"], first["exit_code"]) == ("INTERRUPTED", 130)
    assert first["steps_recorded"] == after
    assert first["checkpoint"].endswith(f"state-{after:06d}.apr")
    second = train(base, name, resume=True)
    assert second["status"] == "COMPLETED"
    assert numbers(second) == numbers(report)
    assert second["val_loss_history"] == report["val_loss_history"]
    assert state(base / name) == state(base / "whole")


def test_a_float32_residual_stream_is_resumed_as_it_was(whole):
    base, chosen = whole[0], {"precision": "bf16", "residual": "fp32"}
    report = train(base, "stream", **chosen)
    interrupted(base, "stream cut", 6, **chosen)
    settings = json.loads((base / "stream cut/config.json").read_text())["settings"]
    assert settings["residual"] == {"value": "fp32", "from": "flag"}
    with pytest.raises(CheckError, match="--residual was fp32, now it is bf16"):
        train(base, "stream cut", resume=True, residual="bf16")
    assert numbers(train(base, "stream cut", resume=True)) == numbers(report)
    assert numbers(train(base, "narrow", precision="bf16")) != numbers(report)
    narrow = json.loads((base / "narrow/config.json").read_text())["settings"]
    assert narrow["residual"] == {"value": "bf16", "from": "chosen"}


def test_interrupted_again_and_again(whole):
    base, report = whole
    interrupted(base, "often", 3)
    for after in (4, 9, 16):
        def stop(record, after=after):
            if record["step"] + 1 == after:
                os.kill(os.getpid(), signal.SIGTERM)
        assert train(base, "often", stop, resume=True)["exit_code"] == 130
    assert numbers(train(base, "often", resume=True)) == numbers(report)
    assert state(base / "often") == state(base / "whole")


def test_resumed_in_a_new_process_from_another_folder(whole):
    base, report = whole
    interrupted(base, "process", 11)
    (base / "elsewhere").mkdir()
    result = aprnb("pretrain", "--run-dir", "../process", "--resume", "--json",
                   cwd=base / "elsewhere")
    assert result.returncode == 0, result.stderr
    assert numbers(json.loads(result.stdout)) == numbers(report)
    assert state(base / "process") == state(base / "whole")


def test_a_step_count_that_starts_again_is_seen(whole, monkeypatch):
    """Planted fault 24: Adam's step count is lost at resume; the numbers and a gate show it."""
    from aprnb.train import run
    base, report = whole
    interrupted(base, "fault", 11)

    def restore_without_step(trainer, opened, real=run.restore_trainer):
        real(trainer, opened)
        trainer.step = 0
    monkeypatch.setattr(run, "restore_trainer", restore_without_step)
    again = train(base, "fault", resume=True)
    assert numbers(again)[:12] == numbers(report)[:12]
    assert numbers(again)[12] != numbers(report)[12]
    assert (again["status"], again["exit_code"]) == ("ABORTED", 5)
    assert "optimiser_updates_count 5, need 16" in again["detail"]


def test_metrics_written_after_the_state_are_cut_and_events_are_kept(whole):
    """As after kill -9: records and a torn line beyond the newest state."""
    base, report = whole
    interrupted(base, "killed", 10)
    last = (base / "killed/metrics.jsonl").read_text().splitlines()[-1]
    with open(base / "killed/metrics.jsonl", "a") as file:
        file.write(last.replace('"step": 9,', '"step": 10,') + '\n{"step": 11, "lo')
    with open(base / "killed/events.jsonl", "a") as file:
        file.write('{"event": "torn')
    (base / "killed/ckpt/.state-000011.apr.abcd.tmp").write_bytes(b"half")
    again = train(base, "killed", resume=True)
    assert numbers(again) == numbers(report)
    assert [json.loads(line) for line in open(base / "killed/metrics.jsonl")] == again[
        "per_step_metrics"]
    assert not leftovers(base / "killed")
    events = [json.loads(line) for line in open(base / "killed/events.jsonl")]
    assert [e["event"] for e in events if e["event"] in ("start", "resume", "end")] == [
        "start", "end", "resume", "end"]


def test_resuming_a_finished_run_reports_it_again(whole):
    base, report = whole
    train(base, "finished")
    again = train(base, "finished", resume=True)
    assert numbers(again) == numbers(report) and again["status"] == "COMPLETED"


def test_checkpoints_of_a_resumed_run_are_those_of_a_whole_one(tmp_path, monkeypatch):
    """Byte for byte, from relative paths and another folder too, and without any local path."""
    (tmp_path / "tok").mkdir()
    small_tokenizer().save(tmp_path / "tok")
    (tmp_path / "elsewhere").mkdir()
    text_shards(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    train(tmp_path, "first", num_steps=2)
    given = {"init": "first/ckpt/epoch-000.apr", "tokenizer": "tok", "dataset": "data",
             "val_shard": "data"}
    train(tmp_path, "whole", **given)
    interrupted(tmp_path, "cut", 11, **given)
    monkeypatch.chdir(tmp_path / "elsewhere")
    train(tmp_path, "cut", resume=True)
    for epoch in range(3):
        one, other = ((tmp_path / run / f"ckpt/epoch-00{epoch}.apr").read_bytes()
                      for run in ("whole", "cut"))
        assert one == other, epoch
    for file in tmp_path.rglob("*.apr"):
        assert str(tmp_path).encode() not in file.read_bytes(), file


def test_more_steps_can_be_added(whole):
    base, report = whole
    train(base, "longer", schedule="constant", warmup_steps=0)
    longer = train(base, "longer", resume=True, num_steps=30)
    straight = train(base, "straight", schedule="constant", warmup_steps=0, num_steps=30)
    assert numbers(longer) == numbers(straight)
    assert longer["epochs_completed"] == 5  # 8, 8, 4 and then 8, 2


# ---------------------------------------------------------------- refusals

@pytest.mark.parametrize("given, word", [
    ({"lr": 1e-4}, "--lr was 0.003"), ({"seed": 1}, "--seed"), ({"batch_size": 2}, "--batch-size"),
    ({"num_steps": 3}, "11 steps are done")])
def test_settings_that_would_change_the_numbers(whole, given, word):
    base, _ = whole
    if not (base / "refused").exists():
        interrupted(base, "refused", 11)
    before = state(base / "refused")
    with pytest.raises(CheckError, match=word):
        train(base, "refused", resume=True, **given)
    assert state(base / "refused") == before


def test_other_data_are_refused_and_moved_data_are_not(whole):
    base, report = whole
    interrupted(base, "moved", 5)
    text_shards(base / "other", 5_000)
    with pytest.raises(CheckError, match="not those that the run began with"):
        train(base, "moved", resume=True, dataset=str(base / "other"))
    text_shards(base / "copy")
    again = train(base, "moved", resume=True, dataset=str(base / "copy"))
    assert numbers(again) == numbers(report)


def test_nothing_to_resume(tmp_path):
    with pytest.raises(NotFoundError, match="config.json"):
        train(tmp_path, "absent", resume=True)
    train(tmp_path, "stateless", num_steps=2)
    for file in (tmp_path / "stateless/ckpt").glob("state-*"):
        file.unlink()
    with pytest.raises(CheckError, match="--force"):
        train(tmp_path, "stateless", resume=True)


# ---------------------------------------------------------------- interrupts and crashes

@pytest.mark.parametrize("evaluation, steps", [(0, 0), (1, 8), (2, 16)])
def test_a_signal_during_an_evaluation_is_answered_at_once(whole, monkeypatch, evaluation, steps):
    from aprnb.train import run
    base, report = whole

    class Interrupting(run.Evaluator):
        done = 0

        def losses(self, batch):
            if self.done == evaluation:
                assert (base / f"evaluating{evaluation}/ckpt/state-{steps:06d}.apr").exists() or (
                    not steps)
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("the evaluation went on")
            return super().losses(batch)

        def mean(self, windows, indices):
            result = super().mean(windows, indices)
            self.done += 1
            return result
    monkeypatch.setattr(run, "Evaluator", Interrupting)
    first = train(base, f"evaluating{evaluation}")
    assert (first["status"], first["exit_code"], first["steps_recorded"],
            first["epochs_completed"]) == ("INTERRUPTED", 130, steps, max(0, evaluation - 1))
    assert "SIGTERM in the evaluation" in first["detail"]
    monkeypatch.undo()
    again = train(base, f"evaluating{evaluation}", resume=True)
    assert numbers(again) == numbers(report)
    assert again["initial_val_loss"] == report["initial_val_loss"]


def test_a_second_signal_stops_in_the_middle_of_a_write_and_leaves_nothing_half(whole,
                                                                                monkeypatch):
    base, report = whole
    replace = os.replace
    interrupted(base, "twice", 6)

    def first(record):
        if record["step"] + 1 == 7:
            os.kill(os.getpid(), signal.SIGINT)
            monkeypatch.setattr(os, "replace", second)

    def second(*paths):
        monkeypatch.setattr(os, "replace", replace)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal did not stop the write")
    monkeypatch.setattr(interrupt, "SAME_EVENT_S", 0)
    with pytest.raises(Interrupted, match="lost: 1 step; --resume goes on from state-000006.apr"):
        train(base, "twice", first, resume=True)
    assert not leftovers(base / "twice")
    assert [p.name for p in (base / "twice/ckpt").iterdir()] == ["state-000006.apr"]
    assert numbers(train(base, "twice", resume=True)) == numbers(report)


def test_a_signal_in_a_long_step_is_answered_at_once(whole, monkeypatch):
    """The step is taken back, with its place in the data, also where a new pass begins."""
    from aprnb.train.step import Trainer
    base, report = whole
    gradients = Trainer.gradients
    for step in (0, 7, 8):

        def long(trainer, *batch):
            if trainer.step == step:
                os.kill(os.getpid(), signal.SIGTERM)
                raise AssertionError("the step went on")
            return gradients(trainer, *batch)
        monkeypatch.setattr(Trainer, "gradients", long)
        first = train(base, f"long{step}")
        assert (first["status"], first["exit_code"], first["steps_recorded"]) == (
            "INTERRUPTED", 130, step)
        monkeypatch.undo()
        again = train(base, f"long{step}", resume=True)
        assert numbers(again) == numbers(report)
        assert state(base / f"long{step}") == state(base / "whole")


def test_two_signals_of_one_event_leave_a_state(whole):
    """systemd sends SIGTERM and SIGHUP together, a closed terminal SIGHUP twice."""
    base, report = whole

    def both(record):
        if record["step"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
    first = train(base, "both", both)
    assert (first["status"], first["exit_code"], first["steps_recorded"]) == ("INTERRUPTED", 130, 3)
    assert numbers(train(base, "both", resume=True)) == numbers(report)


def test_a_run_ends_when_its_minutes_are_over_and_goes_on(whole, monkeypatch):
    """The clock of its 600 minutes stands still until the fifth step."""
    base, report = whole
    over, sleep = threading.Event(), time.sleep
    monkeypatch.setattr(time, "sleep", lambda s: over.wait() if s == 36_000 else sleep(s))

    def wait(record):
        if record["step"] == 4:
            over.set()
            for _ in range(500):
                if not interrupt.Interrupt._current.requested:
                    sleep(0.01)
    first = train(base, "minutes", wait, max_minutes=600.0)
    assert (first["status"], first["exit_code"], first["steps_recorded"]) == ("INTERRUPTED", 130, 5)
    assert "by --max-minutes 600 after 5 of" in first["detail"]
    again = train(base, "minutes", resume=True, max_minutes=601.0)
    assert numbers(again) == numbers(report)


def test_handlers_are_put_back(whole):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_kill_9_before_every_durable_call(tmp_path):
    """Every fsync, rename, unlink and truncation of a run: no torn file, the same numbers."""
    script = Path(__file__).with_name("crash_points.py")
    result = processes.run([sys.executable, script, tmp_path],
                           env={**os.environ, "PYTHONHASHSEED": "0"})
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) > 30
    for row in rows:
        assert row["status"] == -signal.SIGKILL and not row["torn"] and not row["left"], row
        assert row["same"] in (True, None), row
    saved = [row["state"] for row in rows]
    assert saved == sorted(saved), "a committed state was lost"
    assert sum(saved) > 10
