"""`aprnb pretrain` as a user meets it: what a run leaves, how it ends, what it refuses."""
import json
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import hf_fixture
import numpy as np
import processes
import pytest
from corpora import small_tokenizer, stdlib_ids
from runs import (SETTINGS, aprnb, aprnb_here, arch, flags, leftovers, numbers, refused, shards,
                  text_shards, train)
from shared import shared

from aprnb.train.metrics import FIELDS
from exact import float64
from tolerance import F32, allowed, gamma


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with `data`, `config.json` and the tokenizer that made the data."""
    folder = tmp_path_factory.mktemp("pretrain")
    text_shards(folder / "data")
    arch(folder / "config.json")
    (folder / "tok").mkdir()
    small_tokenizer().save(folder / "tok")
    return folder


@pytest.fixture(scope="module")
def finished(base):
    """(completed process with --json, run folder) of a whole run."""
    result = aprnb("pretrain", *flags(base, tokenizer=base / "tok"), "--json")
    assert result.returncode == 0, result.stderr
    return result, base / "run"


# ---------------------------------------------------------------- a whole run

def test_json_is_one_document_with_the_keys_of_the_interface(finished):
    result, folder = finished
    report = json.loads(result.stdout)
    assert report["schema"] == "aprnb-pretrain-v1"
    assert (report["status"], report["exit_code"]) == ("COMPLETED", 0)
    assert {"detail", "final_val_loss", "val_loss_history", "epochs_completed", "steps_recorded",
            "per_step_metrics", "run_dir", "checkpoint", "preflight"} <= report.keys()
    assert report["epochs_completed"] == len(report["val_loss_history"]) == 3
    assert report["final_val_loss"] == report["val_loss_history"][-1]
    assert report == json.loads((folder / "summary.json").read_text())


def test_records_are_those_of_metrics_jsonl_and_the_loss_falls(finished):
    result, folder = finished
    records = json.loads(result.stdout)["per_step_metrics"]
    assert records == [json.loads(line) for line in open(folder / "metrics.jsonl")]
    assert [r["step"] for r in records] == list(range(20))
    assert all(tuple(r) == FIELDS for r in records)
    assert records[0]["loss_nats"] == pytest.approx(math.log(1024), rel=0.02)  # random weights
    assert records[-1]["loss_nats"] < records[0]["loss_nats"] - 0.1


def test_the_logged_rate_is_the_schedule(finished):
    from aprnb.train.schedule import Schedule
    schedule = Schedule("cosine", 3e-3, 3e-3 / 10, 2, 20)
    rates = [r["lr"] for r in json.loads(finished[0].stdout)["per_step_metrics"]]
    assert rates == [schedule.rate(s) for s in range(20)]


def test_the_logged_rate_is_applied(base):
    """Fault 8. AdamW's first step moves weights by its rate, whatever the gradient (no decay)."""
    from aprnb.backend import open_backend
    from aprnb.formats.apr import read_apr
    from aprnb.formats.model_file import open_model
    from aprnb.model.instance import Model
    report = train(base, "rate", num_steps=1, warmup_steps=2, weight_decay=0.0)
    logged = report["per_step_metrics"][0]["lr"]
    with open_model(report["checkpoint"]) as after, read_apr(report["checkpoint"]) as file:
        seed = file.metadata["training_settings"]["seed"]
        before = Model.random(after.config, open_backend("cpu"), seed).tensors()
        moved = {name: abs(array - before[name]).max() for name, array in after.weights()}
        largest = max(float(abs(array).max()) for array in before.values())
        count = sum(array.size for array in before.values())
    assert logged == 3e-3 / 3
    # the largest of n gradients is the norm's 1/root n or more, far above eps; the rest is rounding
    norm = min(1, report["per_step_metrics"][0]["grad_norm"])
    limit = logged * (1e-8 * count ** 0.5 / norm + gamma(16, F32)) + gamma(4, F32) * largest
    assert max(moved.values()) == pytest.approx(logged, rel=0, abs=limit)


def test_config_names_every_value_and_where_it_came_from(finished):
    config = json.loads((finished[1] / "config.json").read_text())
    rows = config["settings"]
    assert rows["lr"] == {"value": 3e-3, "from": "flag"}
    assert rows["beta2"] == {"value": 0.95, "from": "default"}
    assert rows["warmup_steps"] == {"value": 2, "from": "mode default"}
    assert rows["max_epoch0_loss"]["value"] == 2 * math.log(1024)
    assert rows["micro_batch"] == {"value": 4, "from": "chosen"}
    assert set(rows) >= set(SETTINGS) and config["device"]["name"] == "cpu"


def test_events_tell_of_new_passes_and_checkpoints(finished):
    events = [json.loads(line) for line in open(finished[1] / "events.jsonl")]
    kinds = [e["event"] for e in events]
    assert kinds[0] == "start" and kinds[-1] == "end" and kinds.count("checkpoint") == 3
    passes = [e["pass_number"] for e in events if e["event"] == "new_pass"]
    assert passes == [1, 2]
    data = next(e for e in events if e["event"] == "data")
    assert data["train_windows"] + data["val_windows"] == 2 * (600 // 33)
    assert data["repeated_windows"] == 0
    assert "end of the data" in finished[0].stderr


def test_the_picture_is_xml_with_a_point_a_step_one_an_epoch_and_one_before(finished):
    root = ET.parse(finished[1] / "loss.svg").getroot()
    lines = {e.get("id"): len(e.get("points").split())
             for e in root.iter("{http://www.w3.org/2000/svg}polyline")}
    assert lines == {"train": 20, "validation": 1 + 3}


def test_the_start_says_configuration_device_and_ln_v(finished):
    said = finished[0].stderr
    for words in ("lr 0.003 (flag)", "warmup_steps 2 (mode default)", "cpu, fp32",
                  "ln V = 6.9315", "step     1/20 | loss", "tok/s", "under-trained"):
        assert words in said, words


def test_text_mode_ends_with_the_files(base):
    result = aprnb("pretrain", *flags(base, "text", num_steps=2))
    assert result.returncode == 0
    assert "COMPLETED: 2 steps" in result.stdout and str(base / "text/loss.svg") in result.stdout
    quiet = aprnb_here("pretrain", *flags(base, "quiet", num_steps=2), "--quiet")
    assert "COMPLETED" in quiet.stdout and "step " not in quiet.stdout


def test_a_terminal_shows_a_bar(base):
    """The stream is a pseudo-terminal of 80 columns."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "aprnb", "pretrain", *flags(base, "bar", num_steps=3)]
    with processes.started(command, stdout=theirs, stderr=subprocess.DEVNULL,
                           env={**os.environ, "COLUMNS": "80", "TERM": "xterm"}) as p:
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:  # how Linux says that the other end was closed
            pass
        p.wait()
    os.close(ours)
    assert p.returncode == 0
    assert b"step 3/3" in said and "━".encode() in said and b"COMPLETED" in said
    assert b"| norm" not in said  # the line of a pipe


def test_the_checkpoint_speaks_and_is_evaluated(base, finished):
    checkpoint = finished[1] / "ckpt/epoch-002.apr"
    result = aprnb("run", checkpoint, "import", "--max-tokens", 4, "--device", "cpu", "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["tokens"]


@pytest.mark.numeric
def test_the_loss_does_not_depend_on_the_micro_batch(base, finished):
    whole = json.loads(finished[0].stdout)["per_step_metrics"]
    cut = train(base, "micro", micro_batch=1, num_steps=5, warmup_steps=2, schedule="constant")
    ref = train(base, "ref", micro_batch=4, num_steps=5, warmup_steps=2, schedule="constant")
    losses = [[r["loss_nats"] for r in report["per_step_metrics"]] for report in (cut, ref)]
    with float64():
        exact = train(base, "exact", micro_batch=4, num_steps=5, warmup_steps=2,
                      schedule="constant")
    exact = [r["loss_nats"] for r in exact["per_step_metrics"]]
    own = max(abs(a - b) for a, b in zip(losses[1], exact, strict=True))
    assert losses[0] == pytest.approx(exact, rel=0, abs=allowed(own, math.log(1024)))
    assert losses[1][0] == whole[0]["loss_nats"]


def test_the_judged_trajectory(tmp_path):
    """20 AdamW steps of the trained 10M checkpoint, as PyTorch took them."""
    folder = shared("data", "qwen2-py-10m")
    reference = np.load(folder / "reference.npz")
    held_out = reference["heldout_tokens"]
    shards(tmp_path / "data", held_out[:8 * 513].reshape(8, 513)[:, :256].reshape(-1))
    shards(tmp_path / "val", held_out[8 * 513:8 * 513 + 4 * 256])
    assert aprnb("import", folder, "-o", tmp_path / "x.apr").returncode == 0
    result = aprnb("pretrain", "--init", tmp_path / "x.apr", "--dataset", tmp_path / "data",
                   "--run-dir", tmp_path / "run", "--order", "sequential", "--seq-length", 255,
                   "--batch-size", 2, "--num-steps", 20, "--lr", "3e-4", "--schedule", "constant",
                   "--warmup-steps", 0, "--beta2", 0.95, "--weight-decay", 0.1, "--decay-on",
                   "all", "--grad-clip", 1.0, "--val-shard", tmp_path / "val", "--val-batches", 1,
                   "--device", "cpu", "--json")
    assert result.returncode == 0, result.stderr
    records = json.loads(result.stdout)["per_step_metrics"]
    assert [r["loss_nats"] for r in records] == pytest.approx(reference["traj_loss"], rel=1e-3)
    assert [r["grad_norm"] for r in records] == pytest.approx(reference["traj_gradnorm"], rel=1e-3)
    assert {r["lr"] for r in records} == {3e-4}


# ---------------------------------------------------------------- refusals

def test_usage_errors_are_2_and_leave_nothing(base):
    for extra in (["--schedule", "step"], ["--num-steps", "many"], ["--lr", "-1"],
                  ["--no-such-flag"], ["--micro-batch", "3"], ["--device", "gpu"],
                  ["--micro-batch", "some"], ["--resume", "--force"]):
        result = aprnb_here("pretrain", *flags(base, "usage"), *extra)
        assert result.returncode == 2 and "Traceback" not in result.stderr, extra
    result = aprnb_here("pretrain", *flags(base, "usage", arch=None))
    refused(result, 2, "--init", "--arch")
    assert not (base / "usage").exists()


@pytest.mark.parametrize("given, code, words", [
    ({"dataset": "absent"}, 3, ["absent"]),
    ({"arch": None, "init": "absent.apr"}, 3, ["absent.apr"]),
    ({"tokenizer": "absent.json"}, 3, ["absent.json"]),
    ({"val_shard": "absent"}, 3, ["absent"]),
    ({"arch": "absent.json"}, 3, ["absent.json"]),
    ({"arch": "qwen9"}, 2, ["qwen9", "tiny"]),
    ({"dataset": "empty"}, 5, ["empty"]),
    ({"dataset": "one"}, 5, ["CORPUS-PREFLIGHT", "every token has id 7"]),
    ({"dataset": "mostly"}, 5, ["CORPUS-PREFLIGHT", "at most 99%"]),
    ({"dataset": "large"}, 5, ["CORPUS-PREFLIGHT", "token 500", "id 1024"]),
    ({"val_shard": "large"}, 5, ["CORPUS-PREFLIGHT", "id 1024"]),
    ({"dataset": "short"}, 5, ["no window"]),
    ({"dataset": "odd"}, 5, ["truncated"]),
    ({"dataset": "edited"}, 5, ["CRC-32"]),
    ({"dataset": "foreign", "tokenizer": "tok"}, 5, ["tokenizer"]),
    ({"batch_size": 1000}, 5, ["--batch-size"]),
    ({"tokenizer": "tok", "arch": "small.json"}, 6, ["1024", "272"]),
    ({"arch": "incomplete.json"}, 6, ["rms_norm_eps"]),
    ({"seq_length": 65}, 6, ["--seq-length 65", "64"]),
    ({"arch": None, "init": "cut.apr"}, 4, ["cut.apr"]),
    ({"arch": None, "init": "flipped.apr"}, 4, ["flipped.apr", "checksum"]),
    ({"arch": None, "init": "magic.apr"}, 4, ["magic.apr"]),
    ({"tokenizer": "broken.json"}, 4, ["broken.json"]),
])
def test_bad_input(base, finished, bad_inputs, given, code, words):
    values = {k: v if k in ("batch_size", "seq_length") or v in (None, "qwen9") else bad_inputs / v
              for k, v in given.items()}
    result = aprnb_here("pretrain", *flags(base, "refused", **values), "--json")
    refused(result, code, *words)
    assert result.stdout == "" and not (base / "refused").exists()


@pytest.fixture(scope="module")
def bad_inputs(base, finished, tmp_path_factory):
    """One of every file that has to be refused."""
    from aprnb.data.shards import repair_manifest
    from aprnb.data.tokenizer import train_bpe
    folder = tmp_path_factory.mktemp("bad")
    ids = stdlib_ids()[:6000]
    (folder / "empty").mkdir()
    shards(folder / "one", np.full(3000, 7))
    mostly = np.full(3000, 7)
    mostly[::200] = ids[:15]
    shards(folder / "mostly", mostly)
    large = ids.copy()
    large[500] = 1024
    shards(folder / "large", large)
    shards(folder / "short", ids[:20], ids[:30])
    shards(folder / "odd", ids)
    (folder / "odd/shard-00000.bin").write_bytes(ids.tobytes()[:-1])
    shards(folder / "edited", ids, manifest=True)
    (folder / "edited/shard-00000.bin").write_bytes(ids[::-1].tobytes())
    shards(folder / "foreign", ids)
    repair_manifest(folder / "foreign", train_bpe(iter(["another text " * 50]), 300))
    (folder / "tok").symlink_to(base / "tok")
    arch(folder / "small.json").write_text(json.dumps(hf_fixture.config(vocab_size=272)))
    arch(folder / "incomplete.json", rms_norm_eps=None)
    (folder / "broken.json").write_text('{"model": ')
    good = (finished[1] / "ckpt/epoch-002.apr").read_bytes()
    (folder / "cut.apr").write_bytes(good[:-100])
    (folder / "flipped.apr").write_bytes(good[:-200] + bytes([good[-200] ^ 4]) + good[-199:])
    (folder / "magic.apr").write_bytes(b"GGUF" + good[4:])
    return folder


def test_an_existing_run_folder_is_left_as_it_is(base, finished):
    before = {p: p.read_bytes() for p in finished[1].rglob("*") if p.is_file()}
    refused(aprnb_here("pretrain", *flags(base)), 5, "--resume", "--force")
    assert {p: p.read_bytes() for p in finished[1].rglob("*") if p.is_file()} == before
    (base / "file").write_text("mine")
    refused(aprnb_here("pretrain", *flags(base, "file"), "--force"), 5, "is a file")
    assert (base / "file").read_text() == "mine"


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="there is a GPU")
def test_a_gpu_that_is_asked_for_and_absent_is_14(base):
    refused(aprnb("pretrain", *flags(base, "gpu", device="cuda")), 14)
    assert not (base / "gpu").exists()


def test_weights_that_are_nan_are_8(base, tmp_path):
    tensors = hf_fixture.tensors(dtype="F32")
    tensors["model.norm.weight"][3] = np.nan
    folder = hf_fixture.folder(tmp_path / "model", tensors, hf_fixture.config(), tokenizer=False)
    shards(tmp_path / "data", stdlib_ids()[:6000] % 272)
    result = aprnb_here("pretrain", *flags(tmp_path, arch=None, init=folder))
    refused(result, 8, "model.norm.weight")


def test_repeats_and_shared_windows_only_warn(base, tmp_path):
    ids = stdlib_ids()[:33 * 40]
    shards(tmp_path / "data", ids, ids)
    shards(tmp_path / "val", ids[:33 * 5])
    result = aprnb_here("pretrain", *flags(base, "repeats", dataset=tmp_path / "data", num_steps=2,
                                      val_shard=tmp_path / "val"))
    assert result.returncode == 0
    assert "40 of 80 windows repeat" in result.stderr
    assert "5 of 5 validation windows also stand in the training data" in result.stderr
    events = [json.loads(line) for line in open(base / "repeats/events.jsonl")]
    data = next(e for e in events if e["event"] == "data")
    assert (data["repeated_windows"], data["shared_windows"]) == (40, 5)


def test_a_warm_up_that_never_ends_is_warned_about(base):
    result = aprnb_here("pretrain", *flags(base, "warm", num_steps=2, warmup_steps=2))
    assert result.returncode == 0
    assert "warning: --warmup-steps 2 takes all of --num-steps 2" in result.stderr
    events = [json.loads(line) for line in open(base / "warm/events.jsonl")]
    assert any("never reaches --lr 0.003, the highest is 0.002" in e.get("text", "")
               for e in events)
    report = json.loads((base / "warm/summary.json").read_text())
    assert max(r["lr"] for r in report["per_step_metrics"]) == pytest.approx(0.002, rel=gamma(8))
    result = aprnb_here("pretrain", *flags(base, "warm", num_steps=3, warmup_steps=2), "--force")
    assert result.returncode == 0 and "--warmup-steps" not in result.stderr


def test_host_memory_that_is_not_there_is_12(base):
    """A limit on the address space that the embedding alone exceeds."""
    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    large = arch(base / "large.json")
    large.write_text(json.dumps(hf_fixture.config(
        vocab_size=500_000, hidden_size=4096, num_attention_heads=32, num_key_value_heads=32)))
    result = aprnb("pretrain", *flags(base, "memory", arch=large), preexec_fn=limit)
    refused(result, 12, "host memory", "--micro-batch", "--seq-length")
    assert not (base / "memory").exists()


# ---------------------------------------------------------------- full disk

LIMITED = """
import resource, sys
from pathlib import Path
from runs import train
def limit(record):
    if record["step"] == 9:  # metrics.jsonl still fits, a checkpoint does not
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
from aprnb.cli import describe
try:
    train(Path(sys.argv[1]), at_step=limit)
except Exception as error:
    message, code = describe(error)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
"""


def intact_after_full_disk(base, *more):
    """The first epoch's checkpoint opens, nothing temporary is left, and the run can go on."""
    from aprnb.formats.apr import read_apr
    names = sorted(p.name for p in (base / "run/ckpt").iterdir())
    assert names == ["epoch-000.apr", "epoch-000.metadata.json", "state-000008.apr", *more]
    for name in (names[0], *names[2:]):
        read_apr(base / "run/ckpt" / name).close()
    assert not leftovers(base)


def test_a_run_folder_that_cannot_be_begun_is_7_and_goes_away(base):
    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    result = aprnb("pretrain", *flags(base, "nested/deep/run"), preexec_fn=limit)
    refused(result, 7, "config.json")
    assert not (base / "nested").exists()


def test_a_checkpoint_that_cannot_be_written_is_7(tmp_path):
    text_shards(tmp_path / "data")
    arch(tmp_path / "config.json")
    result = processes.run([sys.executable, "-c", LIMITED, tmp_path],
                           cwd=os.path.dirname(__file__))
    refused(result, 7, "state-000016.apr", "bytes", "last good checkpoint", "epoch-000.apr")
    intact_after_full_disk(tmp_path)
    whole = train(tmp_path, "whole")
    assert numbers(train(tmp_path, resume=True)) == numbers(whole)


def test_a_full_disk_is_7(tmp_path):
    """A real file system that holds an epoch and two states, and half of the next epoch."""
    sizes = train(tmp_path, "size", num_steps=1) and sum(
        f.stat().st_size for f in (tmp_path / "size").rglob("*.apr"))
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = processes.run(["mount", "-t", "tmpfs", "-o", f"size={sizes * 15 // 8}", "tmpfs",
                             disk])
    if mounted.returncode:
        pytest.skip("a tmpfs cannot be mounted here")
    try:
        result = aprnb("pretrain", *flags(tmp_path, "disk/run"))
        refused(result, 7, "No space left", "epoch-001.apr", "last good checkpoint")
        intact_after_full_disk(disk, "state-000016.apr")
    finally:
        processes.run(["umount", disk], check=True)
