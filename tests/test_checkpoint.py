"""Checkpoints: what is inside, that every verb reads them, that failures leave the last good."""
import json
import math
import resource

import hf_fixture
import numpy as np
import pytest
from corpora import small_tokenizer, stdlib_ids
from runs import leftovers, numbers, shards, state, train

from aprnb.errors import CheckError, NonFiniteError, StorageError
from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.convert import import_model
from aprnb.formats.model_file import open_model
from aprnb.formats.names import expected_tensors
from aprnb.train.checkpoint import METADATA_KEYS, write_checkpoint
from aprnb.train.run_folder import RunFolder
from tolerance import gamma


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of 20 steps in epochs of 8, with a tokenizer."""
    base = tmp_path_factory.mktemp("checkpoint")
    (base / "tok").mkdir()
    small_tokenizer().save(base / "tok")
    report = train(base, tokenizer=str(base / "tok"))
    return base, base / "run", report


def test_each_epoch_leaves_a_checkpoint_and_the_nine_keys(run):
    _, folder, report = run
    assert METADATA_KEYS == ("epoch", "train_loss", "val_loss", "train_ppl", "val_ppl",
                             "optimizer_state_sha", "wall_seconds", "tokens_seen", "grad_norm_max")
    assert report["epochs_completed"] == 3
    for epoch in range(3):
        metadata = json.loads((folder / f"ckpt/epoch-{epoch:03d}.metadata.json").read_text())
        assert tuple(metadata) == METADATA_KEYS
        steps = report["per_step_metrics"][8 * epoch:8 * epoch + 8]
        losses = [r["loss_nats"] for r in steps]
        assert metadata["epoch"] == epoch
        assert metadata["train_loss"] == pytest.approx(np.mean(losses), rel=gamma(16))
        assert metadata["train_ppl"] == math.exp(metadata["train_loss"])
        assert metadata["val_loss"] == report["val_loss_history"][epoch]
        assert metadata["val_ppl"] == math.exp(metadata["val_loss"])
        assert metadata["grad_norm_max"] == max(r["grad_norm"] for r in steps)
        assert metadata["tokens_seen"] == min(20, 8 * epoch + 8) * 4 * 32
        assert 0 < metadata["wall_seconds"] < 60


def test_the_optimiser_digest_is_that_of_the_real_state(run):
    import hashlib

    from aprnb.backend import open_backend
    from aprnb.model.instance import Model
    from aprnb.train.checkpoint import restore_trainer
    from aprnb.train.step import OptimiserSettings, Trainer
    _, folder, _ = run
    opened = open_model(folder / "ckpt/state-000020.apr")
    trainer = Trainer(Model.from_file(opened, open_backend("cpu")), 4, 4, 32, OptimiserSettings())
    restore_trainer(trainer, opened)
    digest = hashlib.sha256()
    for name, array in sorted(trainer.state().items()):
        digest.update(name.encode() + array.tobytes())
    said = [json.loads((folder / f"ckpt/epoch-{e:03d}.metadata.json").read_text())
            ["optimizer_state_sha"] for e in range(3)]
    assert digest.hexdigest() == said[2] and len(set(said)) == 3


def test_a_checkpoint_holds_weights_hyper_parameters_and_tokenizer(run):
    _, folder, report = run
    with open_model(folder / "ckpt/epoch-002.apr") as model:
        assert set(model.source.tensors) == set(expected_tensors(model.config))
        assert all(t.dtype == "F32" for t in model.source.tensors.values())
        assert "lm_head.weight" not in model.source.tensors and model.config.tied
        assert model.tokenizer_json == small_tokenizer().text
        metadata = model.metadata
    assert len(metadata["tokenizer.vocabulary"]) == metadata["tokenizer.vocab_size"] == 1024
    assert metadata["tokenizer.eos_token_id"] == 0
    assert metadata["model_type"] == "Qwen2" and metadata["name"] == "epoch-002"
    assert metadata["model_name"] == "qwen2-pretrain"
    assert metadata["format"] == "aprnb-checkpoint" and metadata["checkpoint_step"] == 20
    assert metadata["loss"] == report["final_val_loss"]
    assert metadata["learning_rate"] == report["per_step_metrics"][-1]["lr"]
    assert metadata["training_settings"]["batch_size"] == 4


def test_a_state_says_what_it_is(run):
    with read_apr(run[1] / "ckpt/state-000020.apr") as file:
        position = file.metadata["training_state"]
    assert position["schema"] == "aprnb-training-state-v1" and position["optimiser_step"] == 20


def test_a_state_is_a_model_too_and_has_the_weights_of_its_epoch(run):
    _, folder, _ = run
    with open_model(folder / "ckpt/state-000020.apr") as model, \
            read_apr(folder / "ckpt/epoch-002.apr") as epoch:
        for name, array in model.weights():
            assert np.array_equal(array, epoch.array(name))
        names = set(epoch.tensors)
        assert set(model.source.tensors) == names | {
            f"__training__.{kind}.{name}" for kind in "mv" for name in names} | {
            "__training__.records"}


def test_only_two_states_stay_unless_keep_says_more(run):
    _, folder, _ = run
    assert sorted(p.name for p in (folder / "ckpt").glob("state-*")) == [
        "state-000016.apr", "state-000020.apr"]
    assert len(list((folder / "ckpt").glob("epoch-*.apr"))) == 3


def test_keep_leaves_the_newest_besides_the_best(tmp_path):
    report = train(tmp_path, steps_per_epoch=4, keep=1)
    names = sorted(p.name for p in (tmp_path / "run/ckpt").iterdir())
    assert report["best"]["epoch"] == 4
    assert names == ["epoch-003.apr", "epoch-003.metadata.json", "epoch-004.apr",
                     "epoch-004.metadata.json", "state-000020.apr"]
    assert report["checkpoint"].endswith("epoch-004.apr")


def test_checkpoint_every_saves_states_between_epochs(tmp_path):
    train(tmp_path, checkpoint_every=3, keep=20)
    steps = [int(p.stem[6:]) for p in sorted((tmp_path / "run/ckpt").glob("state-*"))]
    assert steps == [3, 6, 8, 9, 12, 15, 16, 18, 20]


def test_a_model_continues_from_a_checkpoint(run):
    base, folder, report = run
    more = train(base, "more", init=str(folder / "ckpt/epoch-002.apr"), num_steps=4)
    assert more["per_step_metrics"][0]["loss_nats"] < report["per_step_metrics"][0]["loss_nats"]
    with open_model(base / "more/ckpt/epoch-000.apr") as model:
        assert model.tokenizer_json == small_tokenizer().text
        assert model.metadata["tokenizer.eos_token_id"] == 0


def test_texts_of_a_hugging_face_folder_travel_into_the_checkpoints(tmp_path):
    folder = hf_fixture.folder(tmp_path / "model", hf_fixture.tensors(), hf_fixture.config())
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 0]}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    shards(tmp_path / "data", stdlib_ids()[:1200] % 272)
    report = train(tmp_path, init=str(folder), num_steps=2)
    with open_model(report["checkpoint"]) as model:
        assert model.metadata["tokenizer.eos_token_ids"] == [5, 0]
        assert model.metadata["chat_template"] == "{{ messages }}"
        assert model.tokenizer_json == (folder / "tokenizer.json").read_text()


def test_a_tokenizer_without_its_json_travels_too(tmp_path):
    """As in files of the reference tool, which hold vocabulary and merges only."""
    folder = hf_fixture.folder(tmp_path / "model", hf_fixture.tensors(), hf_fixture.config())
    import_model(folder, tmp_path / "whole.apr")
    with read_apr(tmp_path / "whole.apr") as file:
        metadata = {k: v for k, v in file.metadata.items() if k != "tokenizer.json"}
        write_apr(tmp_path / "lists.apr", metadata, {n: file.array(n) for n in file.tensors})
    shards(tmp_path / "data", stdlib_ids()[:1200] % 272)
    report = train(tmp_path, init=str(tmp_path / "lists.apr"), num_steps=2)
    with open_model(report["checkpoint"]) as model:
        for key in ("tokenizer.vocabulary", "tokenizer.merges", "tokenizer.eos_token_id"):
            assert model.metadata[key] == metadata[key]


def test_weights_that_are_not_finite_are_not_written(run, tmp_path):
    from aprnb.backend import open_backend
    from aprnb.model.instance import Model
    _, folder, _ = run
    model = Model.from_file(open_model(folder / "ckpt/epoch-002.apr"), open_backend("cpu"))
    model.master[5] = np.nan
    with pytest.raises(NonFiniteError, match="embed_tokens"):
        write_checkpoint(tmp_path / "bad.apr", model, {}, {})
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_that_finds_no_room_says_how_much_it_needs(run, tmp_path):
    from aprnb.backend import open_backend
    from aprnb.model.instance import Model
    model = Model.from_file(open_model(run[1] / "ckpt/epoch-002.apr"), open_backend("cpu"))
    nbytes = sum(array.nbytes for array in model.tensors().values())
    more = np.zeros(1000, np.float32)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes // 2, limits[1]))
    try:
        with pytest.raises(StorageError, match=f"the file needs {nbytes + 4000:,} bytes"):
            write_checkpoint(tmp_path / "big.apr", model, {}, {}, {"__more": more})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_an_untied_head_is_saved_beside_the_embedding(tmp_path):
    """Every tensor under its own name with its own bytes; no head is made of another tensor."""
    from aprnb.backend import open_backend
    from aprnb.config import ModelConfig
    from aprnb.model.instance import Model
    config = ModelConfig("llama", 12, 1, 2, 1, 6, 10, 17, 16, 1e4, 1e-6, False)
    model = Model.random(config, open_backend("cpu"), seed=0)
    write_checkpoint(tmp_path / "model.apr", model, {}, {})
    with open_model(tmp_path / "model.apr") as opened:
        saved = dict(opened.weights())
        assert not opened.config.tied
    assert saved.keys() == model.table.tensors.keys() and "lm_head.weight" in saved
    for name, array in model.tensors().items():
        np.testing.assert_array_equal(saved[name], array, err_msg=name)
    assert not np.array_equal(saved["lm_head.weight"], saved["model.embed_tokens.weight"])


def test_weights_are_saved_in_float32_whatever_the_device_computes_in(tmp_path):
    from aprnb.dtypes import PRECISIONS
    report = train(tmp_path, num_steps=2, precision="bf16")
    with open_model(report["checkpoint"]) as opened:
        weights = dict(opened.weights())
    kept = weights["model.embed_tokens.weight"]
    assert not np.array_equal(kept, kept.astype(PRECISIONS["bf16"]).astype(np.float32))


def test_a_damaged_state_is_refused_by_name(run):
    base, folder, _ = run
    from shutil import copytree
    copytree(folder, base / "damaged")
    path = base / "damaged/ckpt/state-000020.apr"
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)
    from aprnb.errors import FormatError
    with pytest.raises(FormatError, match="state-000020.apr"):
        train(base, "damaged", resume=True)
    path.unlink()  # what the user does then: the state before is whole
    again = train(base, "damaged", resume=True)
    assert numbers(again) == numbers(run[2])


def test_a_checkpoint_is_no_state(run):
    base, folder, _ = run
    from shutil import copytree
    copytree(folder, base / "swapped")
    (base / "swapped/ckpt/epoch-002.apr").rename(base / "swapped/ckpt/state-000020.apr")
    with pytest.raises(CheckError, match="--init"):
        train(base, "swapped", resume=True)


def test_foreign_files_are_never_touched(tmp_path):
    train(tmp_path, num_steps=2)
    kept = [tmp_path / "run/notes.txt", tmp_path / "run/ckpt/epoch-final.apr"]
    for file in kept:
        file.write_text("mine")
    with pytest.raises(CheckError, match="--force"):
        train(tmp_path, num_steps=2)
    train(tmp_path, num_steps=2, force=True)
    assert all(file.read_text() == "mine" for file in kept)


def test_the_highest_number_is_the_newest_state(tmp_path):
    (tmp_path / "ckpt").mkdir(parents=True)
    for name in ("state-000009.apr", "state-1000000.apr", "state-999999.apr", ".state-2.x.tmp"):
        (tmp_path / "ckpt" / name).touch()
    assert RunFolder(tmp_path).states()[-1].name == "state-1000000.apr"


def test_no_temporary_file_stays(run):
    assert not leftovers(run[1])
    assert state(run[1])[1][0]["step"] == 20
