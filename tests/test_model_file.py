"""Opening a model: what is trusted, what is refused with which words, what is said in notes."""
import gc
import json
from pathlib import Path

import hf_fixture as hf
import numpy as np
import pytest
from apr_bytes import build, entry, fix

from aprnb.errors import LoadError, NotFoundError
from aprnb.formats.apr import create_apr, read_apr, write_apr
from aprnb.formats.convert import import_model
from aprnb.formats.model_file import float_pieces, open_model, open_tensors, same_values
from aprnb.formats.names import EMBEDDING, HEAD
from aprnb.formats.rejections import FooterMismatch
from aprnb.formats.tensors import TensorEntry

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    base = tmp_path_factory.mktemp("models")
    for family in ("qwen2", "llama"):
        hf.folder(base / family, hf.tensors(family, dtype="F32"), hf.config(family))
        import_model(base / family, base / f"{family}.apr")
    return base


def rewritten(models, tmp_path, family="qwen2", quantise=None, **metadata):
    """Path of a model with other metadata; one matrix as zeros of AprQ8 if it is named."""
    with read_apr(models / f"{family}.apr") as file:
        entries = [(n, "AprQ8" if n == quantise else "F32", t.shape)
                   for n, t in file.tensors.items()]
        with create_apr(tmp_path / "x.apr", file.metadata | metadata, entries, True) as writer:
            for entry in writer.entries:
                writer.write(entry.name, bytes(entry.nbytes) if entry.name == quantise
                             else file.array(entry.name))
    return tmp_path / "x.apr"


# ---------------------------------------------------------------- hyper-parameters

def test_llama_from_gguf_is_refused_for_its_rope_pairs(models, tmp_path):
    for family, origin, refused in (("llama", "gguf", True), ("llama", "safetensors", False),
                                    ("qwen2", "gguf", False)):
        path = rewritten(models, tmp_path, family, original_format=origin)
        if refused:
            with pytest.raises(LoadError, match="x.apr: comes from GGUF.*adjacent RoPE pairs"):
                open_model(path)
        else:
            assert open_model(path).config.family == family


@pytest.mark.parametrize("quantise, metadata, trusted", [
    (Q, {"head_dim": None}, False), (Q, {"head_dim": 4}, True), (None, {"head_dim": None}, True),
    (Q, {"head_dim": None, "original_format": "gguf"}, True)])
def test_head_counts_of_a_quantised_file_are_believed_with_a_head_dim(quantise, metadata, trusted,
                                                                      models, tmp_path):
    path = rewritten(models, tmp_path, quantise=quantise, **metadata)
    if trusted:
        assert open_model(path).config.head_dim == 4
        return
    with pytest.raises(LoadError, match="invents the head counts; they are never guessed"):
        open_model(path)
    (tmp_path / "config.json").write_text(json.dumps(hf.config()))
    with open_model(path) as model:
        assert model.config.num_heads == 4 and model.notes[0].startswith(
            f"hyper-parameters taken from {tmp_path / 'config.json'}: the file is quantised")


def test_a_key_that_is_missing_is_named_and_never_guessed(models, tmp_path):
    with pytest.raises(LoadError, match="x.apr: the file holds no num_heads, rms_norm_eps; they "):
        open_model(rewritten(models, tmp_path, num_heads=None, rms_norm_eps=None))


def test_a_folder_needs_a_whole_config(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config(rms_norm_eps=None))
    with pytest.raises(LoadError, match="s/config.json: .*rms_norm_eps"):
        open_model(source)
    (source / "config.json").unlink()
    with pytest.raises(NotFoundError, match="config.json"):
        open_model(source)


def test_a_tokenizer_has_at_most_one_id_a_row(models, tmp_path):
    assert open_model(rewritten(models, tmp_path, **{"tokenizer.vocab_size": 272})).notes == []
    with pytest.raises(LoadError, match="tokenizer has 273 ids, the model's vocabulary 272"):
        open_model(rewritten(models, tmp_path, **{"tokenizer.vocab_size": 273}))


# ---------------------------------------------------------------- files

def test_texts_of_a_folder(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    (source / "chat_template.jinja").write_text("{{ x }}")
    with open_model(source) as model:
        assert model.tokenizer_json == hf.TOKENIZER.read_text()
        assert model.metadata == {
            "chat_template": "{{ x }}", "chat_template_files": True,
            "generation_config": {"bos_token_id": 0, "eos_token_id": 0},
            "tokenizer.bos_token_id": 0, "tokenizer.eos_token_id": 0,
            "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast",
                                 "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}}


def test_weights_come_by_name_in_the_order_of_the_computation(models):
    with open_model(models / "llama.apr") as model:
        weights = list(model.weights())
        assert [name for name, _ in weights] == model.names and weights[0][0] == EMBEDDING
        assert all(np.array_equal(array, model.array(name)) for name, array in weights)


def test_payloads_are_judged_unless_it_is_said(models, tmp_path):
    blob = bytearray((models / "qwen2.apr").read_bytes())
    blob[-70] ^= 1
    (tmp_path / "x.apr").write_bytes(blob)
    with pytest.raises(FooterMismatch):
        open_tensors(str(tmp_path / "x.apr"))
    assert len(open_tensors(str(tmp_path / "x.apr"), verify=False).tensors) == 26


def test_one_safetensors_file_is_a_folder_of_one(models):
    with open_tensors(models / "qwen2" / "model.safetensors") as single:
        assert set(single.tensors) == set(hf.tensors())


def test_a_warning_of_the_container_is_a_note(models, tmp_path):
    blob = bytearray((models / "qwen2.apr").read_bytes())
    with read_apr(models / "qwen2.apr") as file:
        blob[64 + file.header["metadata_size"]] = 1
    (tmp_path / "x.apr").write_bytes(fix(blob))
    with open_model(tmp_path / "x.apr") as model:
        assert len(model.notes) == 1 and model.notes[0].endswith("is not zero")


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="mappings are listed on Linux")
def test_a_closed_model_lets_its_file_go(models):
    with open_model(models / "llama.apr") as model:
        model.array(EMBEDDING).sum()
        assert "llama.apr" in Path("/proc/self/maps").read_text()
    gc.collect()
    assert "llama.apr" not in Path("/proc/self/maps").read_text()


# ---------------------------------------------------------------- tensors

def tensors(tmp_path, **arrays):
    write_apr(tmp_path / "t.apr", {}, {EMBEDDING: arrays["e"], **(
        {HEAD: arrays["h"]} if "h" in arrays else {})}, force=True)
    return read_apr(tmp_path / "t.apr")


def test_values_are_the_same_to_the_last_piece_and_in_any_dtype(tmp_path):
    e = np.zeros((70_000, 16), np.float32)  # more than one piece
    e[3, 3] = np.nan
    assert same_values(tensors(tmp_path, e=e, h=e.astype(hf.BF16)), HEAD, EMBEDDING) is True
    for at in ((0, 0), (-1, -1)):
        h = e.copy()
        h[at] = 1
        assert same_values(tensors(tmp_path, e=e, h=h), HEAD, EMBEDDING) is False
    assert same_values(tensors(tmp_path, e=e[:9], h=e[:8]), HEAD, EMBEDDING) is False
    assert same_values(tensors(tmp_path, e=e[:9]), EMBEDDING, HEAD) is False


@pytest.mark.parametrize("dtype, wide", [(np.float16, np.float32), (np.float32, np.float32),
                                         (np.float64, np.float64), (np.int64, np.float64)])
def test_pieces_are_wide_enough(dtype, wide, tmp_path):
    value = 1 + 2**-40 if dtype == np.float64 else 2**40 + 1 if dtype == np.int64 else 1.5
    file = tensors(tmp_path, e=np.full((2, 4), value, dtype))
    pieces = list(float_pieces(file, EMBEDDING, 3))
    assert [len(p) for p in pieces] == [3, 3, 2] and {p.dtype for p in pieces} == {np.dtype(wide)}
    assert all((p == value).all() for p in pieces)


def test_pieces_of_what_is_decoded(tmp_path):
    with create_apr(tmp_path / "q.apr", {}, [("q", "AprQ8", (8,))]) as writer:
        writer.write("q", np.float32(0.5).tobytes() + bytes(range(8)))
    pieces = [p.tolist() for p in float_pieces(read_apr(tmp_path / "q.apr"), "q", 3)]
    assert pieces == [[0, 0.5, 1], [1.5, 2, 2.5], [3, 3.5]]


def test_a_head_without_bytes_is_the_embedding(models, tmp_path):
    with read_apr(models / "qwen2.apr") as file:
        entries = [entry(n, 0, t.shape, t.offset, t.nbytes) for n, t in sorted(
            {**file.tensors, HEAD: TensorEntry(HEAD, "F32", (272, 16), 0, 0)}.items())]
        data = (models / "qwen2.apr").read_bytes()[file.header["data_offset"]:-4]
        (tmp_path / "x.apr").write_bytes(build(entries, data, file.metadata))
    with open_model(tmp_path / "x.apr") as model:
        assert model.config.tied and HEAD not in model.names
        assert "placeholder without bytes: the head is the embedding" in model.notes[0]


@pytest.mark.parametrize("shape, note", [
    ((1, 16), ["model.layers.0.self_attn.q_proj.bias has shape [1, 16], read as [16]"]),
    ((16, 1), None)])
def test_a_bias_of_one_row_is_read_as_a_vector(shape, note, tmp_path):
    arrays = hf.tensors()
    bias = arrays["model.layers.0.self_attn.q_proj.bias"]
    arrays["model.layers.0.self_attn.q_proj.bias"] = bias.reshape(shape)
    source = hf.folder(tmp_path / "s", arrays, hf.config())
    if note is None:
        with pytest.raises(LoadError, match=r"got \[16, 1\], need \[16\]"):
            open_model(source)
        return
    with open_model(source) as model:
        assert model.notes == note
        assert np.array_equal(model.array("model.layers.0.self_attn.q_proj.bias"), bias)


def test_layers_that_are_claimed_and_not_there(models, tmp_path):
    with pytest.raises(LoadError, match="27 layers are claimed, the file holds 26 tensors"):
        open_model(rewritten(models, tmp_path, num_layers=27))
    with pytest.raises(LoadError, match="288 tensors do not fit Qwen2ForCausalLM with 26 layers"):
        open_model(rewritten(models, tmp_path, num_layers=26))


@pytest.mark.parametrize("generation, config, token, want", [
    ([0, 62], 7, None, (0, 62)), (62, [0, 7], "!", 62), (None, [0, 62], "!", (0, 62)),
    ([], 7, None, 7), (None, None, "!", 1), (None, None, None, None)])
def test_a_folder_and_its_import_end_texts_alike(tmp_path, generation, config, token, want):
    """By the ids of generation_config.json, else of config.json, else by the token's name: the
    order of transformers."""
    folder = hf.folder(tmp_path / "m", hf.tensors(), hf.config(eos_token_id=config))
    for name, words in (("generation_config", {"eos_token_id": generation}),
                        ("tokenizer_config", {"eos_token": token})):
        (folder / f"{name}.json").write_text(json.dumps(words))
    import_model(folder, tmp_path / "m.apr")
    for path in (folder, tmp_path / "m.apr"):
        with open_model(path) as source:
            assert source.config.eos_token_id == want, path


def test_a_tokenizer_in_which_no_end_of_text_can_be_looked_up(tmp_path):
    folder = hf.folder(tmp_path / "m", hf.tensors(), hf.config(eos_token_id=None))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>"}')
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(LoadError) as caught:
        open_model(folder)
    assert str(caught.value).startswith(f"{folder / 'tokenizer.json'}: is no tokenizer.json with a")
