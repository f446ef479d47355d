"""Evaluation: the mean over exactly the tokens that were asked for, or an error; never a 0.0."""
import math

import numpy as np
import pytest

from aprnb.backend import open_backend
from aprnb.config import ModelConfig
from aprnb.errors import CheckError, NonFiniteError
from aprnb.model.instance import Model
from aprnb.train.evaluate import evaluate, perplexity
from aprnb.train.step import OptimiserSettings, Trainer
from exact import in_both
from tolerance import F32, FUNCTION, allowed, gamma

pytestmark = pytest.mark.numeric

CONFIG = ModelConfig("qwen2", 12, 2, 4, 2, 6, 10, 17, 16, 1e4, 1e-6, True, initializer_range=0.3)
SEQ = 8
WINDOWS = np.random.default_rng(0).integers(0, CONFIG.vocab_size, (5, SEQ + 1), np.int32)


def small_model():
    return Model.random(CONFIG, open_backend("cpu", "fp32"), seed=0)


def windows_alone(model):
    """Loss of every window by itself."""
    return [evaluate(model, WINDOWS, 1, indices=[i]).loss_nats for i in range(len(WINDOWS))]


# ---------------------------------------------------------------- what is counted

@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 8])
def test_every_window_counts_once_whatever_fills_the_last_batch(batch_size):
    exact, alone = in_both(lambda: np.array(windows_alone(small_model())))
    assert len(set(alone)) == len(alone)  # so that another mixture would have another mean
    result = evaluate(small_model(), WINDOWS, batch_size)
    limit = allowed(np.abs(alone - exact).mean(), math.log(CONFIG.vocab_size))
    assert abs(result.loss_nats - exact.mean()) <= limit
    assert (result.tokens, result.windows) == (len(WINDOWS) * SEQ, len(WINDOWS))


def test_uniform_logits_score_ln_v(record_property):
    model = small_model()
    model.weights["model.norm.weight"][...] = 0
    loss = evaluate(model, WINDOWS, 2).loss_nats
    record_property("uniform_loss", float(loss))
    assert loss == pytest.approx(math.log(17), rel=gamma(17 + 2 * FUNCTION, F32))


def test_the_target_of_a_token_is_the_next_one():
    """One window against the log-softmax of the logits, written out."""
    model = small_model()
    decoder = model.decoder(1, SEQ, training=False)
    y = decoder.forward(WINDOWS[0][:-1].copy()).astype(np.float64)
    logits = y @ decoder.head.T.astype(np.float64)
    own = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(SEQ), WINDOWS[0][1:]]
    # an error of a logit is one of the loss, twice: in the target's and in the sum over all
    size = 2 * (np.abs(y) @ np.abs(decoder.head.T)).max() + math.log(CONFIG.vocab_size)
    limit = gamma(CONFIG.hidden_size + CONFIG.vocab_size + 2 * FUNCTION, F32) * size
    assert abs(evaluate(model, WINDOWS, 1, indices=[0]).loss_nats - own.mean()) <= limit


def test_perplexity_is_e_to_the_nats():
    assert perplexity(math.log(50_257)) == pytest.approx(
        50_257, rel=gamma(FUNCTION * (1 + math.log(50_257))))
    assert perplexity(1e4) == math.inf


# ---------------------------------------------------------------- nothing left behind

def test_an_evaluation_reads_nothing_that_a_backward_pass_left():
    """H1 of the reference: the gradient stands where the logits were. Same decoder, same loss."""
    model = small_model()
    trainer = Trainer(model, 2, 2, SEQ, OptimiserSettings())
    ids, targets = (x.reshape(-1) for x in (WINDOWS[:2, :-1].copy(), WINDOWS[:2, 1:].copy()))
    trainer.decoder.forward(ids)
    fresh = trainer.decoder.losses(targets).copy()
    assert np.isfinite(fresh).all()  # the buffers began as NaN
    trainer.gradients(WINDOWS[2:4, :-1].copy(), WINDOWS[2:4, 1:].copy())
    trainer.decoder.forward(ids)
    np.testing.assert_array_equal(trainer.decoder.losses(targets), fresh)


def test_an_evaluation_is_the_same_before_and_after_another():
    model = small_model()
    trainer = Trainer(model, 2, 1, SEQ, OptimiserSettings())
    first = evaluate(model, WINDOWS, 2)
    trainer.gradients(WINDOWS[:2, :-1].copy(), WINDOWS[:2, 1:].copy())
    evaluate(model, WINDOWS[::-1], 3)
    assert evaluate(model, WINDOWS, 2) == first


# ---------------------------------------------------------------- nothing is not zero

def test_windows_whose_loss_is_not_finite_are_an_error_and_named():
    """One bad window among five, then five of five: neither is left out of the mean."""
    model = Model.random(CONFIG.with_(tied=False), open_backend("cpu", "fp32"), seed=0)
    windows = np.where(WINDOWS == 16, 15, WINDOWS)
    windows[3, 0] = 16
    model.weights["model.embed_tokens.weight"][16, 0] = np.inf
    with pytest.raises(NonFiniteError, match="window 3 is not finite") as caught:
        evaluate(model, windows, 2)
    assert caught.value.exit_code == 8
    model.weights["model.norm.weight"][...] = np.nan
    with pytest.raises(NonFiniteError, match="window 0 is not finite"):
        evaluate(model, windows, 2)


@pytest.mark.parametrize("windows, indices", [(WINDOWS, []), (WINDOWS[:0], None)])
def test_an_evaluation_of_nothing_is_an_error(windows, indices):
    with pytest.raises(CheckError, match="no window to evaluate"):
        evaluate(small_model(), windows, 2, indices=indices)
