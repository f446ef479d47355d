"""From a file to the model that is trained: every tensor arrives, by name, place and value."""
import json
import math
import shutil

import hf_fixture as hf
import numpy as np
import pytest
from runs import numbers, shards, text_shards, train
from shared import DATA

from aprnb.backend import open_backend
from aprnb.errors import LoadError, NonFiniteError, NotFoundError
from aprnb.formats.model_file import open_model
from aprnb.model.instance import Model
from exact import loss_rounding
from tolerance import allowed

LLAMA = DATA / "parity" / "llama-f16"


def populated(source, **options):
    with open_model(source) as opened:
        return Model.from_file(opened, open_backend("cpu", "fp32"), **options)


# ---------------------------------------------------------------- names and values

@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("family, tied", [("qwen2", True), ("llama", False)])
def test_every_weight_arrives_under_its_name(dtype, family, tied, tmp_path):
    arrays = hf.tensors(family, tied, dtype)
    model = populated(hf.folder(tmp_path / "s", arrays, hf.config(family, tied)))
    got = model.tensors()
    assert set(got) == set(arrays)
    for name, array in arrays.items():
        assert got[name].tobytes() == array.astype(np.float32).tobytes(), name


def test_all_290_tensors_of_a_qwen_shape_find_their_place(tmp_path, record_property):
    arrays = hf.tensors(layers=24)
    source = hf.folder(tmp_path / "s", arrays, hf.config(num_hidden_layers=24))
    got = populated(source).tensors()
    found = sum(name in got and np.array_equal(got[name], array.astype(np.float32))
                for name, array in arrays.items())
    record_property("tensors_populated", found)
    assert set(got) == set(arrays) and found == 290


def test_the_arena_holds_the_weights_and_zeros_and_nothing_else(tmp_path):
    arrays = hf.tensors("qwen2", True, "F32")
    model = populated(hf.folder(tmp_path / "s", arrays, hf.config()))
    assert model.table.parameters == sum(a.size for a in arrays.values())
    assert np.isfinite(model.master).all()
    filled = sum(np.count_nonzero(a) for a in arrays.values())
    assert np.count_nonzero(model.master) == filled


def test_a_pack_is_its_tensors_side_by_side(tmp_path):
    """Q above K above V, gate above up: the order in which the ops take a product apart."""
    arrays = hf.tensors("qwen2", True, "F32")
    weights = populated(hf.folder(tmp_path / "s", arrays, hf.config())).weights
    for layer in range(2):
        at = f"model.layers.{layer}."
        for pack, parts in (("qkv.weight", ["self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                            "self_attn.v_proj.weight"]),
                            ("qkv.bias", ["self_attn.q_proj.bias", "self_attn.k_proj.bias",
                                          "self_attn.v_proj.bias"]),
                            ("gate_up.weight", ["mlp.gate_proj.weight", "mlp.up_proj.weight"])):
            want = np.concatenate([arrays[at + part] for part in parts])
            np.testing.assert_array_equal(weights[at + pack], want)


# ---------------------------------------------------------------- what is refused

class GivesOut:
    """An opened model that hands over other weights than its configuration promises."""

    def __init__(self, opened, change):
        self.config, self.path = opened.config, opened.path
        self.opened, self.change = opened, change

    def weights(self):
        yield from self.change(dict(self.opened.weights())).items()


@pytest.mark.parametrize("change, words", [
    (lambda w: {n: a for n, a in w.items() if not n.endswith(".bias")},
     "6 tensors were never written: model.layers.0.self_attn.k_proj.bias"),
    (lambda w: w | {"lm_head.weight": w["model.embed_tokens.weight"]}, "lm_head.weight.*no place"),
    (lambda w: w | {"model.norm.weight": w["model.norm.weight"][:3]}, "need \\(16,\\)")],
    ids=["left out", "too many", "too short"])
def test_other_weights_than_promised_are_refused(change, words, tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    with open_model(source) as opened, pytest.raises(LoadError, match=words):
        Model.from_file(GivesOut(opened, change), open_backend("cpu", "fp32"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(value, tmp_path):
    arrays = hf.tensors(dtype="F16")
    arrays["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    source = hf.folder(tmp_path / "s", arrays, hf.config())
    with pytest.raises(NonFiniteError, match="model.layers.1.mlp.up_proj.weight"):
        populated(source)


# ---------------------------------------------------------------- pretrain --init

@pytest.mark.numeric
def test_the_first_loss_of_init_is_that_of_pytorch(tmp_path, record_property):
    """An untied head and scaled RoPE, 512 positions: nothing of the file may be left unused."""
    with np.load(LLAMA / "reference.npz") as reference:
        want = float(reference["heldout_losses"][0])
        shards(tmp_path / "data", reference["heldout_tokens"])
    report = train(tmp_path, init=str(LLAMA), num_steps=1, batch_size=1, seq_length=512,
                   order="sequential")
    loss = report["per_step_metrics"][0]["loss_nats"]
    record_property("relative_departure", float(loss / want - 1))
    assert abs(loss - want) <= allowed(loss_rounding(LLAMA, tmp_path / "data", 512), want)


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(folder, report) of a model that has learned its 36 windows of text."""
    base = tmp_path_factory.mktemp("taught")
    text_shards(base / "data")
    return base, train(base, num_steps=120, steps_per_epoch=120, lr=1e-2, preflight="off")


def test_a_taught_model_begins_where_it_ended_and_a_fresh_one_at_ln_v(taught, record_property):
    base, report = taught
    first = {}
    for name, start in (("init", {"init": report["checkpoint"]}), ("fresh", {})):
        again = train(base, name, num_steps=1, preflight="off", **start)
        first[name] = again["per_step_metrics"][0]["loss_nats"]
        record_property(f"first_loss_{name}", float(first[name]))
    record_property("gap", float(first["fresh"] - first["init"]))
    assert first["fresh"] == pytest.approx(math.log(1024), rel=0.02)
    assert 1 < first["init"] < 0.7 * math.log(1024)
    assert first["fresh"] - first["init"] > 2


def test_init_from_a_state_takes_the_weights_and_not_the_optimiser(taught):
    base, report = taught
    state = max((base / "run" / "ckpt").glob("state-*.apr"))
    runs = [numbers(train(base, f"from-{name}", init=str(file), num_steps=3, preflight="off"))
            for name, file in (("epoch", report["checkpoint"]), ("state", state))]
    assert runs[0] == runs[1] and [step for step, *_ in runs[1]] == [0, 1, 2]


def test_loading_twice_gives_the_same_bytes():
    first, second = (populated(LLAMA).tensors() for _ in range(2))
    assert {n: a.tobytes() for n, a in first.items()} == {
        n: a.tobytes() for n, a in second.items()}


def test_init_that_is_absent_or_no_model_never_becomes_random_weights(tmp_path):
    with np.load(LLAMA / "reference.npz") as reference:
        shards(tmp_path / "data", reference["heldout_tokens"])
    with pytest.raises(NotFoundError, match="absent.apr"):
        train(tmp_path, init=str(tmp_path / "absent.apr"))
    shutil.copytree(LLAMA, tmp_path / "bert")
    settings = json.loads((LLAMA / "config.json").read_text())
    (tmp_path / "bert" / "config.json").write_text(json.dumps(settings | {"model_type": "bert"}))
    with pytest.raises(LoadError, match="'bert' is not supported"):
        train(tmp_path, init=str(tmp_path / "bert"))
    assert not (tmp_path / "run").exists()
