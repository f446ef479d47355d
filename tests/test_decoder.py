"""The whole model: float64 central differences, causality, overfitting, CPU determinism."""
import numpy as np
import pytest

from aprnb.backend import Logits, open_backend
from aprnb.config import ModelConfig, RopeScaling
from aprnb.dtypes import PRECISIONS
from aprnb.errors import UsageError
from aprnb.model.activations import activation_table
from aprnb.model.decoder import Decoder
from aprnb.model.instance import Model
from aprnb.model.params import build_table
from aprnb.model.rope_table import rope_table
from aprnb.train.step import OptimiserSettings, Trainer
from exact import in_both
from judge import assert_gradient
from tolerance import allowed, assert_within, gamma

pytestmark = pytest.mark.numeric

QWEN = ModelConfig("qwen2", 12, 2, 4, 2, 6, 10, 17, 16, 1e4, 1e-6, True)
LLAMA = ModelConfig("llama", 12, 2, 4, 2, 4, 10, 17, 16, 5e5, 1e-5, False,
                    RopeScaling(8.0, 1.0, 4.0, 8))
F64 = np.dtype(np.float64)
LOGITS = Logits(F64, 8 << 20, 256, 1)


class Float64:
    """A decoder whose every array is float64: what central differences need."""

    def __init__(self, config, batch, length):
        self.config = config
        self.table = build_table(config)
        rng = np.random.default_rng(0)
        self.w = rng.standard_normal(self.table.elements) * 0.3
        self.g = np.full(self.table.elements, np.nan)
        acts = {name: np.full(b.shape, np.nan) for name, b in
                activation_table(config, batch, length, F64, LOGITS, True).items()}
        rope = tuple(t.astype(np.float64) for t in rope_table(config, length))
        ops = open_backend("cpu").ops
        self.decoder = Decoder(config, ops, self.table.views(self.w), acts, rope)
        ids = rng.integers(0, config.vocab_size, (batch, length + 1)).astype(np.int32)
        self.ids, self.targets = ids[:, :-1].ravel().copy(), ids[:, 1:].ravel().copy()
        self.targets[1] = -1  # one ignored target

    def losses(self):
        """What adds up to the loss."""
        self.decoder.forward(self.ids)
        return self.decoder.losses(self.targets) / len(self.ids)

    def gradients(self):
        self.decoder.forward(self.ids)
        self.decoder.backward(self.table.views(self.g), self.ids, self.targets,
                              np.array([1 / len(self.ids)]), False)
        return self.table.views(self.g)


@pytest.mark.parametrize("config", [QWEN, LLAMA], ids=["qwen2-tied", "llama-untied-scaled"])
def test_every_gradient_tensor_against_central_differences(config):
    """One random direction per tensor: the directional derivative of the loss."""
    side = Float64(config, batch=2, length=7)
    grads = {name: g.copy() for name, g in side.gradients().items()}
    weights = side.table.views(side.w)
    for name in side.table.tensors:
        assert_gradient(name, side.losses, weights[name], grads[name], directions=1)


def test_tied_table_receives_the_gradients_of_both_uses():
    """Untie the head: the two gradients must add up to the tied one."""
    tied, untied = Float64(QWEN, 2, 5), Float64(QWEN.with_(tied=False), 2, 5)
    for name, w in untied.table.views(untied.w).items():
        source = "model.embed_tokens.weight" if name == "lm_head.weight" else name
        w[...] = tied.table.views(tied.w)[source]
    untied.ids, untied.targets = tied.ids, tied.targets
    both = untied.gradients()
    parts = both["model.embed_tokens.weight"], both["lm_head.weight"]
    # each is a sum over the tokens; no term of it is larger than all tokens' largest together
    size = len(tied.ids) * sum(np.abs(part).max() for part in parts)
    assert_within("the tied table", tied.gradients()["model.embed_tokens.weight"], sum(parts),
                  gamma(2 * len(tied.ids)) * size)


def test_a_tied_head_is_the_embedding_itself():
    """Not a copy: what training changes of the one is changed of the other."""
    model = Model.random(QWEN, open_backend("cpu", "fp32"), seed=0)
    decoder, table = model.decoder(1, 4, training=False), model.weights["model.embed_tokens.weight"]
    assert np.shares_memory(decoder.head, table) and decoder.head.tobytes() == table.tobytes()


def test_a_loss_is_computed_anew():
    """Whatever the logits buffer holds: nothing yet, or the gradient of the backward pass."""
    side = Float64(QWEN, 2, 5)
    losses = side.losses()
    assert np.isfinite(losses).all()
    side.gradients()
    assert side.losses().tobytes() == losses.tobytes()


def test_a_future_token_changes_nothing_before_it():
    side = Float64(QWEN, 1, 9)
    side.decoder.forward(side.ids)
    before = side.decoder.acts["y_final"].copy()
    side.ids[6] = (side.ids[6] + 1) % QWEN.vocab_size
    side.decoder.forward(side.ids)
    after = side.decoder.acts["y_final"]
    np.testing.assert_array_equal(before[:6], after[:6])
    assert np.abs(before[6:] - after[6:]).min(axis=1).max() > 0


def test_positions_matter():
    """The same tokens later in the sequence attend differently: RoPE is applied."""
    side = Float64(QWEN, 1, 8)
    side.ids[:] = [1, 2, 3, 1, 2, 3, 1, 2]
    side.decoder.forward(side.ids)
    q = side.decoder.acts["0.qkv"][0, :, 0]
    assert np.abs(q[0] - q[3]).max() > gamma(2 * QWEN.hidden_size) * np.abs(q).max()


def test_key_heads_shared_by_seven_queries_equal_repeated_ones(record_property):
    """14 query heads on 2 key heads, as in Qwen2.5-0.5B, and on 14 of which seven are equal."""
    (exact, _), (a, b) = in_both(shared_and_repeated)
    record_property("cosine", float(a @ b / np.sqrt(a @ a * (b @ b))))
    assert_within("repeated key heads", b, exact,
                  allowed(np.abs(a - exact).max(), np.abs(exact).max()))


def shared_and_repeated():
    """What comes out of both models, float64."""
    backend = open_backend("cpu", "fp32")
    config = ModelConfig("qwen2", 16, 2, 14, 2, 4, 24, 61, 64, 1e4, 1e-6, True,
                         initializer_range=0.3)
    shared = Model.random(config, backend, seed=0)
    repeated = Model.random(config.with_(num_kv_heads=14), backend, seed=1)
    rng, ids = np.random.default_rng(0), np.arange(33, dtype=np.int32)
    for name in shared.table.tensors:
        values = shared.weights[name]
        if name.endswith(".bias"):
            values[...] = rng.normal(size=values.shape)
        if "k_proj" in name or "v_proj" in name:
            values = values.reshape(2, 4, -1).repeat(7, axis=0)
        repeated.weights[name][...] = values.reshape(repeated.weights[name].shape)
    return [model.decoder(1, 33, training=False).forward(ids).astype(np.float64).ravel()
            for model in (shared, repeated)]


def test_evaluation_buffers_shared_by_layers_give_the_training_loss():
    model = Model.random(QWEN, open_backend("cpu", "fp32"), seed=0)
    ids = np.arange(8, dtype=np.int32) % QWEN.vocab_size
    losses = []
    for training in (True, False):
        decoder = model.decoder(1, 8, training)
        decoder.forward(ids)
        losses.append(decoder.losses(ids[::-1].copy()).copy())
    np.testing.assert_array_equal(*losses)


@pytest.mark.parametrize("recompute", ["ffn", "block"])
def test_recomputed_activations_give_the_same_gradients(recompute):
    """Layers share buffers, and backward fills them anew."""
    ids = np.random.default_rng(0).integers(0, QWEN.vocab_size, (2, 9)).astype(np.int32)
    gradients = []
    for how in ("none", recompute):
        model = Model.random(QWEN.with_(num_layers=3), open_backend("cpu", "fp32"), seed=0)
        trainer = Trainer(model, 2, 2, 8, OptimiserSettings(), how)
        trainer.gradients(ids[:, :-1].copy(), ids[:, 1:].copy())
        gradients.append(trainer.g.copy())
    np.testing.assert_array_equal(*gradients)


def test_a_float32_residual_stream_rounds_less():
    """bfloat16 beside it: loss and gradients are nearer to the float32 model's."""
    ids = np.random.default_rng(0).integers(0, QWEN.vocab_size, (8, 17)).astype(np.int32)
    runs = {}
    for precision, residual in (("fp32", "fp32"), ("bf16", "bf16"), ("bf16", "fp32")):
        backend = open_backend("cpu", precision, residual=residual)
        deep = QWEN.with_(num_layers=12)
        trainer = Trainer(Model.random(deep, backend, seed=0), 8, 4, 16, OptimiserSettings())
        assert trainer.decoder.acts["11.s_mlp"].dtype == PRECISIONS[residual]
        trainer.gradients(ids[:, :-1].copy(), ids[:, 1:].copy())
        runs[precision, residual] = trainer.g, trainer.decoder.acts["y_final"].astype(np.float32)
    for want, rounded, wide in zip(*runs.values()):
        error, narrower = (float(np.linalg.norm(x - want)) for x in (rounded, wide))
        assert narrower < error


def test_a_bfloat16_stream_beside_float32_is_refused():
    for precision in ("fp32", "auto"):
        with pytest.raises(UsageError, match="--residual bf16: with precision fp32"):
            open_backend("cpu", precision, residual="bf16")
    assert open_backend("cpu", "auto").residual == "fp32"
    assert open_backend("cpu", "bf16").residual == "bf16"


def test_overfits_one_batch():
    model = Model.random(QWEN, open_backend("cpu", "fp32"), seed=0)
    trainer = Trainer(model, 2, None, 8, OptimiserSettings(weight_decay=0.0))
    ids = np.random.default_rng(0).integers(0, QWEN.vocab_size, (2, 9)).astype(np.int32)
    inputs, targets = ids[:, :-1].copy(), ids[:, 1:].copy()
    first = trainer.gradients(inputs, targets)[0]
    assert abs(first - np.log(QWEN.vocab_size)) < 0.1  # fresh weights know nothing
    for _ in range(300):
        trainer.gradients(inputs, targets)
        trainer.update(1e-2)
    assert trainer.gradients(inputs, targets)[0] < 0.05


@pytest.mark.parametrize("micro_batch", [1, 2, 4])
def test_accumulation_is_weighted_by_target_tokens(micro_batch):
    """Ragged targets: every cut of the batch gives the loss and gradient of the whole."""
    ids = np.random.default_rng(0).integers(0, QWEN.vocab_size, (4, 9)).astype(np.int32)
    inputs, targets = ids[:, :-1].copy(), ids[:, 1:].copy()
    targets[0, 2:] = -1
    targets[3, 5:] = -1

    def passes(size):
        model = Model.random(QWEN, open_backend("cpu", "fp32"), seed=0)
        trainer = Trainer(model, 4, size, 8, OptimiserSettings())
        loss, norm = trainer.gradients(inputs, targets)
        return loss, norm, trainer.g.copy(), trainer.losses.copy()
    (loss, norm, g, losses), whole = in_both(lambda: passes(4))
    cut = passes(micro_batch)
    assert abs(cut[0] - loss) <= allowed(np.abs(whole[3] - losses).mean(), loss)
    assert abs(cut[1] - norm) <= allowed(np.linalg.norm(whole[2] - g), norm)
    assert_within("gradient", cut[2], g, allowed(np.abs(whole[2] - g).max(), np.abs(g).max()))


def test_two_runs_give_equal_bytes():
    digests = set()
    for _ in range(2):
        model = Model.random(QWEN, open_backend("cpu", "fp32"), seed=0)
        trainer = Trainer(model, 2, 1, 8, OptimiserSettings())
        ids = np.random.default_rng(0).integers(0, QWEN.vocab_size, (2, 9)).astype(np.int32)
        for _ in range(5):
            trainer.gradients(ids[:, :-1].copy(), ids[:, 1:].copy())
            trainer.update(1e-3)
        digests.add(trainer.state_digest() + str(model.master.tobytes().__hash__()))
    assert len(digests) == 1
