"""What no kernel serves is refused before a byte is allocated; what the limits allow is launched.

GPUs that are not here stand in by their capability: the refusal is a function of configuration,
size and capability alone. The command line runs in the simulator.
"""
import json
from math import prod

import hf_fixture
import numpy as np
import pytest
from runs import aprnb_here, arch, flags, refused, text_shards

from aprnb import backend as backends
from aprnb.backend import OPS, open_backend
from aprnb.config import ModelConfig
from aprnb.device.host import HostDevice
from aprnb.errors import DeviceError, LoadError
from aprnb.formats.config_json import from_hf
from aprnb.kernels.attention import WIDEST
from aprnb.kernels.shapes import MOST, MOST_BLOCKS
from aprnb.model.instance import Model
from aprnb.model.params import build_table
from aprnb.model.rehearsal import Shadow, refuse_unserved
from aprnb.train.step import OptimiserSettings, Trainer

# (major, minor) -> bytes of shared memory that a block can have: CUDA C++ Programming Guide,
# appendix "Compute Capabilities"
GPUS = {(8, 0): 163 << 10, (8, 6): 99 << 10, (8, 9): 99 << 10, (9, 0): 227 << 10,
        (12, 0): 99 << 10}
PRECISIONS = pytest.mark.parametrize("precision, residual", [
    ("fp32", "auto"), ("bf16", "auto"), ("bf16", "fp32")])
CONFIG = ModelConfig("qwen2", 64, 3, 4, 2, 64, 96, 128, 1 << 40, 1e4, 1e-6, True)
ODD = ModelConfig("llama", 7, 2, 3, 1, 10, 13, 31, 1 << 40, 1e4, 1e-5, False)
MODELS = pytest.mark.parametrize("config", [CONFIG, ODD], ids=["wide", "odd"])


class Absent(HostDevice):
    """A GPU by its capability alone; nothing can be allocated on it."""

    name, stream = "cuda:0", None

    def __init__(self, capability):
        self.capability, self.description = capability, f"compute capability {capability}"

    def poisoned(self, elements, dtype):
        raise AssertionError(f"{elements} elements of {dtype} were allocated")

    zeros = array = poisoned


@pytest.fixture(params=GPUS, ids=lambda c: "{}.{}".format(*c))
def gpu(request, monkeypatch):
    """(precision, kernels, residual) -> Backend of an absent GPU."""
    monkeypatch.setattr("aprnb.kernels.sm80.embedding.shared_memory",
                        lambda: GPUS[request.param])
    return lambda precision="bf16", kernels="auto", residual="auto": backends._cuda(
        Absent(request.param), precision, kernels, residual)


# ---------------------------------------------------------------- the model

@PRECISIONS
@MODELS
def test_the_widest_head_is_served_and_the_next_refused(gpu, config, precision, residual):
    backend = gpu(precision, residual=residual)
    for training in (True, False):
        refuse_unserved(config.with_(head_dim=WIDEST), backend, 3, 5, training)
        with pytest.raises(LoadError, match=f"^m.apr: cuda:0 has no kernel for attention_forward: "
                           f"head_dim {WIDEST + 2}, the kernels hold {WIDEST} at most; try "
                           "--device cpu$"):
            refuse_unserved(config.with_(head_dim=WIDEST + 2), backend, 3, 5, training,
                            where="m.apr")


def test_the_cpu_serves_what_a_gpu_does_not():
    config = ODD.with_(head_dim=WIDEST + 2, max_position_embeddings=8)
    model = Model.random(config, open_backend("cpu", "fp32"), 0)
    ids = np.ones((2, 4), np.int32)
    loss, norm = Trainer(model, 2, None, 4, OptimiserSettings()).gradients(ids, ids)
    assert np.isfinite([loss, norm]).all()


def test_a_refused_model_allocates_nothing(gpu):
    with pytest.raises(LoadError, match="^random weights: cuda:0 has no kernel"):
        Model.random(CONFIG.with_(head_dim=WIDEST + 2), gpu(), 0)
    with pytest.raises(AssertionError, match="were allocated"):  # the next one would be
        Model.random(CONFIG.with_(head_dim=WIDEST), gpu(), 0)


# ---------------------------------------------------------------- the size of a pass

@PRECISIONS
def test_rows_are_numbered_up_to_the_last(gpu, precision, residual):
    backend = gpu(precision, residual=residual)
    refuse_unserved(CONFIG, backend, 1, MOST, True)
    for batch, length in ((1, MOST + 1), (MOST + 1, 1), (1 << 15, 1 << 15)):
        with pytest.raises(LoadError, match="the kernels number 1,073,741,823 of each; try fewer "
                           "or shorter sequences in a pass, or --device cpu"):
            refuse_unserved(CONFIG, backend, batch, length, False)


def test_columns_are_numbered_up_to_the_last(gpu):
    last = MOST // 8 * 8  # rows of logits are padded to whole 16 bytes of bfloat16
    refuse_unserved(CONFIG.with_(vocab_size=last), gpu(), 1, 1, True)
    with pytest.raises(LoadError, match=r"a matrix of .*, the kernels number .*; try --device"):
        refuse_unserved(CONFIG.with_(vocab_size=last + 1), gpu(), 1, 1, True)


def test_tiles_are_numbered_up_to_the_last(gpu):
    """Blocks of the portable attention: a tile of one head of one sequence each."""
    config = CONFIG.with_(head_dim=2, num_heads=8, num_kv_heads=1)
    refuse_unserved(config, gpu(), MOST_BLOCKS // 8, 1, True)
    with pytest.raises(LoadError, match=r"2,147,483,648 tiles, a grid holds 2,147,483,647; try "
                       "fewer or shorter"):
        refuse_unserved(config, gpu(), MOST_BLOCKS // 8 + 1, 1, True)


def test_a_pass_that_is_too_large_allocates_no_activations(gpu):
    model = Model.__new__(Model)
    model.config, model.backend, model.where = CONFIG, gpu(), "m.apr"
    with pytest.raises(LoadError, match="^m.apr: .*fewer or shorter"):
        model.decoder(MOST + 1, 1, training=False)


# ---------------------------------------------------------------- kernels asked for by name

@pytest.mark.parametrize("kernels, capability, training, config, words", [
    ("sm_90", (9, 0), False, CONFIG.with_(head_dim=80), "head dimension 80, these kernels have"),
    ("sm_90", (9, 0), False, CONFIG.with_(hidden_size=60), "need multiples of 16"),
    ("sm_80", (8, 6), True, CONFIG, "the sort needs 131072"),
    ("sm_80", (8, 0), False, CONFIG.with_(head_dim=40), "heads of 40, these kernels need")])
def test_kernels_asked_for_by_name_must_serve(monkeypatch, kernels, capability, training, config,
                                              words):
    monkeypatch.setattr("aprnb.kernels.sm80.embedding.shared_memory", lambda: GPUS[capability])
    for asked in ("auto", kernels):
        backend = backends._cuda(Absent(capability), "bf16", asked, "auto")
        if asked == "auto":
            refuse_unserved(config, backend, 2, 3, training)
        else:
            with pytest.raises(DeviceError, match=f"^--kernels {kernels}: .*{words}.*; use "
                               "--kernels auto$"):
                Model.random(config, backend, 0, training)


# ---------------------------------------------------------------- what is served has its launches

@PRECISIONS
@MODELS
@pytest.mark.parametrize("batch, length", [(2, 3), (70_000, 3), (1, 70_000)])
def test_every_op_has_its_launch(monkeypatch, config, precision, residual, batch, length):
    """A pass over arrays without memory through the portable launchers: a kernel has a signature
    for every combination of types, and every grid is one that the driver takes."""
    from aprnb.kernels import launch
    seen = set()

    def launched(kernel, grid, threads, stream, *arguments):
        x, y, z = launch._three(grid)
        assert 0 < x < 1 << 31 and 0 < max(y, z) < 1 << 16, (kernel.entry.name, grid)
        assert prod(launch._three(threads)) <= kernel.entry.launch_bounds[0]
        try:
            seen.add((kernel.entry.name, kernel._signature(arguments)))
        except TypeError as error:
            pytest.fail(str(error))
    monkeypatch.setattr(launch.Kernel, "launch", launched)
    backend = backends._cuda(Absent((8, 0)), precision, "portable", residual)
    backend.checks = backend.ops
    for heads in ({}, {"head_dim": WIDEST}, {"num_heads": 30_000, "num_kv_heads": 30_000}):
        refuse_unserved(config.with_(**heads), backend, batch, length, True)
    assert {name.split("_kernel")[0] for name, _ in seen} >= {
        "rmsnorm_forward", "embedding_backward", "rotate", "swiglu_backward", "cross_entropy"}


# ---------------------------------------------------------------- the command line

def model_folder(path, head_dim):
    """A Hugging Face folder of one layer, width 8 and one head."""
    settings = hf_fixture.config(head_dim=head_dim, hidden_size=8, num_hidden_layers=1,
                                 num_attention_heads=1, num_key_value_heads=1,
                                 intermediate_size=8, vocab_size=1024,
                                 max_position_embeddings=128)
    rng = np.random.default_rng(0)
    arrays = {name: (0.05 * rng.standard_normal(row.shape) + (1 if "norm" in name else 0)
                     ).astype(np.float32)
              for name, row in build_table(from_hf(settings, "m")).tensors.items()}
    return hf_fixture.folder(path, arrays, settings)


VERBS = {
    "eval": ("MODEL", "--dataset", "DATA", "--seq-length", 5, "--batch-size", 1, "--max-batches",
             1, "--json"),
    "run": ("MODEL", "a", "--max-tokens", 1),
    "parity": ("MODEL", "--reference", "REFERENCE"),
    "bisect": ("MODEL", "--between", "cpu,cuda", "--tokens", 32),
}


def call(base, verb, head_dim, *more):
    text_shards(base / "data")
    np.savez(base / "reference.npz", input_ids=np.zeros((1, 3), np.int32),
             hidden_mean=np.zeros(2))
    places = {"MODEL": model_folder(base / "m", head_dim), "DATA": base / "data",
              "REFERENCE": base / "reference.npz"}
    return aprnb_here(verb, *(places.get(a, a) for a in VERBS[verb]), *more)


@pytest.mark.sim
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:0"])
@pytest.mark.parametrize("verb", VERBS)
def test_verbs_refuse_a_model_however_the_gpu_was_chosen(tmp_path, verb, device):
    refused(call(tmp_path, verb, WIDEST + 2, "--device", device), 6, str(tmp_path / "m"),
            "cuda:0 has no kernel", f"head_dim {WIDEST + 2}", f"{WIDEST} at most", "--device cpu")


@pytest.mark.sim
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_pretrain_refuses_before_the_run_folder(tmp_path, device):
    text_shards(tmp_path / "data")
    config = arch(tmp_path / "config.json", head_dim=WIDEST + 2)
    refused(aprnb_here("pretrain", *flags(tmp_path, device=device)), 6, str(config),
            f"head_dim {WIDEST + 2}", f"{WIDEST} at most", "--device cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.sim
def test_the_widest_head_runs(tmp_path):
    """The same loss from the simulator as from the oracle."""
    losses = {}
    for device in ("cpu", "cuda"):
        result = call(tmp_path / device, "eval", WIDEST, "--device", device, "--precision", "fp32")
        assert result.returncode == 0, result.stderr
        losses[device] = json.loads(result.stdout)["loss_nats"]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-6)
