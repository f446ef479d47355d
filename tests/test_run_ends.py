"""How runs end: target, divergence, patience, what is not finite, a model worse than a guess."""
import json
import math

import hf_fixture
import numpy as np
import pytest
from corpora import stdlib_ids
from runs import aprnb, aprnb_here, arch, flags, shards, text_shards, train


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with `data` and `config.json`."""
    folder = tmp_path_factory.mktemp("ends")
    text_shards(folder / "data")
    arch(folder / "config.json")
    return folder


def test_a_target_that_holds_converges_and_one_that_is_missed_does_not(base):
    held = aprnb_here("pretrain", *flags(base, "held", num_steps=2, target_val_loss=9), "--json")
    assert (held.returncode, json.loads(held.stdout)["status"]) == (0, "CONVERGED")
    missed = aprnb_here("pretrain", *flags(base, "missed", num_steps=2, target_val_loss=2.2),
                        "--json")
    report = json.loads(missed.stdout)
    assert (missed.returncode, report["status"]) == (5, "COMPLETED")
    assert "GATE-TRAIN-003 FAILED" in report["detail"] and "2.2" in report["detail"]


def test_a_first_validation_above_its_limit_is_divergence(base):
    report = train(base, "diverged", max_epoch0_loss=0.5)
    assert (report["status"], report["exit_code"]) == ("ABORTED", 5)
    assert report["detail"].startswith("DIVERGENCE at epoch 0")
    assert report["epochs_completed"] == 0 and report["steps_recorded"] == 8
    assert [file.name for file in (base / "diverged/ckpt").iterdir()] == ["state-000008.apr"]
    again = train(base, "diverged", resume=True)
    assert (again["status"], again["detail"]) == (report["status"], report["detail"])
    assert train(base, "diverged", resume=True, max_epoch0_loss=99.0)["status"] == "COMPLETED"


def test_patience_stops_early_with_success_and_again_when_resumed(base):
    """At a rate of 1e-30 no weight moves, so no epoch is better than the first."""
    for patience in (1, 2):
        report = train(base, f"patience{patience}", lr=1e-30, min_lr=0.0, patience=patience,
                       steps_per_epoch=2, schedule="constant", weight_decay=0.0)
        assert (report["status"], report["exit_code"]) == ("EARLY_STOP", 0)
        assert report["epochs_completed"] == 1 + patience
    again = train(base, "patience2", resume=True)
    for key in ("status", "exit_code", "detail", "steps_recorded", "val_loss_history", "gates"):
        assert again[key] == report[key], key
    more = train(base, "patience2", resume=True, patience=3)
    assert (more["status"], more["epochs_completed"]) == ("EARLY_STOP", 4)


def test_a_rate_that_ruins_the_weights_stops_after_three_skipped_steps(base):
    report = train(base, "ruined", lr=1e30, min_lr=1e30, schedule="constant", warmup_steps=0)
    assert (report["status"], report["exit_code"]) == ("ABORTED", 8)
    assert "3 steps in a row" in report["detail"]
    assert report["steps_recorded"] == len(report["per_step_metrics"]) < 8
    events = [json.loads(line) for line in open(base / "ruined/events.jsonl")]
    assert [e["in_a_row"] for e in events if e["event"] == "skipped"] == [1, 2, 3]
    stopped = train(base, "stopped", lr=1e30, min_lr=1e30, schedule="constant", warmup_steps=0,
                    on_nonfinite="stop")
    assert stopped["exit_code"] == 8 and "3 steps in a row" not in stopped["detail"]


@pytest.mark.parametrize("lr, code", [(1e30, 8), (10, 5)])
def test_a_run_that_diverges_says_so_and_nothing_of_numpy(base, lr, code):
    name = f"diverged{code}"
    result = aprnb("pretrain", *flags(base, name, lr=lr, min_lr=lr, schedule="constant",
                                      warmup_steps=0, steps_per_epoch=4), "--json")
    report = json.loads(result.stdout)
    assert (result.returncode, report["status"]) == (code, "ABORTED")
    assert "Warning" not in result.stderr and "Traceback" not in result.stderr
    assert ("DIVERGENCE" if code == 5 else "NON-FINITE") in report["detail"]


def test_weights_that_cannot_be_saved_leave_nothing_to_go_on_from(base, monkeypatch):
    from aprnb.train import run

    class Broken(run.Trainer):
        def update(self, *given):
            super().update(*given)
            self.model.master[:] = math.inf
    monkeypatch.setattr(run, "Trainer", Broken)
    report = train(base, "infinite")
    assert report["exit_code"] == 8 and report["checkpoint"] is None
    assert not list((base / "infinite/ckpt").glob("*.apr"))
    assert "nothing was saved; start again with --force" in report["detail"]


def faulty(monkeypatch, bad, calls):
    """Plant a fault: these calls of `gradients` report `bad`; yields digests of state by call."""
    from aprnb.train import run
    digests = {}

    class Faulty(run.Trainer):
        def gradients(self, inputs, targets):
            out = super().gradients(inputs, targets)
            digests[len(digests) + 1] = (self.state_digest(), self.model.master.tobytes())
            return bad if len(digests) in calls else out
    monkeypatch.setattr(run, "Trainer", Faulty)
    return digests


@pytest.mark.parametrize("bad", [(math.nan, 1.0), (2.0, math.inf), (math.inf, 1.0), (2.0, math.nan),
                                 (2.0, 0.0)])
def test_one_bad_step_is_skipped_and_changes_nothing(base, monkeypatch, bad):
    digests = faulty(monkeypatch, bad, {4})
    report = train(base, "skip", num_steps=6, force=True)
    assert report["status"] == "COMPLETED" and report["exit_code"] == 0
    assert [r["step"] for r in report["per_step_metrics"]] == [0, 1, 2, 4, 5]
    assert digests[4] == digests[5] != digests[6]


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e38])
def test_one_bad_number_in_the_gradient_is_seen_in_the_same_step(base, monkeypatch, value):
    """Put into one element of 10,000; 1e38 is finite and its square is not."""
    from aprnb.train import run
    digests = []

    class Poisoned(run.Trainer):
        def _measure_norm(self):
            digests.append((self.state_digest(), self.model.master.tobytes()))
            if len(digests) == 3:
                self.g[1234] = value
            super()._measure_norm()
    monkeypatch.setattr(run, "Trainer", Poisoned)
    report = train(base, "poisoned", num_steps=5, force=True)
    assert report["status"] == "COMPLETED"
    assert [r["step"] for r in report["per_step_metrics"]] == [0, 1, 3, 4]
    assert digests[1] != digests[2] == digests[3] != digests[4]


def test_only_bad_steps_in_a_row_stop_a_run(base, monkeypatch):
    faulty(monkeypatch, (math.nan, 1.0), {2, 3, 5, 6, 8})
    report = train(base, "scattered", num_steps=8)
    assert report["status"] == "COMPLETED" and report["steps_recorded"] == 3


def test_a_run_that_was_stopped_by_bad_steps_stops_again_when_resumed(base, monkeypatch):
    faulty(monkeypatch, (math.nan, 1.0), range(4, 99))
    first = train(base, "again")
    assert (first["exit_code"], first["steps_recorded"]) == (8, 3)
    for _ in range(2):
        again = train(base, "again", resume=True)
        assert (again["status"], again["exit_code"]) == ("ABORTED", 8)
        assert again["steps_recorded"] == 3


@pytest.mark.parametrize("bad, given", [({4}, {"on_nonfinite": "stop"}), ({2, 3, 4}, {})])
def test_a_resume_does_not_complete_a_run_that_bad_steps_stopped_at_its_end(
        base, monkeypatch, bad, given):
    name = f"last{len(bad)}"
    faulty(monkeypatch, (math.nan, 1.0), bad)
    first = train(base, name, num_steps=4, steps_per_epoch=9, **given)
    monkeypatch.undo()
    again = train(base, name, resume=True)
    for key in ("status", "exit_code", "detail", "steps_recorded", "gates"):
        assert again[key] == first[key], key
    assert (again["status"], again["exit_code"]) == ("ABORTED", 8)
    assert train(base, name, resume=True, num_steps=5)["status"] == "COMPLETED"


def test_the_first_loss_stands_beside_a_guess_also_when_step_0_was_skipped(base, monkeypatch):
    faulty(monkeypatch, (math.nan, 1.0), {1})
    said = aprnb_here("pretrain", *flags(base, "late", num_steps=2)).stdout
    assert "first loss" in said and "a uniform guess scores ln V" in said


def test_a_model_worse_than_a_guess_is_warned_about(base, tmp_path):
    rng = np.random.default_rng(1)
    tensors = hf_fixture.tensors(dtype="F32")
    tensors["model.embed_tokens.weight"] = rng.normal(size=(272, 16)).astype(np.float32)
    folder = hf_fixture.folder(tmp_path / "model", tensors, hf_fixture.config(), tokenizer=False)
    ids = stdlib_ids()[:6000] % 272
    shards(tmp_path / "data", ids)
    result = aprnb_here("pretrain", *flags(tmp_path, num_steps=2, arch=None, init=folder,
                                      max_epoch0_loss=30))
    assert result.returncode == 0, result.stderr
    assert "is not below ln V = 5.6058" in result.stderr
