"""Parity with PyTorch: on a small Llama kept here, on the trained Qwen2 of the shared folder."""
import json
from types import SimpleNamespace

import numpy as np
import pytest
from agreement import worst_cosine, worst_divergence
from click.testing import CliRunner
from shared import DATA, shared

from aprnb.backend import open_backend
from aprnb.cli import group, main
from aprnb.cli.parity import read_reference
from aprnb.config import ModelConfig
from aprnb.formats.model_file import open_model
from aprnb.model.instance import Model
from aprnb.model.params import build_table
from aprnb.model.stages import all_logits, departure
from aprnb.train import parity
from aprnb.train.parity import compare_with_reference
from aprnb.train.step import OptimiserSettings, Trainer
from exact import float64, in_both
from tolerance import EPS, F32, allowed, gamma

LLAMA, QWEN = (DATA / "parity" / name for name in ("llama-f16", "qwen2-bf16"))


def rows(folder, reference, backend=None):
    with open_model(folder) as source:
        return compare_with_reference(source, backend or open_backend("cpu", "fp32"), reference)


def rows_and_rounding(folder, reference):
    """(rows in float32, how far float32 alone moves the worst of them)."""
    with float64():
        exact = compared_numbers(folder, reference)[1]
    checks, got = compared_numbers(folder, reference)
    assert len(got) == len(exact) >= len(checks) - 1  # all but the greedy text
    return checks, max(np.abs(a - b).max() / size for (a, size), (b, _) in zip(got, exact))


def compared_numbers(folder, reference):
    """(rows, [(what was compared, the size it is measured by)])."""
    seen = []

    def spy_departure(got, want):
        seen.append((np.array(got, np.float64), np.abs(want).max()))
        return departure(got, want)

    def spy_ratio(error, size, right=parity._ratio):
        seen.append((np.float64(error), abs(float(size))))
        return right(error, size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "departure", spy_departure)
        patch.setattr(parity, "_ratio", spy_ratio)
        return rows(folder, reference), seen


def qwen_on_cpu():
    with open_model(QWEN) as source:
        return Model.from_file(source, open_backend("cpu", "fp32"))


@pytest.mark.numeric
def test_qwen2_predicts_what_pytorch_does(record_property):
    """14:2 heads, biases, a tiny embedding, theta 1e6, a tied head; 48 positions: at one alone
    neither RoPE nor the mask counts."""
    reference = read_reference(QWEN / "reference.npz")

    def predicted():
        model = qwen_on_cpu()
        decoder = model.decoder(1, 48, training=False)
        decoder.forward(reference["input_ids"].reshape(-1))
        return all_logits(model, decoder)
    (exact, got), want = in_both(predicted), reference["logits_last"][0]
    record_property("worst_cosine", float(worst_cosine(got, want)))
    assert_predicts(got, want, exact, got)
    assert departure(got, want) <= allowed(departure(got, exact), 1)


def assert_predicts(got, want, exact, own):
    """got is no further from want than twice what storing costs `own`; both measures are squares
    of an error, so twice is four times."""
    rounding = gamma(4 * want.shape[1]) + EPS[F32] ** 2  # of the measures, and of the logits
    assert 1 - worst_cosine(got, want) <= 4 * (1 - worst_cosine(own, exact)) + rounding
    assert worst_divergence(got, want) <= 4 * worst_divergence(own, exact) + rounding


@pytest.mark.numeric
def test_qwen2_gradients_equal_pytorch():
    """Loss and every gradient tensor of 47 next tokens."""
    reference = read_reference(QWEN / "reference.npz")
    ids = reference["input_ids"]

    def trained():
        trainer = Trainer(qwen_on_cpu(), 1, None, 47, OptimiserSettings())
        loss, _ = trainer.gradients(ids[:, :-1].copy(), ids[:, 1:].copy())
        return trainer.losses.copy(), loss, trainer.grads
    (exact, _, exact_grads), (losses, loss, grads) = in_both(trained)
    want = float(reference["window_loss"])
    assert abs(loss - want) <= allowed(np.abs(losses - exact).mean(), want)
    for name in qwen_on_cpu().table.tensors:
        error = departure(grads[name], reference[f"window_grad/{name}"])
        assert error <= allowed(departure(grads[name], exact_grads[name]), 1), name


# what the simulator takes in seconds; what the rooms of a GPU serve
TINY = ModelConfig("qwen2", 8, 1, 4, 2, 4, 12, 19, 64, 1e4, 1e-6, True)
WIDE = ModelConfig("qwen2", 192, 2, 14, 2, 64, 328, 1009, 256, 1e6, 1e-6, True)


def predictions(config, device, precision, length):
    """Logits at every position; biases are as large as what they are added to."""
    def weights():
        rng = np.random.default_rng(0)
        for name, row in build_table(config).tensors.items():
            mean, scale = ((1, 0.3) if name.endswith("norm.weight") else
                           (0, 1.0) if name.endswith(".bias") else (0, 0.2))
            yield name, (mean + scale * rng.standard_normal(row.shape)).astype(np.float32)
    source = SimpleNamespace(path="drawn here", config=config, weights=weights)
    model = Model.from_file(source, open_backend(device, precision), trainable=False)
    decoder = model.decoder(1, length, training=False)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, length).astype(np.int32)
    decoder.forward(model.backend.array(ids))
    return all_logits(model, decoder)


@pytest.mark.parametrize("config, precision, length", [
    pytest.param(TINY, "fp32", 34, marks=pytest.mark.sim, id="sim-fp32"),
    pytest.param(WIDE, "fp32", 131, marks=pytest.mark.gpu, id="gpu-fp32"),
    pytest.param(WIDE, "bf16", 131, marks=pytest.mark.gpu, id="gpu-bf16")])
def test_a_device_predicts_what_the_oracle_does(config, precision, length, record_property):
    """At every position, no further off than twice what the storage type costs the oracle."""
    with float64():
        want = predictions(config, "cpu", "fp32", length)
    own = predictions(config, "cpu", precision, length)
    got = predictions(config, "cuda", precision, length)
    record_property("worst_cosine", float(worst_cosine(got, want)))
    assert_predicts(got, want, want, own)


def departing(checks):
    return [row["name"] for row in checks if not row["ok"]]


@pytest.mark.numeric
def test_untied_llama_with_scaled_rope_equals_pytorch():
    checks, rounding = rows_and_rounding(LLAMA, read_reference(LLAMA / "reference.npz"))
    assert departing(checks) == []
    assert len(checks) == 123
    assert worst(checks) <= allowed(rounding, 1)  # what parity allows is two orders more


def worst(checks):
    return max(row["value"] for row in checks if row["limit"] < 1)


@pytest.mark.numeric
def test_a_llama_of_another_theta_and_eps_equals_pytorch(tmp_path):
    """The same weights: their own theta and eps are what code that fixes them fixes them at."""
    settings = json.loads((LLAMA / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"rope_theta": 5e5,
                                                                 "rms_norm_eps": 1e-3}))
    (tmp_path / "model.safetensors").symlink_to(LLAMA / "model.safetensors")
    reference = read_reference(LLAMA / "other.npz")
    assert reference["logits_last"].shape == (1, 48, 272)
    checks, rounding = rows_and_rounding(tmp_path, reference)
    assert departing(checks) == [] and worst(checks) <= allowed(rounding, 1)


def test_trained_qwen2_equals_pytorch():
    folder = shared("data", "qwen2-py-10m")
    checks = rows(folder, read_reference(folder / "reference.npz"))
    assert departing(checks) == []
    assert len(checks) == 179


@pytest.mark.parametrize("key, first", [
    ("hidden_first8", "activation after embedding"), ("logits_last", "logits"),
    ("heldout_losses", "held-out loss 0"), ("grad_loss", "gradient loss"),
    ("grad/model.layers.1.mlp.up_proj.weight", "gradient model.layers.1.mlp.up_proj.weight"),
    ("traj_loss", "step 0 loss"),
])
def test_a_reference_that_differs_by_a_percent_is_refused(key, first):
    reference = read_reference(LLAMA / "reference.npz")
    reference[key] = reference[key] * 1.01
    assert departing(rows(LLAMA, reference))[0] == first


def test_another_greedy_text_is_refused():
    reference = read_reference(LLAMA / "reference.npz")
    reference["greedy"][0, -1] ^= 1
    assert departing(rows(LLAMA, reference)) == ["greedy continuation, equal tokens"]


def test_every_key_is_optional():
    reference = read_reference(LLAMA / "reference.npz")
    only = {k: reference[k] for k in ("heldout_tokens", "heldout_losses")}
    assert [c["name"] for c in rows(LLAMA, only)] == [f"held-out loss {i}" for i in range(8)]


def test_json_report():
    result = CliRunner().invoke(group, ["parity", str(LLAMA), "--reference",
                                        str(LLAMA / "reference.npz"), "--device", "cpu", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["schema"] == "aprnb-parity-v1" and report["ok"] and len(report["checks"]) == 123


def exit_of(capsys, *args):
    with pytest.raises(SystemExit) as caught:
        main(["parity", *map(str, args)])
    return caught.value.code, capsys.readouterr().err


def test_bad_input(tmp_path, capsys):
    npz = LLAMA / "reference.npz"
    assert exit_of(capsys, LLAMA, "--reference", tmp_path / "absent.npz", "--device", "cpu") == (
        3, f"cpu, fp32: NumPy oracle; asked for\nerror: {tmp_path}/absent.npz: no such reference "
        "file\n")
    (tmp_path / "text.npz").write_text("no archive")
    assert exit_of(capsys, LLAMA, "--reference", tmp_path / "text.npz", "--device", "cpu")[0] == 4
    assert exit_of(capsys, LLAMA)[0] == 2
    assert exit_of(capsys, LLAMA, "--reference", npz, "--device", "gpu")[0] == 2
    assert exit_of(capsys, tmp_path / "absent", "--reference", npz)[0] == 3
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    code, message = exit_of(capsys, LLAMA, "--reference", tmp_path / "other.npz", "--device",
                            "cpu")
    assert code == 5 and "nothing was compared" in message


FOREIGN = {  # what is wrong -> (change of a good reference, words of the message)
    "another vocabulary": (lambda r: {"logits_last": r["logits_last"][..., :200]},
                           ["logits_last", "(2, 4, 200)", "(2, N, 272)"]),
    "another depth": (lambda r: {"hidden_mean": r["hidden_mean"][:-1]}, ["hidden_mean", "(3,)",
                                                                        "(4,)"]),
    "another batch": (lambda r: {"hidden_first8": r["hidden_first8"][:, :1]}, ["hidden_first8"]),
    "id beyond": (lambda r: {"input_ids": r["input_ids"] + 200}, ["input_ids", "271"]),
    "negative id": (lambda r: {"greedy": r["greedy"] - 1000}, ["greedy", "need 0 to 271"]),
    "no held-out tokens": (lambda r: {"heldout_tokens": None}, ["heldout_losses",
                                                                "heldout_tokens"]),
    "held-out tokens end": (lambda r: {"heldout_tokens": r["heldout_tokens"][:4000]},
                            ["heldout_tokens", "4000", "4104"]),
    "ids as floats": (lambda r: {"input_ids": r["input_ids"] * 1.0}, ["input_ids", "float64"]),
    "text": (lambda r: {"heldout_losses": np.array(["one"] * 8)}, ["heldout_losses", "<U3"]),
    "objects": (lambda r: {"traj_loss": np.array([None, 1])}, ["traj_loss", "Object"]),
    "no steps": (lambda r: {"traj_loss": np.zeros(0)}, ["traj_loss", "(0,)"]),
    "steps without norms": (lambda r: {"traj_gradnorm": r["traj_gradnorm"][:3]},
                            ["traj_gradnorm", "(3,)", "(20,)"]),
    "short continuation": (lambda r: {"greedy": r["greedy"][:, :64]}, ["greedy", "64", "65"]),
    "gradient of no tensor": (lambda r: {"grad/model.head": np.zeros(3)}, ["model.head"]),
    "gradient of another shape": (lambda r: {"grad/model.norm.weight": np.zeros(3)},
                                  ["grad/model.norm.weight", "(3,)", "(32,)"]),
    "gradients without loss": (lambda r: {"grad_loss": None}, ["grad", "needs grad_loss"]),
    "more logits than ids": (lambda r: {"logits_last": np.zeros((2, 129, 272))},
                             ["logits_last", "129", "128"]),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_reference_that_does_not_fit_is_named_by_its_key(case, tmp_path, capsys):
    change, words = FOREIGN[case]
    reference = read_reference(LLAMA / "reference.npz")
    reference |= change(reference)
    np.savez(tmp_path / "r.npz", **{k: v for k, v in reference.items() if v is not None})
    code, message = exit_of(capsys, LLAMA, "--reference", tmp_path / "r.npz", "--device", "cpu")
    assert code == 5 and "unexpected" not in message
    assert all(word in message for word in words), message


def test_a_file_that_is_no_archive_is_exit_4(tmp_path, capsys):
    np.save(tmp_path / "one.npy", np.zeros(3))
    whole = (LLAMA / "reference.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:len(whole) // 2])
    (tmp_path / "flipped.npz").write_bytes(whole[:3000] + b"#" * 2000 + whole[5000:])
    for name in ("one.npy", "cut.npz", "flipped.npz"):
        assert exit_of(capsys, LLAMA, "--reference", tmp_path / name, "--device", "cpu")[0] == 4


def test_a_value_that_is_no_number_is_null_in_json(tmp_path, capsys):
    reference = read_reference(LLAMA / "reference.npz")
    reference = {k: reference[k] for k in ("heldout_tokens", "heldout_losses")}
    reference["heldout_losses"][:2] = np.nan, 0
    np.savez(tmp_path / "r.npz", **reference)
    with pytest.raises(SystemExit) as caught:
        main(["parity", str(LLAMA), "--reference", str(tmp_path / "r.npz"), "--device", "cpu",
              "--json"])

    def refuse(word):
        raise ValueError(f"{word} is not JSON")
    report = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert caught.value.code == 5 and report["ok"] is False
    assert [row["value"] for row in report["checks"][:2]] == [None, None]
    assert [row["ok"] for row in report["checks"][:3]] == [False, False, True]


def test_a_departure_is_exit_5(tmp_path, capsys):
    reference = read_reference(LLAMA / "reference.npz")
    reference["logits_last"] += 0.1
    np.savez(tmp_path / "moved.npz", **reference)
    code, message = exit_of(capsys, LLAMA, "--reference", tmp_path / "moved.npz", "--device", "cpu")
    assert code == 5 and "first: logits" in message
