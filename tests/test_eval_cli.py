"""`aprnb eval`: losses equal those of another framework, bits per byte by hand, refusals."""
import json
import math
import os
from types import SimpleNamespace

import numpy as np
import pytest
from corpora import small_tokenizer, stdlib_ids
from exact import loss_rounding
from runs import SEQ, aprnb, aprnb_here, refused, shards, text_shards, train
from shared import shared
from tolerance import allowed, gamma

from aprnb.train.score import window_length


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a trained small model, with (run) and without a tokenizer (bare)."""
    folder = tmp_path_factory.mktemp("eval")
    (folder / "tok").mkdir()
    small_tokenizer().save(folder / "tok")
    text_shards(folder / "data")
    train(folder, tokenizer=str(folder / "tok"), num_steps=4)
    train(folder, "bare", num_steps=4)
    return folder


def evaluated(model, dataset, *more, seq=SEQ):
    result = aprnb_here("eval", model, "--dataset", dataset, "--seq-length", seq, "--device", "cpu",
                   "--json", *more)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def checkpoint(base, name="run"):
    return base / name / "ckpt/epoch-000.apr"


def test_the_report_has_the_keys_of_the_interface(base):
    report = evaluated(checkpoint(base), base / "data")
    assert report["schema"] == "aprnb-eval-v1"
    assert report["windows"] == 36 and report["tokens"] == 36 * SEQ
    assert report["ln_vocab"] == math.log(1024)
    assert report["ppl"] == math.exp(report["loss_nats"])


def test_held_out_losses_of_the_trained_model_are_those_of_transformers(tmp_path):
    folder = shared("data", "qwen2-py-10m")
    reference = np.load(folder / "reference.npz")
    shards(tmp_path / "data", reference["heldout_tokens"][:8 * 513])
    report = evaluated(folder, tmp_path / "data", seq=512)
    want = reference["heldout_losses"].mean()
    limit = allowed(loss_rounding(folder, tmp_path / "data", 512), want)
    assert abs(report["loss_nats"] - want) <= limit
    assert report["windows"] == 8


def test_the_loss_does_not_depend_on_the_batch_size(base):
    losses = [evaluated(checkpoint(base), base / "data", "--batch-size", n)["loss_nats"]
              for n in (1, 5, 36)]
    limit = allowed(loss_rounding(checkpoint(base), base / "data", SEQ), losses[0])
    assert losses == pytest.approx([losses[0]] * 3, rel=0, abs=limit)


def test_max_batches_reads_the_first_windows(base):
    report = evaluated(checkpoint(base), base / "data", "--batch-size", 5, "--max-batches", 2)
    assert (report["windows"], report["tokens"]) == (10, 10 * SEQ)
    shards(base / "ten", stdlib_ids()[:10 * 33])
    ten = evaluated(checkpoint(base), base / "ten")
    limit = allowed(loss_rounding(checkpoint(base), base / "ten", SEQ), report["loss_nats"])
    assert abs(ten["loss_nats"] - report["loss_nats"]) <= limit


def test_bits_per_byte_counts_the_bytes_of_the_target_tokens(base):
    ids = stdlib_ids()
    end = int(np.flatnonzero(ids == 0)[0])  # an end of text among the targets stands for no byte
    shards(base / "ends", ids[end - 300:end + 294])
    windows = ids[end - 300:end + 294].reshape(18, 33)
    report = evaluated(checkpoint(base), base / "ends")
    assert (windows[:, 1:] == 0).any()
    text = "".join(small_tokenizer().decode(window[1:][window[1:] != 0]) for window in windows)
    assert "\ufffd" not in text  # else bytes could not be counted from the text
    bits = report["loss_nats"] * report["tokens"] / math.log(2)
    assert report["bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=gamma(8))


def test_bits_per_byte_is_null_without_tokenizer_and_counts(base):
    assert evaluated(checkpoint(base, "bare"), base / "data")["bits_per_byte"] is None


def test_bits_per_byte_from_the_counts_of_the_manifest(base):
    shards(base / "counted", stdlib_ids()[:1200], manifest=True)
    manifest = json.loads((base / "counted/manifest.json").read_text())
    manifest["shards"][0]["bytes"] = 3600
    (base / "counted/manifest.json").write_text(json.dumps(manifest))
    report = evaluated(checkpoint(base, "bare"), base / "counted")
    want = report["loss_nats"] / math.log(2) / 3
    assert report["bits_per_byte"] == pytest.approx(want, rel=gamma(8))


def test_text_mode_says_loss_beside_ln_v(base):
    result = aprnb("eval", checkpoint(base), "--dataset", base / "data", "--seq-length", SEQ,
                   "--device", "cpu")
    assert result.returncode == 0
    assert "nats per token" in result.stdout and "ln V = 6.9315" in result.stdout


def test_the_length_of_a_window_is_that_of_the_training_where_none_is_given(base):
    want = evaluated(checkpoint(base), base / "data")
    result = aprnb_here("eval", checkpoint(base), "--dataset", base / "data", "--device", "cpu",
                        "--json")
    assert json.loads(result.stdout) == want | {
        "seq_length_from": "the length that the model was trained with"}
    said = aprnb_here("eval", checkpoint(base), "--dataset", base / "data", "--device", "cpu")
    assert f"of {SEQ} targets (the length that the model was trained with)" in said.stdout


@pytest.mark.parametrize("trained, positions, length", [
    (32, 64, 32), (64, 64, 64), (65, 64, 64), (0, 64, 64), (True, 64, 64), (None, 64, 64),
    ("32", 64, 64), (None, 2048, 2048), (None, 2049, 2048), (3000, 4096, 3000)])
def test_a_length_that_the_model_cannot_have_is_not_taken(trained, positions, length):
    source = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=positions),
                             metadata={"training_settings": {"seq_length": trained}})
    assert window_length(source)[0] == length
    assert window_length(SimpleNamespace(config=source.config, metadata={}))[0] == min(
        positions, 2048)


@pytest.mark.parametrize("model, dataset, seq, more, code, words", [
    ("absent.apr", "data", SEQ, [], 3, ["absent.apr"]),
    (None, "absent", SEQ, [], 3, ["absent"]),
    ("cut.apr", "data", SEQ, [], 4, ["cut.apr"]),
    (None, "short", SEQ, [], 5, ["no window"]),
    (None, "constant", SEQ, [], 5, ["every token has id 3"]),
    (None, "large", SEQ, [], 5, ["id 5000"]),
    (None, "data", 65, [], 6, ["65", "64"]),
    (None, "data", SEQ, ["--device", "cpu:0"], 2, ["--device"]),
])
def test_bad_input(base, tmp_path, model, dataset, seq, more, code, words):
    (base / "cut.apr").write_bytes(checkpoint(base).read_bytes()[:-64])
    for name, ids in (("short", [1, 2, 3]), ("constant", [3] * 500),
                      ("large", [*stdlib_ids()[:500], 5000])):
        if not (base / name).exists():
            shards(base / name, ids)
    result = aprnb_here("eval", base / model if model else checkpoint(base), "--dataset",
                   base / dataset, "--seq-length", seq, "--device", "cpu", "--json", *more)
    refused(result, code, *words)
    assert result.stdout == ""


def test_usage(base):
    for more in (["--seq-length", "0"], ["--seq-length", "x"], ["--no-such"]):
        assert aprnb_here("eval", checkpoint(base), "--dataset", base / "data",
                     *more).returncode == 2


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_absent_is_14(base):
    refused(aprnb("eval", checkpoint(base), "--dataset", base / "data", "--seq-length", SEQ,
                  "--device", "cuda:1"), 14)
