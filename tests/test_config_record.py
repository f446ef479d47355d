"""config.json of a run, part by part: what was removed, emptied or edited is found at a resume."""
import copy
import json
from pathlib import Path

import pytest
from protected import base, contents  # noqa: F401
from runs import Watcher, train

from aprnb.errors import CheckError


def parts(value, path=()):
    """Dotted path of every part of an object, objects themselves too."""
    for name, inner in value.items():
        yield (*path, name)
        if isinstance(inner, dict):
            yield from parts(inner, (*path, name))


def damaged(config, path, how):
    """A copy in which one part is gone, empty or another."""
    config = copy.deepcopy(config)
    place = config
    for name in path[:-1]:
        place = place[name]
    if how == "gone":
        del place[path[-1]]
    else:
        old = place[path[-1]]
        place[path[-1]] = {"empty": {} if isinstance(old, dict) else "",
                           "another": "x" if isinstance(old, dict) else {"was": old}}[how]
    return config


@pytest.fixture
def file(base):
    """The config.json of a complete run, put back afterwards."""
    path = base / "whole" / "config.json"
    kept = path.read_text()
    yield path
    path.write_text(kept)


@pytest.mark.parametrize("how", ["gone", "empty", "another"])
@pytest.mark.parametrize("record", ["schema", "aprnb", "settings", "device", "model"])
def test_a_damaged_record_is_refused_by_name_before_anything_is_written(base, file, record, how):
    config = json.loads(file.read_text())
    found = [path for path in parts(config) if path[0] == record and (len(path) < 3 or record !=
             "settings" or path[1] in ("lr", "dataset", "keep", "kernels"))]
    assert len(found) >= {"settings": 40, "device": 4, "model": 16}.get(record, 1)
    for path in found:
        if how == "another" and path[0] == "settings" and path[-1] == "from":
            continue  # tried as empty
        file.write_text(json.dumps(damaged(config, path, how)))
        before = contents(base / "whole")
        with pytest.raises(CheckError) as caught:
            train(base, "whole", resume=True)
        assert contents(base / "whole") == before, path
        said = str(caught.value)
        assert path[-1] in said or path[-2] in said, (path, said)
        assert "--override config.json" in said, (path, said)


@pytest.mark.parametrize("how", ["gone", "empty", "another"])
def test_what_the_data_tell_is_said_and_written_anew(base, file, how):
    """Counts are no settings: the run is the same; the fingerprint is the state's."""
    config = json.loads(file.read_text())
    found = [path for path in parts(config) if path[0] == "data"
             and damaged(config, path, how) != config]
    assert len(found) > 5
    for path in found:
        file.write_text(json.dumps(damaged(config, path, how)))
        watcher = Watcher()
        if "fingerprint" in path or path == ("data",):
            with pytest.raises(CheckError, match="data"):
                train(base, "whole", resume=True)
            continue
        train(base, "whole", resume=True, watcher=watcher)
        assert json.loads(file.read_text())["data"] == config["data"], path
        assert [text for text in watcher.warnings if "written anew from the data" in text
                and path[-1] in text], path


def test_a_horizon_that_was_emptied_is_the_states_and_said(base, file):
    config = json.loads(file.read_text())
    config["settings"]["schedule_steps"]["value"] = None
    file.write_text(json.dumps(config))
    watcher = Watcher()
    train(base, "whole", resume=True, watcher=watcher)
    assert [text for text in watcher.warnings if text.endswith(
        "settings.schedule_steps is null; the state says 20, which holds")]


def test_what_is_written_anew_is_the_whole_record(base, file):
    """--override config.json makes of the state and the places what stood there."""
    config = json.loads(file.read_text())
    file.write_text("{}")
    places = {name: config["settings"][name]["value"] for name in ("dataset", "tokenizer", "arch")}
    train(base, "whole", resume=True, overrides=["config.json"],
          **{name: value for name, value in places.items() if value})
    again = json.loads(Path(file).read_text())
    for record in (again, config):
        for name in ("bos_token_id", "eos_token_id"):  # in a state: those of the tokenizer
            del record["model"][name]
        del record["settings"]
    assert again == config
