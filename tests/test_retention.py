"""What a run keeps: the best epoch, the last good state, its folder when that is renamed."""
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import processes
import pytest
from corpora import stdlib_ids
from runs import Watcher, aprnb_here, flags, leftovers, numbers, refused, shards, state, train

from aprnb.errors import CheckError, NotFoundError, StorageError, UsageError
from aprnb.train.run_folder import RunFolder
from aprnb.train.settings import Settings


def kept(run, kind="epoch"):
    """The numbers of the checkpoints or states on the disk."""
    return sorted(int(p.stem[-3:] if kind == "epoch" else p.stem[-6:])
                  for p in (run / "ckpt").glob(f"{kind}-*.apr"))


def rising(tmp_path):
    """Settings of a run whose validation loss rises: what is learnt of a text makes guesses at
    random numbers worse."""
    if not (tmp_path / "val").exists():
        shards(tmp_path / "val", np.random.default_rng(0).integers(0, 1024, 300))
    return {"val_shard": str(tmp_path / "val"), "lr": 3e-2, "schedule": "constant",
            "warmup_steps": 0, "num_steps": 10, "steps_per_epoch": 2}


# ---------------------------------------------------------------- the best epoch

@pytest.mark.parametrize("keep, epochs, states", [
    ({}, [0, 1, 2, 3, 4], [8, 10]), ({"keep": 1}, [0, 4], [10]), ({"keep": 2}, [0, 3, 4], [8, 10]),
    ({"keep_best": True}, [0, 4], [10])])
def test_the_best_epoch_is_kept_beside_the_newest(tmp_path, keep, epochs, states):
    report = train(tmp_path, **rising(tmp_path), **keep)
    history = report["val_loss_history"]
    assert history == sorted(set(history)), "the loss was to rise"
    assert kept(tmp_path / "run") == epochs and kept(tmp_path / "run", "state") == states
    assert sorted(p.name[6:9] for p in (tmp_path / "run/ckpt").glob("*.metadata.json")) == [
        f"{e:03d}" for e in epochs]
    best = json.loads((tmp_path / "run/summary.json").read_text())["best"]
    assert best == report["best"] == {
        "epoch": 0, "val_loss_nats": history[0],
        "checkpoint": str(tmp_path / "run/ckpt/epoch-000.apr")}
    assert report["checkpoint"].endswith("epoch-004.apr")


def test_a_falling_loss_keeps_the_newest_as_the_best(tmp_path):
    report = train(tmp_path, steps_per_epoch=4, keep_best=True)
    assert report["best"]["epoch"] == 4 and kept(tmp_path / "run") == [4]


def test_of_equal_losses_the_earlier_epoch_is_the_best(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / "ckpt").mkdir()
    for epoch in range(5):
        folder.epoch_file(epoch).touch()
    history = [3.0, 2.0, 2.5, 2.0, 2.0]
    assert folder.best(history)["epoch"] == 1
    folder.prune(Settings("d", "r", arch="tiny", keep=1), history)
    assert kept(tmp_path) == [1, 4]
    folder.epoch_file(1).unlink()
    assert folder.best(history) == {"epoch": 1, "val_loss_nats": 2.0, "checkpoint": None}


def test_the_best_epoch_is_kept_over_a_resume(tmp_path):
    given = rising(tmp_path)
    train(tmp_path, **given, keep=1)
    report = train(tmp_path, resume=True, num_steps=16, keep_best=True, patience=99)
    assert kept(tmp_path / "run") == [0, 7] and report["best"]["epoch"] == 0
    report = train(tmp_path, resume=True, num_steps=20, keep=2, patience=99)
    assert kept(tmp_path / "run") == [0, 8, 9]


def test_the_best_epoch_is_said_at_every_epoch_and_at_the_end(tmp_path):
    train(tmp_path, num_steps=1)  # makes data and config.json
    result = aprnb_here("pretrain", *flags(tmp_path, "said", **rising(tmp_path)))
    lines = [line for line in result.stdout.splitlines() if line.startswith("epoch")]
    best = json.loads((tmp_path / "said/summary.json").read_text())["best"]["val_loss_nats"]
    assert "the best so far" in lines[0] and f"best: {best:.4f} of epoch 0" in lines[-1]
    assert f"best        {best:.4f} nats, epoch 0" in result.stdout


def test_keep_and_keep_best_are_one_choice(tmp_path):
    with pytest.raises(UsageError, match="--keep 2 and --keep-best"):
        train(tmp_path, keep=2, keep_best=True)


# ---------------------------------------------------------------- an abort

def poison(monkeypatch, step):
    """Gradients from this step on are not finite."""
    from aprnb.train import run

    class Poisoned(run.Trainer):
        def gradients(self, inputs, targets):
            loss, norm = super().gradients(inputs, targets)
            return loss, float("nan") if self.step >= step else norm
    monkeypatch.setattr(run, "Trainer", Poisoned)


def test_the_state_of_an_abort_lies_beside_the_last_good_one(tmp_path, monkeypatch):
    whole = train(tmp_path, "whole", steps_per_epoch=4)
    poison(monkeypatch, 5)
    report = train(tmp_path, steps_per_epoch=4, keep=1)
    assert report["exit_code"] == 8
    assert kept(tmp_path / "run", "state") == [4] and kept(tmp_path / "run", "aborted") == [8]
    for word in ("ckpt/aborted-000008.apr", "--resume goes on from state-000004.apr"):
        assert word in report["detail"]
    assert report["checkpoint"].endswith("epoch-000.apr")
    monkeypatch.undo()
    again = train(tmp_path, resume=True)
    assert numbers(again) == numbers(whole)
    assert kept(tmp_path / "run", "aborted") == [8], "to be looked at"
    train(tmp_path, num_steps=1, force=True)
    assert kept(tmp_path / "run", "aborted") == []


@pytest.mark.parametrize("resume", [True, "auto"])
def test_an_abort_before_the_first_state_says_how_to_go_on(tmp_path, monkeypatch, resume):
    poison(monkeypatch, 2)
    report = train(tmp_path)
    assert "there is no state before it" in report["detail"]
    assert kept(tmp_path / "run", "aborted") == [5]
    monkeypatch.undo()
    watcher = Watcher()
    again = train(tmp_path, resume=resume, watcher=watcher)
    assert [text for text in watcher.warnings if "goes on from aborted-000005.apr" in text]
    assert again["status"] == "COMPLETED" and again["steps_recorded"] == 17


def test_weights_that_an_evaluation_finds_bad_are_no_good_state(tmp_path, monkeypatch):
    from aprnb.errors import NonFiniteError
    from aprnb.train import run
    whole = train(tmp_path, "whole")

    class Bad(run.Evaluator):
        done = 0

        def mean(self, windows, indices):
            self.done += 1
            if self.done == 3:  # before step 0, at 8, at 16
                raise NonFiniteError("evaluation: the loss of window 3 is not finite")
            return super().mean(windows, indices)
    monkeypatch.setattr(run, "Evaluator", Bad)
    report = train(tmp_path, keep=1)
    assert report["exit_code"] == 8 and "NON-FINITE at epoch 1" in report["detail"]
    assert kept(tmp_path / "run", "state") == [8] and kept(tmp_path / "run", "aborted") == [16]
    assert report["checkpoint"].endswith("state-000008.apr")
    monkeypatch.undo()
    assert numbers(train(tmp_path, resume=True)) == numbers(whole)


def test_the_state_of_the_newest_abort_is_kept(tmp_path, monkeypatch):
    poison(monkeypatch, 2)
    train(tmp_path, on_nonfinite="stop")
    for step in (4, 5, 6):
        report = train(tmp_path, resume=True)
        assert report["exit_code"] == 8 and report["checkpoint"] is None
        assert kept(tmp_path / "run", "aborted") == [step]


# ---------------------------------------------------------------- --resume auto, --resume STATE

def interrupted(base, name, after, **given):
    def stop(record):
        if record["step"] + 1 == after:
            os.kill(os.getpid(), signal.SIGINT)
    return train(base, name, stop, **given)


def test_auto_starts_what_has_no_state_and_goes_on_with_what_has_one(tmp_path):
    whole = train(tmp_path, "whole")
    assert interrupted(tmp_path, "run", 11, resume="auto")["exit_code"] == 130
    again = train(tmp_path, resume="auto")  # the same settings once more
    assert numbers(again) == numbers(whole) and state(tmp_path / "run") == state(tmp_path / "whole")
    assert train(tmp_path, resume="auto")["status"] == "COMPLETED"
    with pytest.raises(CheckError, match="--lr was 0.003, now it is 0.1"):
        train(tmp_path, resume="auto", lr=0.1)


def test_auto_starts_again_where_a_start_came_to_no_state(tmp_path):
    whole = train(tmp_path, "whole")
    train(tmp_path, max_epoch0_loss=0.5)  # diverges before its first state
    for file in (tmp_path / "run/ckpt").glob("*"):
        file.unlink()
    watcher = Watcher()
    again = train(tmp_path, resume="auto", overrides=["lr"], watcher=watcher)
    assert numbers(again) == numbers(whole)
    said = " ".join(watcher.warnings)
    assert "saved nothing; it is replaced" in said and "--override lr: nothing to override" in said
    for file in (tmp_path / "run/ckpt").glob("state-*"):
        file.unlink()
    with pytest.raises(CheckError, match="exists already"):  # epochs are not cleared
        train(tmp_path, resume="auto")


@pytest.mark.parametrize("resume", ["auto", False])
def test_a_start_that_was_killed_before_it_began_is_no_run_in_the_way(tmp_path, resume):
    (tmp_path / "run/ckpt").mkdir(parents=True)
    (tmp_path / "run/.config.json.4c5fb57c.tmp").write_text("{")
    (tmp_path / "run/ckpt/.x.tmp").touch()
    assert train(tmp_path, resume=resume, num_steps=1)["status"] == "COMPLETED"
    assert not leftovers(tmp_path / "run")
    (tmp_path / "run/.summary.json.4c5fb57c.tmp").write_text("{")
    train(tmp_path, resume=True, num_steps=2)
    assert not leftovers(tmp_path / "run")


@pytest.mark.parametrize("file", ["notes.txt", ".notes.tmp", "ckpt/model.apr"])
def test_a_folder_with_files_of_others_is_not_free(tmp_path, file):
    (tmp_path / "run/ckpt").mkdir(parents=True)
    (tmp_path / "run" / file).touch()
    for resume in ("auto", False):
        with pytest.raises(CheckError, match="is not a run"):
            train(tmp_path, resume=resume)


def test_auto_and_plain_resume_on_the_command_line(tmp_path):
    train(tmp_path, "whole")
    for _ in range(2):
        result = aprnb_here("pretrain", "--resume", "auto", *flags(tmp_path, num_steps=2),
                            "--quiet")
        assert result.returncode == 0, result.stderr
    result = aprnb_here("pretrain", "--resume", "--run-dir", tmp_path / "run", "--quiet")
    assert result.returncode == 0 and "2 steps" in result.stdout
    refused(aprnb_here("pretrain", "--run-dir", tmp_path / "typo", "--resume", "auto"), 2,
            "typo holds no state, so a new run starts: --dataset is needed")
    refused(aprnb_here("pretrain", "--run-dir", tmp_path / "run", "--resume", "7"), 3,
            "--resume 7", "state-000002.apr")


@pytest.mark.parametrize("named", ["8", "state-000008.apr", "state-000008", "path"])
def test_an_earlier_state_goes_on_and_the_later_steps_are_set_aside(tmp_path, named):
    whole = train(tmp_path, keep=9)
    before = state(tmp_path / "run")
    if named == "path":
        named = str(tmp_path / "run/ckpt/state-000008.apr")
    watcher = Watcher()
    again = train(tmp_path, resume=named, num_steps=12, schedule_steps=20, watcher=watcher)
    assert numbers(again) == numbers(whole)[:12]
    aside = tmp_path / "run/set-aside-001"
    assert kept(tmp_path / "run", "state") == [8, 12] and kept(tmp_path / "run") == [0, 1]
    assert kept(aside, "state") == [16, 20] and kept(aside) == [1, 2]
    said = [text for text in watcher.warnings if "set aside" in text]
    assert len(said) == 1 and str(aside) in said[0] and "state-000020.apr" in said[0]
    assert any("set aside" in line for line in open(tmp_path / "run/events.jsonl"))
    assert state(aside) == before
    assert numbers(train(tmp_path, "run/set-aside-001", resume=True)) == numbers(whole)


@pytest.mark.parametrize("damaged, words", [
    (["20"], "--resume state-000016.apr (state-000020.apr is damaged)"),
    (["20", "16"], "; state-000020.apr is damaged"), ([], "--resume")])
def test_what_was_set_aside_is_said_to_go_on_only_from_a_sound_state(tmp_path, damaged, words):
    train(tmp_path, keep=9)
    for step in damaged:
        path = tmp_path / f"run/ckpt/state-0000{step}.apr"
        path.write_bytes(path.read_bytes()[:-100])
    watcher = Watcher()
    train(tmp_path, resume="state-000008.apr", watcher=watcher)
    said, = [text for text in watcher.warnings if "set aside" in text]
    assert said.endswith(words) and ("go on with" in said) == (damaged != ["20", "16"])


def test_a_process_that_ends_while_it_sets_aside_loses_nothing(tmp_path, monkeypatch):
    whole = train(tmp_path, keep=9)
    for k in range(7):  # two states, two epochs with their metadata
        shutil.copytree(tmp_path / "run", tmp_path / f"cut{k}")
        done = []

        def stop(old, new, real=os.rename):
            if len(done) == k:
                raise OSError("ended here")
            done.append(real(old, new))
        monkeypatch.setattr(os, "rename", stop)
        if k < 6:
            with pytest.raises(OSError, match="ended here"):
                train(tmp_path, f"cut{k}", resume="8")
        monkeypatch.undo()
        again = train(tmp_path, f"cut{k}", resume=True)
        assert numbers(again) == numbers(whole), k


def test_a_state_that_is_not_of_the_run_is_refused(tmp_path):
    train(tmp_path)
    train(tmp_path, "other")
    with pytest.raises(NotFoundError, match="there: state-000016.apr, state-000020.apr"):
        train(tmp_path, resume="9")
    with pytest.raises(CheckError, match="no state in"):
        train(tmp_path, resume=str(tmp_path / "other/ckpt/state-000016.apr"))
    with pytest.raises(CheckError, match="no state in"):
        train(tmp_path, resume=str(tmp_path / "run/ckpt/epoch-001.apr"))


def test_the_newest_state_by_name_is_a_plain_resume(tmp_path):
    whole = train(tmp_path, num_steps=4)
    assert numbers(train(tmp_path, resume="4")) == numbers(whole)
    assert not (tmp_path / "run/set-aside-001").exists()


# ---------------------------------------------------------------- the folder goes away

def followed(base, **given):
    """Report of a run that ends although its folder is renamed."""
    try:
        return train(base, **given)
    except StorageError as error:
        pytest.fail(f"the folder was not followed: {error}")


def test_a_folder_that_is_renamed_is_followed(tmp_path):
    whole = followed(tmp_path, name="whole")

    def rename(record):
        if record["step"] == 5:
            os.rename(tmp_path / "run", tmp_path / "elsewhere")
            (tmp_path / "run").mkdir()  # a foreign folder of the old name
    watcher = Watcher(rename)
    report = followed(tmp_path, watcher=watcher)
    assert numbers(report) == numbers(whole)
    assert report["run_dir"] == str(tmp_path / "elsewhere")
    assert report["checkpoint"] == str(tmp_path / "elsewhere/ckpt/epoch-002.apr")
    assert [t for t in watcher.warnings if f"{tmp_path}/run is now {tmp_path}/elsewhere" in t]
    assert not os.listdir(tmp_path / "run")
    assert state(tmp_path / "elsewhere") == state(tmp_path / "whole")
    assert json.loads((tmp_path / "elsewhere/summary.json").read_text()) == report


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("file", ["state-000008.apr", "epoch-000.apr", "epoch-000.metadata.json",
                                  "loss.svg", "summary.json"])
def test_a_folder_renamed_around_any_write_is_followed(tmp_path, monkeypatch, file, when):
    whole = train(tmp_path, "whole")
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"

    def replace(old, new, real=os.replace):
        hit = str(new).startswith(f"{run}/") and str(new).endswith(file)
        if hit and when == "before":
            os.rename(run, elsewhere)
        real(old, new)
        if hit and when == "after":
            os.rename(run, elsewhere)
    monkeypatch.setattr(os, "replace", replace)
    report = followed(tmp_path)
    assert report["status"] == "COMPLETED" and numbers(report) == numbers(whole)
    assert not run.exists() and state(elsewhere) == state(tmp_path / "whole")
    assert json.loads((elsewhere / "summary.json").read_text()) == report
    for path in (report["checkpoint"], report["best"]["checkpoint"], report["loss_svg"]):
        assert path.startswith(f"{elsewhere}/") and os.path.isfile(path)


def test_a_folder_renamed_while_old_states_are_removed_is_followed(tmp_path, monkeypatch):
    whole = train(tmp_path, "whole", keep=1)

    def unlink(path, *args, real=Path.unlink, **kwargs):
        if path.name == "state-000008.apr" and (tmp_path / "run").exists():
            os.rename(tmp_path / "run", tmp_path / "elsewhere")
        real(path, *args, **kwargs)
    monkeypatch.setattr(Path, "unlink", unlink)
    assert numbers(followed(tmp_path, keep=1)) == numbers(whole)
    assert kept(tmp_path / "elsewhere", "state") == [20]


def test_a_folder_that_is_removed_ends_the_run_and_is_not_made_again(tmp_path):
    def remove(record):
        if record["step"] == 9:
            shutil.rmtree(tmp_path / "run")
    with pytest.raises(StorageError, match="was removed, or moved out of reach.*start again"):
        train(tmp_path, at_step=remove)
    assert not (tmp_path / "run").exists()


def test_a_ckpt_that_is_taken_away_is_made_anew_and_said(tmp_path):
    def remove(record):
        if record["step"] == 9:
            os.rename(tmp_path / "run/ckpt", tmp_path / "taken")
    watcher = Watcher(remove)
    report = train(tmp_path, watcher=watcher)
    assert report["status"] == "COMPLETED" and kept(tmp_path / "run") == [1, 2]
    assert [t for t in watcher.warnings if "run/ckpt was removed or renamed" in t]
    assert report["best"]["epoch"] == 2


def test_a_removed_folder_is_exit_7_without_a_traceback(tmp_path):
    train(tmp_path, num_steps=1)
    code = ("import sys, shutil; from aprnb.cli import main; from aprnb.train.loop import Loop\n"
            "real = Loop._step\n"
            "def step(self):\n"
            "    real(self)\n"
            "    if self.position.step == 3: shutil.rmtree(self.folder.path)\n"
            "Loop._step = step; main(sys.argv[1:])")
    result = processes.run([sys.executable, "-c", code, "pretrain",
                            *map(str, flags(tmp_path, "gone", num_steps=6))])
    refused(result, 7, "was removed", "are lost")
