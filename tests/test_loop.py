"""A run tells the truth: of its updates, its speed, its losses, its disk and its device."""
import json
import math
import resource
import time

import numpy as np
import pytest
from corpora import stdlib_ids
from runs import SEQ, loss_of, shards, text_shards, train

from aprnb.backend import open_backend
from aprnb.errors import CheckError, StorageError
from aprnb.formats.model_file import open_model
from aprnb.train import run
from exact import loss_rounding
from tolerance import FUNCTION, allowed, gamma


def gate(report, name):
    """Outcome of the gate that judged this quantity last."""
    return next(g for g in report["gates"] if g["name"] == name)


# ---------------------------------------------------------------- what was done

@pytest.mark.parametrize("micro_batch", [4, 1])
def test_a_batch_is_one_update_however_it_is_cut(tmp_path, micro_batch):
    report = train(tmp_path, num_steps=3, micro_batch=micro_batch)
    assert report["status"] == "COMPLETED", report["detail"]
    assert gate(report, "optimiser_updates_count")["value"] == report["steps_recorded"] == 3
    with open_model(report["checkpoint"]) as file:
        assert file.metadata["optimizer_step"] == file.metadata["checkpoint_step"] == 3


def test_speed_and_tokens_count_the_target_tokens_and_all_of_the_time(tmp_path):
    began = time.perf_counter()
    report = train(tmp_path, num_steps=6, steps_per_epoch=3)
    took = time.perf_counter() - began
    rows = report["per_step_metrics"]
    assert [r["step"] for r in rows] == list(range(6))
    for r in rows:
        assert r["tokens_per_sec"] * r["wall_ms"] / 1e3 == pytest.approx(4 * SEQ, rel=gamma(8))
        assert 0 <= r["data_wait_ms"] < r["wall_ms"]
    assert sum(r["wall_ms"] for r in rows) / 1e3 < report["wall_seconds"] <= took
    seen = [json.loads((tmp_path / f"run/ckpt/epoch-00{e}.metadata.json").read_text())
            ["tokens_seen"] for e in (0, 1)]
    assert seen == [3 * 4 * SEQ, 6 * 4 * SEQ]


# ---------------------------------------------------------------- losses

@pytest.mark.numeric
def test_validation_losses_are_those_of_the_checkpoints_on_the_validation_data(tmp_path):
    """Recomputed from the files: neither the training loss nor a loss of other weights."""
    shards(tmp_path / "val", stdlib_ids()[5_000:5_000 + 7 * (SEQ + 1)])
    report = train(tmp_path, num_steps=9, steps_per_epoch=3, lr=2e-2,
                   val_shard=str(tmp_path / "val"))
    files = [tmp_path / f"run/ckpt/epoch-00{e}.apr" for e in range(3)]
    again = [loss_of(file, tmp_path / "val") for file in files]
    for said, loss, file in zip(report["val_loss_history"], again, files, strict=True):
        assert abs(said - loss) <= allowed(loss_rounding(file, tmp_path / "val", SEQ), loss)
    assert len(set(again)) == 3


def test_the_final_loss_is_the_last_and_not_the_best(tmp_path):
    """What is learnt of a text makes guesses at random numbers worse."""
    shards(tmp_path / "val", np.random.default_rng(0).integers(0, 1024, 300))
    report = train(tmp_path, num_steps=6, steps_per_epoch=2, lr=3e-2, schedule="constant",
                   warmup_steps=0, val_shard=str(tmp_path / "val"))
    history = report["val_loss_history"]
    assert history == sorted(set(history)), "the loss was to rise"
    assert report["final_val_loss"] == history[-1]


def test_losses_stand_beside_ln_v_and_the_entropy_of_the_corpus_in_nats(tmp_path, record_property):
    text_shards(tmp_path / "data")
    report = train(tmp_path, num_steps=1)
    counts = np.bincount(stdlib_ids()[:1_200])
    shares = counts[counts > 0] / counts.sum()
    assert report["ln_vocab"] == math.log(1024)
    assert report["corpus_entropy_nats"] == pytest.approx(
        -(shares * np.log(shares)).sum(), rel=gamma(len(shares) + 2 * FUNCTION))
    record_property("loss_of_random_weights", report["per_step_metrics"][0]["loss_nats"])
    assert report["per_step_metrics"][0]["loss_nats"] == pytest.approx(math.log(1024), rel=0.02)


# ---------------------------------------------------------------- disk and device

def test_a_checkpoint_that_cannot_be_written_ends_the_run(tmp_path):
    """A limit on the size of files from the last step of the first epoch on: it meets the state
    before the evaluation."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(record):
        if record["step"] == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(StorageError, match="state-000002.apr.*bytes") as caught:
            train(tmp_path, at_step=fill, num_steps=4, steps_per_epoch=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert caught.value.exit_code == 7
    assert not list((tmp_path / "run/ckpt").iterdir())


def faulty_device(monkeypatch, **faults):
    """Runs find a GPU that computes as the oracle does, apart from these ops."""
    def opened(*_):
        backend = open_backend("cpu", "fp32")
        backend.name = "cuda:0"
        vars(backend.ops).update(faults)
        return backend
    monkeypatch.setattr(run, "open_backend", opened)


def test_a_device_that_departs_from_the_oracle_ends_the_run_before_step_0(tmp_path, monkeypatch):
    faulty_device(monkeypatch, rope_forward=lambda *arguments: None)
    with pytest.raises(CheckError, match="departs from the oracle first at layer 0, q, k, v after "
                                         "RoPE") as caught:
        train(tmp_path, device="cuda")
    assert caught.value.exit_code == 5
    assert not (tmp_path / "run").exists()


def test_a_device_that_agrees_is_reported_with_both_losses(tmp_path, monkeypatch):
    faulty_device(monkeypatch)
    report = train(tmp_path, device="cuda", num_steps=1)
    checked = report["preflight"]
    assert checked["loss_nats_device"] == checked["loss_nats_oracle"]
    assert checked["ln_vocab_nats"] == math.log(1024) and checked["positions"] == SEQ
