"""Parity with PyTorch: on a small Llama kept here, on the trained Qwen2 of the shared folder."""
import json

import numpy as np
import pytest
from click.testing import CliRunner
from shared import DATA, shared

from aprnb.backend import open_backend
from aprnb.cli import group, main
from aprnb.cli.parity import read_reference
from aprnb.formats.model_file import open_model
from aprnb.train.parity import compare_with_reference

LLAMA = DATA / "parity" / "llama-f16"


def rows(folder, reference, backend=None):
    with open_model(folder) as source:
        return compare_with_reference(source, backend or open_backend("cpu", "fp32"), reference)


def departing(checks):
    return [row["name"] for row in checks if not row["ok"]]


def test_untied_llama_with_scaled_rope_equals_pytorch():
    checks = rows(LLAMA, read_reference(LLAMA / "reference.npz"))
    assert departing(checks) == []
    assert len(checks) == 123
    worst = max(c["value"] for c in checks if c["limit"] < 1)
    assert worst < 1e-5  # float32 rounding; the limits leave two orders more


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


def test_a_departure_is_exit_5(tmp_path, capsys):
    reference = read_reference(LLAMA / "reference.npz")
    reference["logits_last"] += 0.1
    np.savez(tmp_path / "moved.npz", **reference)
    code, message = exit_of(capsys, LLAMA, "--reference", tmp_path / "moved.npz", "--device", "cpu")
    assert code == 5 and "first: logits" in message
