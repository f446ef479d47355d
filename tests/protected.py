"""A run whose files are damaged beside its state, and what tests ask of it."""
import json

import pytest
from runs import train

from aprnb.formats.apr import read_apr, write_apr


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with the run `whole` of 20 steps."""
    folder = tmp_path_factory.mktemp("protected")
    train(folder, "whole")
    return folder


@pytest.fixture
def half(base, request):
    """(folder, name) of a run of 12 of 20 steps, horizon 20, to be damaged."""
    name = request.node.name.replace("/", "-")
    train(base, name, num_steps=12, schedule_steps=20)
    return base, name


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def edit(run, **values):
    """Type other values into config.json."""
    config = json.loads((run / "config.json").read_text())
    for name, value in values.items():
        config["settings"][name]["value"] = value
    (run / "config.json").write_text(json.dumps(config))


def events(run, kind):
    found = [json.loads(line) for line in open(run / "events.jsonl")]
    return [event for event in found if event["event"] == kind]


def longer(base, name, **given):
    return train(base, name, resume=True, num_steps=20, **given)


def older(run, settings=True, lacks=("schedule_steps", "keep_best")):
    """Make the newest state one of a version that stored no records, or no settings either, and
    config.json one that lacks some settings, as the state does.
    """
    path = max((run / "ckpt").glob("state-*"))
    with read_apr(path) as file:
        metadata = {k: v for k, v in file.metadata.items() if settings or k != "training_settings"}
        if settings:
            metadata["training_settings"] = {
                k: v for k, v in metadata["training_settings"].items()
                if k not in lacks}
        tensors = {n: file.array(n) for n in file.tensors if n != "__training__.records"}
    write_apr(path, metadata, tensors, force=True)
    config = json.loads((run / "config.json").read_text())
    for name in lacks:
        del config["settings"][name]
    (run / "config.json").write_text(json.dumps(config))
