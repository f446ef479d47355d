"""The decoder on kernels against the decoder on the oracle: loss, every gradient, then training.

The same functions judge the CUDA simulator (tiny shapes) and a GPU (larger, ragged ones).
"""
from contextlib import contextmanager

import numpy as np
import pytest

from aprnb.backend import open_backend
from aprnb.config import ModelConfig
from aprnb.errors import DeviceError
from aprnb.generate.greedy import continue_greedy
from aprnb.model.instance import Model
from aprnb.model.stages import departure
from aprnb.oracle import linear, linear_cross_entropy
from aprnb.oracle.wide import add_to
from aprnb.train.preflight import preflight
from aprnb.train.step import OptimiserSettings, Trainer
from exact import float64
from tolerance import BF16, F32, allowed, assert_within, in_order

LANES = [pytest.param("sim", marks=pytest.mark.sim), pytest.param("gpu", marks=pytest.mark.gpu)]
CONFIGS = {  # lane -> family -> configuration, batch, length
    "sim": {"qwen2": (ModelConfig("qwen2", 12, 2, 2, 1, 4, 10, 19, 16, 1e4, 1e-6, True), 2, 5),
            "llama": (ModelConfig("llama", 12, 1, 2, 1, 4, 10, 19, 16, 1e4, 1e-5, False), 2, 5)},
    "gpu": {"qwen2": (ModelConfig("qwen2", 198, 3, 14, 2, 64, 331, 1009, 256, 1e6, 1e-6, True),
                      2, 131),
            "llama": (ModelConfig("llama", 256, 2, 4, 4, 128, 301, 1009, 256, 5e5, 1e-5, False),
                      3, 65)},
}
# rows of 16 bytes, those of bfloat16 logits apart: what the rooms sm90 and sm80 take by name
WIDE = ModelConfig("qwen2", 192, 3, 14, 2, 64, 328, 1012, 256, 1e6, 1e-6, True)
TYPES = {"fp32": F32, "bf16": BF16}


def side(config, device, precision, batch, length, kernels="auto", residual="auto", **more):
    model = Model.random(config, open_backend(device, precision, kernels, residual), seed=0)
    return Trainer(model, batch, None, length, OptimiserSettings(weight_decay=0.1), **more)


def batches(config, batch, length, count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        window = rng.integers(0, config.vocab_size, (batch, length + 1)).astype(np.int32)
        yield window[:, :-1].copy(), window[:, 1:].copy()


def assert_as_the_oracle(ours, got, config, precision, inputs, targets):
    """Loss, norm and every gradient tensor of ours depart from the oracle in float64 by no more
    than twice what the oracle in our storage type does, and a step of that type.

    got: (loss, norm) of ours;  tensors are measured in units of their largest value. The oracle
    sums in the kernels' order: a term after the other, where BLAS sums in blocks. In float32 all
    tensors have the limit of the worst: a few elements alone say little about 1e-7.
    """
    residual, (batch, length) = ours.model.backend.residual, inputs.shape
    with float64():
        truth = side(config, "cpu", "fp32", batch, length)
        wanted = truth.gradients(inputs, targets)
    with products_in_order():
        peer = side(config, "cpu", precision, batch, length, residual=residual)
        peer.gradients(inputs, targets)
    dtype = TYPES[precision]
    for name, value, want, own in zip(
            ("loss", "norm"), got, wanted, (np.abs(peer.losses - truth.losses).mean(),
                                            np.linalg.norm(peer.g - truth.g))):
        limit = allowed(own, want, dtype)
        assert abs(value - want) <= limit, f"{name}: {value:.7g}, want {want:.7g} +- {limit:.1e}"
    views = ours.model.table.views(ours.model.backend.download(ours.g))
    wanted = {name: truth.grads[name] for name in truth.model.table.tensors}
    own = {name: departure(peer.grads[name], want) for name, want in wanted.items()}
    for name, want in wanted.items():
        error = departure(views[name], want)
        limit = allowed(max(own.values()) if dtype == F32 else own[name], 1, dtype)
        assert error <= limit, f"{name}: departs by {error:.1e} of its largest, limit {limit:.1e}"


@contextmanager
def products_in_order():
    """Within it the oracle's products are sums over ascending k, as the kernels' are."""
    def product(out, a, b, accumulate):
        add_to(out, in_order(a, b.T), accumulate)
    with pytest.MonkeyPatch.context() as patch:
        for module in (linear, linear_cross_entropy):
            patch.setattr(module, "product", product)
        yield


@pytest.mark.parametrize("precision, residual", [("fp32", "fp32"), ("bf16", "bf16"),
                                                 ("bf16", "fp32")])
@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("lane", LANES)
def test_every_gradient_tensor(lane, family, precision, residual):
    config, batch, length = CONFIGS[lane][family]
    ours = side(config, "cuda", precision, batch, length, residual=residual)
    inputs, targets = next(batches(config, batch, length, 1))
    got = ours.gradients(inputs, targets)
    assert_as_the_oracle(ours, got, config, precision, inputs, targets)


@pytest.mark.parametrize("lane", LANES)
def test_ten_losses(lane):
    config, batch, length = CONFIGS[lane]["qwen2"]
    steps = 2 if lane == "sim" else 10
    def losses(device):
        trained = side(config, device, "fp32", batch, length)
        for inputs, targets in batches(config, batch, length, steps):
            yield trained.gradients(inputs, targets)[0]
            trained.update(1e-3)
    with float64():
        truth = np.array(list(losses("cpu")))
    with products_in_order():
        peer = np.array(list(losses("cpu")))
    assert_within("losses", list(losses("cuda")), truth,
                  allowed(np.abs(peer - truth).max(), truth.max()))


@pytest.mark.parametrize("lane, precision", [
    ("cpu", "fp32"), ("cpu", "bf16"),
    pytest.param("sim", "bf16", marks=pytest.mark.sim),
    pytest.param("gpu", "fp32", marks=pytest.mark.gpu),
    pytest.param("gpu", "bf16", marks=pytest.mark.gpu)])
def test_two_runs_give_equal_bytes(lane, precision):
    config, batch, length = CONFIGS["gpu" if lane == "gpu" else "sim"]["qwen2"]
    steps = 1 if lane == "sim" else 5
    digests = set()
    for _ in range(2):
        ours = side(config, "cpu" if lane == "cpu" else "cuda", precision, batch, length)
        for inputs, targets in batches(config, batch, length, steps):
            ours.gradients(inputs, targets)
            ours.update(1e-3)
        digests.add(ours.state_digest())
    assert len(digests) == 1


@pytest.mark.gpu
def test_overfits_one_batch():
    config, batch, length = CONFIGS["gpu"]["qwen2"]
    ours = side(config, "cuda", "fp32", batch, length)
    inputs, targets = next(batches(config, batch, length, 1))
    first = ours.gradients(inputs, targets)[0]
    for _ in range(80):
        loss = ours.gradients(inputs, targets)[0]
        ours.update(2e-3)
    assert loss < 0.1 < first


@pytest.mark.parametrize("lane", LANES)
def test_micro_batches_add_up(lane):
    config, batch, length = CONFIGS[lane]["qwen2"]
    inputs, targets = next(batches(config, batch, length, 1))
    for micro in (batch, 1):
        model = Model.random(config, open_backend("cuda", "fp32"), seed=0)
        trainer = Trainer(model, batch, micro, length, OptimiserSettings())
        got = trainer.gradients(inputs, targets)
        assert_as_the_oracle(trainer, got, config, "fp32", inputs, targets)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.gpu
def test_preflight_passes_on_a_right_gpu(precision, record_property):
    config, _, length = CONFIGS["gpu"]["qwen2"]
    model = Model.random(config, open_backend("cuda", precision), seed=0)
    window = np.random.default_rng(0).integers(0, config.vocab_size, length + 1).astype(np.int32)
    worst = preflight(model, window).worst_departure
    record_property("worst_departure", float(worst))
    assert worst <= 1


@pytest.mark.gpu
def test_greedy_text_is_the_oracles():
    config, _, _ = CONFIGS["gpu"]["llama"]
    texts = [continue_greedy(Model.random(config, open_backend(device, "fp32"), 0), [1, 2, 3], 20)
             for device in ("cpu", "cuda")]
    assert texts[0].tokens == texts[1].tokens


@pytest.mark.gpu
@pytest.mark.parametrize("kernels", ["sm_90", "sm_80", "portable"])
@pytest.mark.parametrize("recompute, residual", [("none", "bf16"), ("ffn", "bf16"),
                                                 ("block", "bf16"), ("block", "fp32")])
def test_every_room_computes_the_same_gradients(kernels, recompute, residual):
    ours = side(WIDE, "cuda", "bf16", 3, 131, kernels, residual, recompute=recompute)
    inputs, targets = next(batches(WIDE, 3, 131, 1))
    for _ in range(3):  # kernel by kernel, while it is captured, and as a graph
        got = ours.gradients(inputs, targets)
    assert_as_the_oracle(ours, got, WIDE, "bf16", inputs, targets)
    served = {line.split(":")[0] for line in ours.model.backend.served()}
    assert kernels in served


@pytest.mark.gpu
@pytest.mark.parametrize("micro", [2, 1])
def test_graphs_replay_a_changing_schedule(micro):
    """Rate, corrections, clip and target count stand in device arrays: a graph sees them change."""
    digests = set()
    for eager in (False, True):
        backend = open_backend("cuda", "bf16")
        if eager:
            backend.program = lambda body: body
            backend.build = lambda programs: None
        model = Model.random(WIDE, backend, seed=0)
        trainer = Trainer(model, 2, micro, 65, OptimiserSettings(grad_clip=0.5))
        for step, (inputs, targets) in enumerate(batches(WIDE, 2, 65, 7)):
            targets[0, :9 * step] = -1
            trainer.gradients(inputs, targets)
            trainer.update(1e-3 / (1 + step))
        digests.add((trainer.state_digest(), backend.download(model.work).tobytes()))
    assert len(digests) == 1


def test_kernels_without_a_gpu_are_an_error():
    with pytest.raises(DeviceError, match="cuda:15: .*; --kernels sm_90 asks for one, auto may"):
        open_backend("cuda:15", "bf16", "sm_90")
    with pytest.raises(DeviceError, match="cuda:15: .*; use --device cpu or auto"):
        open_backend("cuda:15")


@pytest.mark.gpu
def test_kernels_that_cannot_serve_are_an_error():
    with pytest.raises(DeviceError, match="precision fp32, need bf16"):
        open_backend("cuda", "fp32", "sm_90")
    narrow = CONFIGS["gpu"]["qwen2"][0]  # rows of 198 elements
    with pytest.raises(DeviceError, match="linear_forward: rows of 396 bytes in a"):
        side(narrow, "cuda", "bf16", 1, 8, "sm_90").gradients(*next(batches(narrow, 1, 8, 1)))
