"""The run folder: what --force may replace, what a refusal leaves, one process at a time."""
import json
import os
import subprocess
import sys

import processes
import pytest
from runs import (aprnb, aprnb_here, arch, flags, leftovers, numbers, refused, shards,
                  text_shards, train)

from aprnb.errors import CheckError, FormatError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with data, config.json and the run `old` of 4 steps in epochs of 2."""
    folder = tmp_path_factory.mktemp("folder")
    train(folder, "old", num_steps=4, steps_per_epoch=2)
    return folder


def contents(folder):
    """{path: bytes} of every file below a folder."""
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---------------------------------------------------------------- --force

@pytest.mark.parametrize("given", [
    {"init": "old/ckpt/epoch-001.apr", "arch": None}, {"dataset": "old/shards"},
    {"val_shard": "old/shards"}, {"tokenizer": "old/tok.json"}, {"arch": "old/arch.json"},
    {"init": "link.apr", "arch": None}])
def test_force_never_clears_what_the_run_reads(base, given):
    if not (base / "old/shards").exists():
        shards(base / "old/shards", [1, 2, 3])
        (base / "link.apr").symlink_to(base / "old/ckpt/epoch-001.apr")
    before = contents(base / "old")
    values = {k: v and base / v for k, v in given.items()}
    result = aprnb_here("pretrain", *flags(base, "old", **values), "--force")
    refused(result, 5, "lies in the run folder", "--run-dir")
    assert contents(base / "old") == before


@pytest.mark.parametrize("name, text", [
    ("config.json", '{"model_type": "llama"}'), ("config.json", "[1]"), ("config.json", "no JSON"),
    ("metrics.jsonl", "{}"), ("ckpt/epoch-001.apr", "mine")])
def test_force_replaces_only_a_run(base, tmp_path, name, text):
    (tmp_path / "foreign/ckpt").mkdir(parents=True)
    (tmp_path / "foreign" / name).write_text(text)
    before = contents(tmp_path)
    given = flags(base, run_dir=tmp_path / "foreign")
    refused(aprnb_here("pretrain", *given, "--force"), 5, "foreign", "--run-dir")
    assert "--resume" not in aprnb_here("pretrain", *given).stderr
    assert contents(tmp_path) == before


def test_force_takes_a_folder_with_other_files_only(base):
    (base / "notes").mkdir()
    (base / "notes/a.txt").write_text("mine")
    assert train(base, "notes", num_steps=1, force=True)["status"] == "COMPLETED"
    assert (base / "notes/a.txt").read_text() == "mine"


def test_the_old_run_stays_until_the_new_one_can_be_written(base):
    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
    before = contents(base / "old")
    refused(aprnb("pretrain", *flags(base, "old"), "--force", preexec_fn=limit), 7, "config.json")
    assert contents(base / "old") == before and not leftovers(base / "old")


def test_a_run_without_a_state_is_not_told_to_resume(base):
    train(base, "stateless", num_steps=1)
    for file in (base / "stateless/ckpt").glob("state-*"):
        file.unlink()
    result = aprnb_here("pretrain", *flags(base, "stateless"))
    refused(result, 5, "--force")
    assert "--resume" not in result.stderr


def test_a_full_disk_before_the_first_state_does_not_advise_to_resume(tmp_path):
    text_shards(tmp_path / "data")
    arch(tmp_path / "config.json")

    def limit():
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    result = aprnb("pretrain", *flags(tmp_path), preexec_fn=limit)
    refused(result, 7, "state-000008.apr", "no state to resume from", "--force")
    assert "--resume" not in result.stderr.split("error:")[1]


# ---------------------------------------------------------------- --resume

def test_a_refused_resume_changes_nothing(base):
    train(base, "refused", num_steps=4)
    (base / "refused/metrics.jsonl").rename(base / "metrics.jsonl")
    before = contents(base / "refused")
    with pytest.raises(CheckError, match="metrics.jsonl: is missing"):
        train(base, "refused", resume=True)
    assert contents(base / "refused") == before
    (base / "refused/metrics.jsonl").write_text("{}\n")
    before = contents(base / "refused")
    with pytest.raises(CheckError, match="line 1 lacks step, loss_nats"):
        train(base, "refused", resume=True)
    assert contents(base / "refused") == before


def test_a_damaged_newest_state_is_named_with_the_older_one(base):
    report = train(base, "damaged", num_steps=4, steps_per_epoch=2)
    newest = base / "damaged/ckpt/state-000004.apr"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(FormatError, match="state-000004.apr.* go on from the one before with "
                                          "--resume state-000002.apr"):
        train(base, "damaged", resume=True)
    assert numbers(train(base, "damaged", resume="state-000002.apr")) == numbers(report)
    (base / "damaged/ckpt/state-000002.apr").unlink()
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(FormatError, match="no older state"):
        train(base, "damaged", resume=True)


# ---------------------------------------------------------------- one process at a time

def test_a_second_process_on_one_folder_is_refused(base):
    """The first is a real process in the middle of its steps; killed, it frees the folder."""
    command = [sys.executable, "-m", "aprnb", "pretrain",
               *flags(base, "held", num_steps=100_000, steps_per_epoch=3), "--json"]
    with processes.started(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           text=True) as first:
        while not (line := first.stderr.readline()).startswith("step     5"):
            assert line, "the run ended"
        for more in (flags(base, "held"), [*flags(base, "held"), "--force"],
                     ["--run-dir", base / "held", "--resume"]):
            refused(aprnb_here("pretrain", *more), 5, "held", "another pretrain")
        first.kill()
        first.communicate()
    assert train(base, "held", resume=True, num_steps=20)["steps_recorded"] == 20
    records = [json.loads(line)["step"] for line in open(base / "held/metrics.jsonl")]
    assert records == list(range(20))


def test_a_folder_that_another_process_made_meanwhile_is_refused(base, monkeypatch):
    from aprnb.train import run

    def meanwhile(*arguments, real=run.config_json):
        os.mkdir(base / "faster")
        (base / "faster/config.json").write_text("theirs")
        return real(*arguments)
    monkeypatch.setattr(run, "config_json", meanwhile)
    with pytest.raises(CheckError, match="exists already"):
        train(base, "faster")
    assert os.listdir(base / "faster") == ["config.json"]
