"""Going on from a trained model: what FALSIFY-APR-PRETRAIN-INIT-FINETUNE asks, on a small one.

The model has 2 layers of width 16 and knows 270 tokens of a byte-level BPE; trained on 5,000
tokens of real text it scores about 2.5 nats, where a uniform guess scores ln 272 = 5.61.
"""
import json
import math

import hf_fixture
import numpy as np
import pytest
from corpora import stdlib_texts
from exact import loss_rounding
from runs import SEQ, loss_of, shards, train
from tolerance import FUNCTION, allowed, gamma

from aprnb.data.tokenizer import load_tokenizer
from aprnb.formats.model_file import open_model
from aprnb.formats.names import expected_tensors

LN_V = math.log(272)
FLOOR_NATS = 0.05  # below it a mean loss on text is an error of the evaluation, not a success


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with data and the run `base`, which made the model to go on from."""
    folder = tmp_path_factory.mktemp("finetune")
    tokenizer = load_tokenizer(hf_fixture.TOKENIZER)
    ids = tokenizer.encode(stdlib_texts(20_000)[0][:14_000])
    shards(folder / "data", ids[:4_500])
    shards(folder / "val", ids[4_500:][:8 * (SEQ + 1)])
    (folder / "config.json").write_text(json.dumps(hf_fixture.config()))
    report = train(folder, "base", num_steps=150, steps_per_epoch=150, lr=2e-2,
                   tokenizer=str(hf_fixture.TOKENIZER))
    return folder, report


@pytest.fixture(scope="module")
def tuned(base):
    """The folder and the report of 6 more steps."""
    folder, report = base
    return folder, train(folder, "tuned", init=report["checkpoint"], num_steps=6,
                         steps_per_epoch=3, micro_batch=1, lr=2e-3,
                         val_shard=str(folder / "val"))


def test_it_ends_with_0(tuned):
    assert (tuned[1]["status"], tuned[1]["exit_code"]) == ("COMPLETED", 0), tuned[1]["detail"]


def test_the_wall_time_is_that_of_the_whole_run(tuned):
    report = tuned[1]
    steps = sum(r["wall_ms"] for r in report["per_step_metrics"]) / 1e3
    assert 0 < steps < report["wall_seconds"] < 60


def test_the_first_loss_is_that_of_the_given_model(base, tuned):
    first = tuned[1]["per_step_metrics"][0]["loss_nats"]
    assert FLOOR_NATS <= first <= 0.7 * LN_V
    assert abs(first - base[1]["final_val_loss"]) < 0.3 * LN_V


def test_the_run_counts_the_parameters_of_its_model(base, tuned):
    folder, report = tuned
    with open_model(report["checkpoint"]) as opened:
        held = sum(array.size for _, array in opened.weights())
    config = json.loads((folder / "tuned/config.json").read_text())
    assert config["model"]["parameters"] == held


def test_the_checkpoint_opens_and_holds_the_trained_weights(base, tuned):
    folder, report = tuned
    with open_model(report["checkpoint"]) as after, open_model(base[1]["checkpoint"]) as before:
        assert after.path.read_bytes()[:4] == b"APR\0"
        now, then = dict(after.weights()), dict(before.weights())
        assert now.keys() == set(expected_tensors(after.config))
        assert after.tokenizer_json == before.tokenizer_json
    assert all(np.abs(now[name] - then[name]).max() > 0 for name in then)


def test_the_final_loss_is_that_of_the_checkpoint_and_between_its_bounds(tuned):
    folder, report = tuned
    final = report["final_val_loss"]
    assert FLOOR_NATS <= final < LN_V
    again = loss_of(report["checkpoint"], folder / "val")
    rounding = loss_rounding(report["checkpoint"], folder / "val", SEQ)
    assert abs(final - again) <= allowed(rounding, LN_V)


def test_the_entropy_of_the_corpus_stands_beside_the_loss(tuned):
    """In nats: between that of two equally frequent ids and that of noise."""
    folder, report = tuned
    ids = np.fromfile(folder / "data/shard-00000.bin", "<u4")
    shares = np.unique(ids, return_counts=True)[1] / len(ids)
    assert report["corpus_entropy_nats"] == pytest.approx(
        -(shares * np.log(shares)).sum(), rel=gamma(len(shares) + 2 * FUNCTION))
    assert math.log(2) < report["corpus_entropy_nats"] < LN_V
