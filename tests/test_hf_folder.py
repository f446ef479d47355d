"""Hugging Face folders: which weight files are taken, what an index must hold, their texts."""
import json
from pathlib import Path

import hf_fixture as hf
import numpy as np
import pytest

from aprnb.data.tokenizer import load_tokenizer
from aprnb.errors import FormatError, LoadError, NotFoundError
from aprnb.formats.convert import import_model
from aprnb.formats.hf_folder import INDEX, open_hf, read_json, read_text, weight_files
from aprnb.formats.rejections import BadSafetensors
from aprnb.train.inputs import arch_config

MOST = 268_435_456  # bytes of a text: 256 MiB


def shard(folder, name, **values):
    """A .safetensors file of float32 vectors."""
    hf.save(folder / name, {key: np.float32(value) for key, value in values.items()})


def index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def said(error, function, *args):
    """The message with which a function refuses: of exactly this class."""
    with pytest.raises(error) as caught:
        function(*args)
    assert caught.type is error
    return str(caught.value)


# ---------------------------------------------------------------- which files

def test_one_file_comes_first_then_the_index_then_every_shard(tmp_path):
    for name in ("z", "a", "model"):
        shard(tmp_path, f"{name}.safetensors", **{name: [1]})
    index(tmp_path, {"z": "z.safetensors"})
    for gone, names in ((None, ["model"]), ("model.safetensors", ["z"]), (INDEX, ["a", "z"])):
        if gone:
            (tmp_path / gone).unlink()
        assert weight_files(tmp_path) == [tmp_path / f"{n}.safetensors" for n in names]
        with open_hf(str(tmp_path)) as model:
            assert sorted(model.tensors) == names
            assert [f.path.stem for f in model.files] == names


def test_an_index_names_each_file_once_in_order(tmp_path):
    shard(tmp_path, "b.safetensors", x=[1], z=[3])
    shard(tmp_path, "a.safetensors", y=[2], more=[4])
    index(tmp_path, {"z": "b.safetensors", "y": "a.safetensors", "x": "b.safetensors"})
    assert weight_files(tmp_path) == [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]


def test_what_is_not_there_is_said(tmp_path):
    assert said(NotFoundError, open_hf, tmp_path / "x") == f"{tmp_path}/x: no such file or folder"
    assert said(FormatError, open_hf, tmp_path).startswith(f"{tmp_path}: holds no .safetensors")
    (tmp_path / "model.bin").write_bytes(b"pickle")
    assert "is no .safetensors file" in said(FormatError, open_hf, tmp_path / "model.bin")
    assert "holds no .safetensors" in said(FormatError, open_hf, tmp_path)
    (tmp_path / "folder.bin").mkdir()  # a folder may be called anything
    shard(tmp_path / "folder.bin", "x.safetensors", x=[1])
    assert list(open_hf(tmp_path / "folder.bin").tensors) == ["x"]


@pytest.mark.parametrize("text, what", [
    ("{}", "weight_map is missing or no object"),
    ('{"weight_map": {}}', "weight_map is missing or no object"),
    ('{"weight_map": ["x"]}', "weight_map is missing or no object"),
    ('{"weight_map": {"x": "../x.safetensors"}}', "'../x.safetensors' is no plain file name"),
    ('{"weight_map": {"x": "/x.safetensors"}}', "'/x.safetensors' is no plain file name"),
])
def test_an_index_that_is_none(text, what, tmp_path):
    shard(tmp_path, "x.safetensors", x=[1])
    (tmp_path / INDEX).write_text(text)
    assert said(FormatError, weight_files, tmp_path) == f"{tmp_path / INDEX}: {what}"


def test_files_and_tensors_that_an_index_promises(tmp_path):
    shard(tmp_path, "x.safetensors", x=[1])
    index(tmp_path, {"x": "x.safetensors", "y": "n.safetensors", "z": "m.safetensors", "w": 5})
    assert said(NotFoundError, weight_files, tmp_path).startswith(
        f"{tmp_path}: the index names 5, m.safetensors, n.safetensors, which are not there")
    lost = {f"lost{i}": "x.safetensors" for i in range(7)}
    index(tmp_path, {"x": "x.safetensors"} | lost)
    assert said(LoadError, weight_files, tmp_path) == (
        f"{tmp_path / INDEX}: lists tensors that no file holds: {list(lost)[:5]}")


def test_an_index_may_list_a_tied_head_as_transformers_writes_it(tmp_path):
    shard(tmp_path, "x.safetensors", x=[1])
    index(tmp_path, {"x": "x.safetensors", "lm_head.weight": "x.safetensors"})
    for settings in (None, {}, {"tie_word_embeddings": False}):
        if settings is not None:
            (tmp_path / "config.json").write_text(json.dumps(settings))
        assert "no file holds: ['lm_head.weight']" in said(LoadError, weight_files, tmp_path)
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    assert weight_files(tmp_path) == [tmp_path / "x.safetensors"]
    index(tmp_path, {"x": "x.safetensors", "lm_head.weight": "x.safetensors",
                     "y": "x.safetensors"})
    assert "no file holds: ['lm_head.weight', 'y']" in said(LoadError, weight_files, tmp_path)


# ---------------------------------------------------------------- the model

def test_each_tensor_comes_from_its_file(tmp_path):
    shard(tmp_path, "a.safetensors", x=[1, 2])
    shard(tmp_path, "b.safetensors", y=[[3], [4], [5]])
    with open_hf(tmp_path) as model:
        assert (model.path, model.folder) == (tmp_path, tmp_path)
        for name, file, values in (("x", "a", [1, 2]), ("y", "b", [[3], [4], [5]])):
            raw = np.float32(values).tobytes()
            assert model.file_of(name) == f"{file}.safetensors"
            assert model.array(name).tolist() == model.values(name).tolist() == values
            assert model.bytes_of(name).tobytes() == b"".join(model.chunks(name)) == raw
            assert list(model.chunks(name, nbytes=4)) == [raw[i:i + 4]
                                                          for i in range(0, len(raw), 4)]
            assert model.tensors[name].shape == np.shape(values)


def test_a_tensor_in_two_files_is_refused(tmp_path):
    shard(tmp_path, "a.safetensors", x=[1])
    shard(tmp_path, "b.safetensors", x=[2])
    assert said(BadSafetensors, open_hf, tmp_path) == (
        f"{tmp_path}: tensor x stands in both a.safetensors and b.safetensors")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are seen in Linux only")
def test_files_are_let_go_of(tmp_path):
    for name in "ab":
        shard(tmp_path, f"{name}.safetensors", **{name: [1]})
    with open_hf(tmp_path) as model:
        view = [model.array(name) for name in "ab"]
        assert Path("/proc/self/maps").read_text().count(str(tmp_path)) == 2
        assert view == [[1], [1]]
        del view
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


# ---------------------------------------------------------------- texts

def test_texts_lie_beside_the_weights(tmp_path):
    shard(tmp_path, "model.safetensors", x=[1])
    (tmp_path / "config.json").write_text('{"a": "ä"}', encoding="utf-8")
    (tmp_path / "folder.json").mkdir()
    for path in (tmp_path, tmp_path / "model.safetensors"):
        model = open_hf(path)
        assert model.folder == tmp_path
        assert model.json("config.json") == model.json("config.json", needed=True) == {"a": "ä"}
        assert model.text("config.json") == '{"a": "ä"}'
        for name in ("none.json", "folder.json"):
            assert model.json(name) is None and model.text(name) is None
            assert said(NotFoundError, model.json, name, True).startswith(f"{tmp_path / name}: no")


@pytest.mark.parametrize("raw, what", [
    (b"[1]", "is a JSON list, need an object"), (b"null", "is a JSON NoneType, need an object"),
    (b"{", "is not JSON: "), (b'{"a": 1}}', "is not JSON: "),
    (b'{"a": "\xff"}', "is not UTF-8 at byte 7"), (b"[" * 100_000, "is not JSON: "),
])
def test_what_is_no_json_object(raw, what, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(raw)
    message = said(FormatError, read_json, path)
    assert message.startswith(f"{path}: {what}") and len(message) < len(str(path)) + 250


def test_a_text_is_read_up_to_256_mib(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"")
    for size in (MOST, MOST + 1):  # a hole on disk
        with open(path, "r+b") as file:
            file.truncate(size)
        if size == MOST:
            assert len(read_text(path)) == MOST
        else:
            assert said(FormatError, read_text, path) == f"{path}: is larger than {MOST} bytes"


# ---------------------------------------------------------------- the hub's cache

def test_a_folder_of_the_hubs_cache_stands_for_its_snapshot(tmp_path):
    """models--OWNER--NAME: snapshots/COMMIT holds links to blobs, refs/main names a commit."""
    cache = tmp_path / "models--a--b"
    source = hf.folder(tmp_path / "plain", hf.tensors(), hf.config())
    snapshot = cache / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for i, file in enumerate(sorted(source.iterdir())):
        file.rename(cache / "blobs" / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    report = import_model(cache, tmp_path / "m.apr")
    assert report["notes"] == [f"{snapshot}: of the hub's cache, this snapshot is read"]
    assert load_tokenizer(cache).size == 270 and report["tokenizer"]["tokens"] == 270
    assert arch_config(str(cache))[0].hidden_size == 16
    (cache / "snapshots" / "4567").mkdir()
    with pytest.raises(LoadError, match="2 snapshots, and refs/main names none .*snapshots/0123, "):
        import_model(cache, tmp_path / "m.apr", force=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123\n")
    first = (tmp_path / "m.apr").read_bytes()
    import_model(cache, tmp_path / "m.apr", force=True)
    assert (tmp_path / "m.apr").read_bytes() == first
