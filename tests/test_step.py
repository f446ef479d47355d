"""One optimiser step as a whole: loss, gradient, norm, clip, decay, corrections, what is resumed.

The ops have tests of their own; here is judged what is done with them, each against a closed form.
"""
from types import SimpleNamespace

import numpy as np
import pytest
from late_device import late_backend

from aprnb.backend import open_backend
from aprnb.config import ModelConfig
from aprnb.model.instance import Model
from aprnb.train import step
from aprnb.train.evaluate import Evaluator
from aprnb.train.step import OptimiserSettings, Trainer, choose_micro_batch
from exact import in_both
from tolerance import F32, FUNCTION, allowed, assert_within, gamma

pytestmark = pytest.mark.numeric

CONFIG = ModelConfig("qwen2", 12, 2, 4, 2, 6, 10, 17, 16, 1e4, 1e-6, False, initializer_range=0.3)
BATCH, SEQ = 4, 8
LN_V = np.log(CONFIG.vocab_size)


def trainer(micro_batch=None, backend=None, **settings):
    model = Model.random(CONFIG, backend or open_backend("cpu", "fp32"), seed=0)
    return Trainer(model, BATCH, micro_batch, SEQ, OptimiserSettings(**settings))


def batch(seed=0, ragged=False):
    ids = np.random.default_rng(seed).integers(0, CONFIG.vocab_size, (BATCH, SEQ + 1), np.int32)
    inputs, targets = ids[:, :-1].copy(), ids[:, 1:].copy()
    if ragged:
        targets[0, 2:] = -1
        targets[3, 5:] = -1
    return inputs, targets


# ---------------------------------------------------------------- loss and gradient

@pytest.mark.parametrize("micro_batch", [4, 1])
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
def test_constant_logits_score_ln_v_and_their_gradient_has_a_closed_form(micro_batch, ragged):
    """A head of zeros guesses uniformly: loss ln V nats, d(head) = mean of (1/V - onehot) y."""
    side = trainer(micro_batch)
    side.model.weights["lm_head.weight"][...] = 0
    inputs, targets = batch(ragged=ragged)
    loss, _ = side.gradients(inputs, targets)
    roundings = CONFIG.vocab_size + 2 * FUNCTION  # the sum of the exponentials, its logarithm
    assert abs(loss / LN_V - 1) <= gamma(roundings, F32)
    reader = side.model.decoder(BATCH, SEQ, training=False)
    y = reader.forward(inputs.reshape(-1)).astype(np.float64)
    flat = targets.reshape(-1)
    share = np.where(flat[:, None] < 0, 0, 1 / CONFIG.vocab_size - np.eye(CONFIG.vocab_size)[flat])
    want = share.T @ y / (flat >= 0).sum()
    size = np.abs(share).T @ np.abs(y) / (flat >= 0).sum()
    assert_within("head", side.grads["lm_head.weight"], want,
                  gamma(roundings + len(flat), F32) * size)


def test_the_loss_of_a_training_step_is_that_of_an_evaluation():
    inputs, targets = batch()
    window = np.concatenate([inputs, targets[:, -1:]], axis=1)

    def losses():
        side = trainer(2)
        side.gradients(inputs, targets)
        evaluated = Evaluator(side.model, 3, SEQ).mean(window, range(BATCH))
        return side.losses.copy(), evaluated.loss_nats
    (exact, _), (own, evaluated) = in_both(losses)
    assert abs(evaluated - exact.mean()) <= allowed(np.abs(own - exact).mean(), LN_V)


def test_a_batch_does_not_see_the_one_before():
    """The gradient of a batch is the same after another one, whatever the arena held."""
    one = trainer(2)
    first = one.gradients(*batch(0)), one.g.copy()
    assert one.gradients(*batch(1)) != first[0]
    again = one.gradients(*batch(0)), one.g.copy()
    assert first[0] == again[0] and np.array_equal(first[1], again[1])


def test_the_losses_are_summed_in_float64():
    """A float32 sum of 32 losses is off in the eighth digit."""
    side = trainer(2)
    loss, _ = side.gradients(*batch(0))
    losses = side.report[:-1].astype(np.float64)
    assert len(losses) == BATCH * SEQ and loss == losses.sum() / (BATCH * SEQ)
    assert loss != float(side.report[:-1].sum()) / (BATCH * SEQ)


# ---------------------------------------------------------------- size of a pass

def test_a_pass_holds_as_many_sequences_as_fit_and_divide_the_batch(monkeypatch):
    model = Model.random(CONFIG, open_backend("cpu", "fp32"), seed=0)
    on_a_gpu = SimpleNamespace(backend=SimpleNamespace(name="cuda:0"),
                               activation_plan=model.activation_plan)
    nbytes = {n: model.activation_plan(n, SEQ, True).nbytes for n in range(1, 7)}
    for limit, batch_size, want in ((nbytes[4], 4, 4), (nbytes[4] - 1, 4, 2), (nbytes[2], 4, 2),
                                    (nbytes[2], 5, 1), (nbytes[5], 6, 3), (nbytes[1] - 1, 4, 1),
                                    (nbytes[6], 1, 1), (nbytes[6], 6, 6)):
        for at, side in (("cpu", model), ("cuda", on_a_gpu)):
            other = {"cpu": 0, "cuda": 0}
            monkeypatch.setattr(step, "MICRO_BATCH_BYTES", other | {at: limit})
            assert choose_micro_batch(side, batch_size, SEQ) == want
    monkeypatch.undo()
    assert trainer().micro_batch == 4 and trainer(2).micro_batch == 2
    assert step.MICRO_BATCH_BYTES == {"cpu": 2**30, "cuda": 24 * 2**30}


def test_small_arrays_are_as_small_as_ops_expect():
    side = trainer()
    assert {a.size for a in (side.scale, side.lr, side.correction1, side.correction2, side.clip,
                             side.norm)} == {1}
    assert len(side.partials) == -(-side.model.table.elements // 4096)


# ---------------------------------------------------------------- norm and clip

def test_the_norm_is_that_of_the_gradients_of_all_tensors():
    side = trainer(2)
    norms = [side.gradients(*batch(seed))[1] for seed in (0, 1)]
    assert norms[0] != norms[1]
    tensors = [side.grads[name].astype(np.float64) for name in side.model.table.tensors]
    want = np.sqrt(sum((g * g).sum() for g in tensors))
    assert abs(norms[1] / want - 1) <= gamma(side.model.table.elements / 2, F32)  # a root halves it


@pytest.mark.parametrize("limit", [0.05, 1e3])
def test_the_clip_scales_the_whole_gradient_by_one_factor(limit):
    """After a first step m = (1 - beta1) * factor * g, factor = min(1, limit / norm)."""
    free, clipped = trainer(grad_clip=0.0), trainer(grad_clip=limit)
    norm = free.gradients(*batch())[1]
    assert clipped.gradients(*batch())[1] == norm
    clipped.update(1e-3)
    factor = min(1, limit / (norm + 1e-6))
    np.testing.assert_allclose(clipped.m, 0.1 * factor * free.g, rtol=gamma(8, F32))


# ---------------------------------------------------------------- update

@pytest.mark.parametrize("decay_on", ["matrices", "all"])
def test_decay_on_matrices_leaves_norms_and_biases_alone(decay_on):
    """Without a gradient only the decay moves weights: matrices by lr * decay, vectors by 0."""
    side = trainer(weight_decay=0.1, decay_on=decay_on)
    views = side.model.table.views(side.model.master)
    for name in side.model.table.tensors:
        views[name][...] += 1  # biases too are not zero
    before = {name: views[name].copy() for name in side.model.table.tensors}
    side.g[...] = 0
    side._measure()
    side.update(0.01)
    for name, was in before.items():
        shrink = 0.1 * 0.01 if was.ndim == 2 or decay_on == "all" else 0.0
        np.testing.assert_allclose(views[name], was * (1 - shrink), rtol=gamma(4, F32),
                                   err_msg=name)


def test_what_is_computed_with_is_the_master_rounded():
    side = trainer(backend=open_backend("cpu", "bf16"))
    before = side.model.work.copy()
    side.gradients(*batch())
    side.update(1e-2)
    assert side.model.work.tobytes() == side.model.master.astype(side.model.work.dtype).tobytes()
    assert side.model.work.tobytes() != before.tobytes()


def test_settings_without_flags_are_those_of_the_reference():
    assert OptimiserSettings() == OptimiserSettings(0.9, 0.95, 1e-8, 0.1, "matrices", 1.0)


@pytest.mark.parametrize("micro_batch", [4, 1])
def test_updates_follow_adamw_by_the_count_of_batches(micro_batch):
    """Three updates against the formulas in float64; t counts batches, not passes."""
    side = trainer(micro_batch, grad_clip=0.0, weight_decay=0.1)
    w, m, v, terms = side.model.master.astype(np.float64), 0.0, 0.0, 0.0
    decay = np.where(np.arange(len(w)) < side.model.table.matrix_elements, 0.1, 0.0)
    for t, lr in enumerate((1e-3, 3e-3, 2e-3), 1):
        side.gradients(*batch(t))
        g = side.g.astype(np.float64)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
        terms = 0.9 * terms + 0.1 * np.abs(g)  # m before anything cancels in it
        root = np.sqrt(v / (1 - 0.95 ** t)) + 1e-8
        step = lr * (decay * np.abs(w) + terms / (1 - 0.9 ** t) / root)
        w = w - lr * decay * w - lr * (m / (1 - 0.9 ** t)) / root
        side.update(lr)
        # a step has some 8 roundings, and what m and v carry along; the weights are rounded too
        assert_within("w", side.model.master, w, gamma(8 + 6 * t, F32) * step
                      + gamma(4, F32) * np.abs(w))
        w = side.model.master.astype(np.float64)
    assert side.step == 3


def test_a_restored_optimiser_takes_the_same_step():
    one, other = trainer(), trainer()
    for seed in range(3):
        one.gradients(*batch(seed))
        one.update(1e-3)
    other.model.master[...] = one.model.master
    other.restore(one.state())
    assert other.state_digest() == one.state_digest() != trainer().state_digest()
    for side in (one, other):
        side.gradients(*batch(3))
        side.update(1e-3)
    assert one.model.master.tobytes() == other.model.master.tobytes()
    assert other.state_digest() == one.state_digest()


# ---------------------------------------------------------------- host and device

def test_the_host_waits_for_what_it_reads():
    """On a device that is always behind, every number is that of one that never is."""
    sides = [trainer(2, backend) for backend in (None, late_backend())]
    window = np.concatenate(batch(9), axis=1)[:, :SEQ + 1]
    seen = []
    for side in sides:
        numbers = []
        for seed in range(3):
            numbers += [*side.gradients(*batch(seed))]
            side.update(1e-3)
            numbers += [Evaluator(side.model, 3, SEQ).mean(window, range(BATCH)).loss_nats]
        seen.append((numbers, side.state_digest(), side.model.tensors()["model.norm.weight"]))
    assert np.isfinite(seen[1][0]).all()
    assert seen[0][:2] == seen[1][:2]
    np.testing.assert_array_equal(seen[0][2], seen[1][2])
