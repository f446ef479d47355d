"""JSON beside or inside a model, damaged in every place: typed errors only (R20)."""
import copy
import json
import random

import hf_fixture as hf
import pytest
from campaign import TIMES

from aprnb.errors import AprnbError
from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.convert import export_model, import_model
from aprnb.formats.inspect import inspect_model
from aprnb.formats.model_file import open_model
from aprnb.formats.validate import validate

VALUES = [None, "x", [], {}, -1, 0, 1, 2.5, 10**30, True, [1, "a"], {"a": 1}, "\ud800", 1e300,
          [[]], {"rope_type": 5}, {"rope_type": "llama3"}, {"rope_theta": "a"}, [None]]
TEXTS = {
    "config.json": hf.config(rope_scaling=hf.LLAMA3, head_dim=4, initializer_range=0.02,
                             layer_types=["full_attention"],
                             rope_parameters={"rope_theta": hf.config()["rope_theta"],
                                              **hf.LLAMA3}),
    "generation_config.json": {"eos_token_id": [1, 2], "bos_token_id": 0},
    "tokenizer_config.json": {"eos_token": "d", "chat_template": "x", "bos_token":
                              {"content": "d"}},
    "tokenizer.json": json.loads(hf.TOKENIZER.read_text()),
}


def damaged(rng, document):
    """A copy with one or two values, at most one level down, replaced by nonsense."""
    document = copy.deepcopy(document)
    for _ in range(rng.randint(1, 2)):
        at, key = document, rng.choice(list(document))
        if isinstance(at[key], (dict, list)) and at[key] and rng.random() < 0.6:
            at = at[key]
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
        at[key] = copy.deepcopy(rng.choice(VALUES))
    return document


def attempt(function, *args, **options):
    """Whether a call succeeds; only our own errors may stop it."""
    try:
        function(*args, **options)
    except AprnbError as error:
        assert str(error)
        return False
    return True


@pytest.mark.parametrize("name", TEXTS)
def test_damaged_files_of_a_folder(name, tmp_path):
    rng = random.Random(name)
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    for file, document in TEXTS.items():
        (source / file).write_text(json.dumps(document))
    taken = 0
    for _ in range(60 * TIMES):
        (source / name).write_text(json.dumps(damaged(rng, TEXTS[name])))
        if attempt(import_model, source, tmp_path / "m.apr", force=True):
            taken += 1
            attempt(export_model, tmp_path / "m.apr", tmp_path / "e", force=True)
    assert 0 < taken < 60 * TIMES


@pytest.mark.parametrize("text", [b"\xff", b"[]", b"{", b"[" * 100_000, b'{"a":' * 100_000, b""])
@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_no_json_objects(name, text, tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    (source / name).write_bytes(text)
    assert not attempt(import_model, source, tmp_path / "m.apr")
    assert not (tmp_path / "m.apr").exists()


def test_damaged_metadata_of_a_file(tmp_path):
    rng = random.Random(0)
    import_model(hf.folder(tmp_path / "s", hf.tensors(), hf.config()), tmp_path / "m.apr")
    file = read_apr(tmp_path / "m.apr")
    arrays = {name: file.array(name) for name in file.tensors}
    opened = 0
    for _ in range(100 * TIMES):
        metadata = damaged(rng, file.metadata)
        if attempt(write_apr, tmp_path / "x.apr", metadata, arrays, force=True):
            opened += attempt(open_model, tmp_path / "x.apr")
            attempt(validate, tmp_path / "x.apr")
            attempt(inspect_model, tmp_path / "x.apr")
            attempt(export_model, tmp_path / "x.apr", tmp_path / "e", force=True)
    assert 0 < opened < 100 * TIMES
