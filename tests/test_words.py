"""Words of messages: numbers with their nouns, and what is said of files that are not there."""
import json

import pytest
from runs import aprnb_here, arch, flags, text_shards, train

from aprnb.cli.pretrain import without_checkpoint
from aprnb.train.position import Position, at_stake
from aprnb.words import counted


def test_a_number_agrees_with_its_noun():
    assert [counted(n, "step") for n in (0, 1, 2, 1024)] == ["0 steps", "1 step", "2 steps",
                                                            "1,024 steps"]
    assert [counted(n, "entry") for n in (1, 2)] == ["1 entry", "2 entries"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    text_shards(folder / "data")
    arch(folder / "config.json")
    return folder


def test_a_run_of_one_step_says_so(base):
    report = train(base, "one", num_steps=1)
    assert report["detail"] == "1 step; no target was given"
    assert "1 step on cpu" in (base / "one/loss.svg").read_text()
    assert at_stake(Position(step=1), None, None) == (
        "1 step, all of the run: no state was saved yet")


def test_a_checkpoint_that_was_never_written_is_not_said_to_be_gone(base):
    args = flags(base, "diverged", max_epoch0_loss=0.5)
    said = aprnb_here("pretrain", *args).stdout
    assert "no checkpoint was written, the run was stopped by that evaluation" in said
    assert "not there any more" not in said
    summary = json.loads((base / "diverged/summary.json").read_text())
    assert without_checkpoint({"epoch": 0}, summary | {"epochs_completed": 1}) == (
        "its checkpoint is not there any more")
