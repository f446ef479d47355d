"""Import and export keep every byte: all bit patterns, all dtypes, sharded or not, tied or not."""
import hashlib
import json
import sys
import textwrap

import hf_fixture as hf
import numpy as np
import processes
import pytest
from safetensors import safe_open
from shared import GOLDEN, shared

from aprnb.errors import CheckError, FormatError, LoadError, NonFiniteError, NotFoundError
from aprnb.formats.apr import read_apr, write_apr
from aprnb.formats.convert import export_model, import_model
from aprnb.formats.hf_folder import open_hf
from aprnb.formats.model_file import open_model
from aprnb.formats.rejections import BadSafetensors
from aprnb.formats.safetensors import read_safetensors
from aprnb.formats.stats import tensor_stats


def imported(source, out, **options):
    import_model(source, out, **options)
    return read_apr(out)


# ---------------------------------------------------------------- bytes

@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("family, tied", [("qwen2", True), ("qwen2", False), ("llama", True),
                                          ("llama", False)])
def test_every_payload_is_that_of_the_source(dtype, family, tied, tmp_path):
    arrays = hf.tensors(family, tied, dtype)
    source = hf.folder(tmp_path / "s", arrays, hf.config(family, tied), shards=2)
    file = imported(source, tmp_path / "m.apr")
    assert file.tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert file.tensors[name].dtype == dtype and file.tensors[name].shape == array.shape
        assert file.bytes_of(name).tobytes() == array.tobytes()
        digest = file.metadata["source_digests"][name]
        assert digest["sha256"] == hashlib.sha256(array.tobytes()).hexdigest()
        assert digest["file"].startswith("model-0000")
    assert file.metadata["tied_embeddings"] is tied
    assert tensor_stats(tmp_path / "m.apr", against=source)["against"]["clean"]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_all_bit_patterns_survive_import_and_export(dtype, tmp_path):
    """65,536 patterns, NaN payloads, subnormals and negative zero among them."""
    arrays = hf.tensors(dtype=dtype)
    patterns = np.arange(65536, dtype=np.uint16).view(hf.DTYPES[dtype]).reshape(4096, 16)
    arrays["model.embed_tokens.weight"] = patterns
    source = hf.folder(tmp_path / "s", arrays, hf.config(vocab_size=4096))
    file = imported(source, tmp_path / "m.apr")
    export_model(tmp_path / "m.apr", tmp_path / "e")
    back = read_safetensors(tmp_path / "e" / "model.safetensors")
    for got in (file, back):
        assert got.bytes_of("model.embed_tokens.weight").tobytes() == patterns.tobytes()
        assert got.tensors["model.embed_tokens.weight"].dtype == dtype


LAYOUTS = {"one file": dict(shards=1), "three with index": dict(shards=3),
           "two without index": dict(shards=2, index=False)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_import_export_import_gives_equal_files(layout, tmp_path):
    arrays = hf.tensors("llama", False, "F16")
    settings = hf.config("llama", False, rope_scaling=hf.LLAMA3, rope_theta=5e5,
                         eos_token_id=[0, 3])
    source = hf.folder(tmp_path / "s", arrays, settings, **LAYOUTS[layout])
    import_model(source, tmp_path / "m.apr")
    export_model(tmp_path / "m.apr", tmp_path / "e")
    (tmp_path / "2").mkdir()
    import_model(tmp_path / "e", tmp_path / "2" / "m.apr")
    assert (tmp_path / "m.apr").read_bytes() == (tmp_path / "2" / "m.apr").read_bytes()
    files = [sorted(p.name for p in at.glob("*.safetensors")) for at in (source, tmp_path / "e")]
    assert files[0] == files[1]
    exported = json.loads((tmp_path / "e" / "config.json").read_text())
    assert exported["rope_scaling"] == hf.LLAMA3 and exported["rope_theta"] == 5e5
    assert exported["eos_token_id"] == [0, 3] and exported["tie_word_embeddings"] is False
    assert exported["torch_dtype"] == "float16"


def test_export_is_readable_by_the_safetensors_package(tmp_path):
    arrays = hf.tensors()
    import_model(hf.folder(tmp_path / "s", arrays, hf.config()), tmp_path / "m.apr")
    report = export_model(tmp_path / "m.apr", tmp_path / "e", shard_size=4000)
    index = json.loads((tmp_path / "e" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())
    assert index["weight_map"].keys() == arrays.keys() and len(report["files"]) > 5
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "e" / file, "np") as shard:
            assert shard.metadata() == {"format": "pt"}
            part = shard.get_slice(name)
            assert part.get_dtype() == "BF16" and part.get_shape() == list(arrays[name].shape)
    assert all(p.stat().st_size < 4000 + 9000 for p in (tmp_path / "e").glob("*.safetensors"))


def test_real_checkpoint_is_byte_equal_there_and_back(tmp_path):
    source = shared("data", "qwen2-py-10m")
    report = import_model(source, tmp_path / "m.apr")
    assert report["tensors"] == 98 and report["dtypes"] == {"BF16": 98}
    compared = tensor_stats(tmp_path / "m.apr", against=source)
    assert compared["against"]["clean"] and compared["against"]["matched"] == 98
    export_model(tmp_path / "m.apr", tmp_path / "e")
    (tmp_path / "2").mkdir()
    import_model(tmp_path / "e", tmp_path / "2" / "m.apr")
    assert (tmp_path / "m.apr").read_bytes() == (tmp_path / "2" / "m.apr").read_bytes()


def test_dtype_conversion_rounds_to_nearest_even_and_refuses_overflow(tmp_path):
    arrays = hf.tensors(dtype="F32")
    arrays["model.norm.weight"][:6] = [255.99, -255.99, 1 + 2**-9, 1 + 3 * 2**-9, 1 + 2**-8, 1e-8]
    import_model(hf.folder(tmp_path / "s", arrays, hf.config()), tmp_path / "m.apr")
    for dtype in ("F16", "BF16"):
        export_model(tmp_path / "m.apr", tmp_path / dtype, dtype=dtype)
        got = read_safetensors(tmp_path / dtype / "model.safetensors")
        for name, array in arrays.items():
            assert got.array(name).tobytes() == array.astype(hf.DTYPES[dtype]).tobytes()
    f16 = read_safetensors(tmp_path / "F16" / "model.safetensors").array("model.norm.weight")
    assert f16[:2].view(np.uint16).tolist() == [0x5C00, 0xDC00]
    bf16 = read_safetensors(tmp_path / "BF16" / "model.safetensors").array("model.norm.weight")
    assert bf16[2:5].astype(float).tolist() == [1, 1 + 2**-7, 1]
    arrays["model.norm.weight"][0] = 70000
    import_model(hf.folder(tmp_path / "t", arrays, hf.config()), tmp_path / "n.apr")
    with pytest.raises(NonFiniteError, match="model.norm.weight"):
        export_model(tmp_path / "n.apr", tmp_path / "over", dtype="F16")
    assert not (tmp_path / "over").exists()


def test_training_checkpoint_exports_without_its_optimiser_state(tmp_path):
    arrays = hf.tensors(dtype="F32")
    import_model(hf.folder(tmp_path / "s", arrays, hf.config()), tmp_path / "m.apr")
    metadata = read_apr(tmp_path / "m.apr").metadata
    for key in ("source_digests", "generation_config", "tokenizer_config"):
        del metadata[key]
    state = {"__training__.m": np.zeros(9, np.float32), "__training__.step": np.int64([3])}
    write_apr(tmp_path / "c.apr", metadata, arrays | state)
    export_model(tmp_path / "c.apr", tmp_path / "e")
    with open_model(tmp_path / "e") as model:
        assert set(model.names) == arrays.keys() and model.config.eos_token_id == 0
    settings = json.loads((tmp_path / "e" / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|endoftext|>"


def test_import_of_a_large_model_takes_little_memory(tmp_path):
    """Peak memory stays flat while the source grows: 96 MB of weights, one tensor of 92 MiB."""
    script = textwrap.dedent(f"""
        import sys
        sys.path.insert(0, {str(GOLDEN.parents[1])!r})
        from memory import peak_mib
        from pathlib import Path
        from aprnb.formats import convert
        here = Path({str(tmp_path)!r})
        before = peak_mib()
        convert.import_model(here / "s", here / "m.apr")
        print(before, peak_mib())
    """)
    arrays = hf.tensors(layers=2)
    arrays["model.embed_tokens.weight"] = np.zeros((3_000_000, 16), hf.BF16)
    hf.folder(tmp_path / "s", arrays, hf.config(vocab_size=3_000_000))
    done = processes.run([sys.executable, "-c", script])
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert after - before < 40, (before, after)  # MiB; measured 8


# ---------------------------------------------------------------- metadata

def test_metadata_holds_hyper_parameters_tokenizer_and_template(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config(
        rope_theta=None, rope_parameters={"rope_theta": 12345.0, "rope_type": "default"}))
    (source / "tokenizer_config.json").write_text(json.dumps(
        {"chat_template": [{"name": "default", "template": "{{ x }}"}], "pad_token": "d"}))
    (source / "generation_config.json").write_text('{"eos_token_id": [5, 6], "top_k": 20}')
    got = imported(source, tmp_path / "m.apr").metadata
    document = json.loads(hf.TOKENIZER.read_text())
    ids = document["model"]["vocab"] | {t["content"]: t["id"] for t in document["added_tokens"]}
    assert got["tokenizer.json"] == hf.TOKENIZER.read_text()
    assert got["tokenizer.vocabulary"] == sorted(ids, key=ids.get)
    assert got["tokenizer.vocab_size"] == 270 and got["tokenizer.model_type"] == "BPE"
    assert len(got["tokenizer.merges"]) == 13 and all(m.count(" ") == 1 for m in
                                                      got["tokenizer.merges"])
    assert got["tokenizer.bos_token_id"] == 0 and got["tokenizer.eos_token_id"] == 5
    assert got["tokenizer.eos_token_ids"] == [5, 6]
    assert got["tokenizer.padding_token_id"] == ids["d"] and got["chat_template"] == "{{ x }}"
    assert got["generation_config"] == {"eos_token_id": [5, 6], "top_k": 20}
    facts = {"architecture": "qwen2", "hf_architecture": "Qwen2ForCausalLM", "hidden_size": 16,
             "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "vocab_size": 272,
             "intermediate_size": 24, "max_position_embeddings": 64, "rope_theta": 12345.0,
             "rms_norm_eps": 1e-6, "rope_type": 2, "tied_embeddings": True, "model_type": "Qwen2",
             "name": "m", "license": None}
    assert {k: got[k] for k in facts} == facts
    assert not {"num_hidden_layers", "num_attention_heads"} & got.keys()
    with open_model(tmp_path / "m.apr") as model:
        assert model.config.eos_token_id == (5, 6) and model.config.bos_token_id == 0


TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize("kept_as", ["text", "list", "file"])
def test_the_chat_template_goes_all_the_way_round(kept_as, tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    value = {"text": TEMPLATE, "file": "{{ older }}",
             "list": [{"name": "tool_use", "template": "{{ tools }}"},
                      {"name": "default", "template": TEMPLATE}]}[kept_as]
    (source / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
    if kept_as == "file":
        (source / "chat_template.jinja").write_text(TEMPLATE)
    assert imported(source, tmp_path / "m.apr").metadata.get("chat_template") == TEMPLATE
    export_model(tmp_path / "m.apr", tmp_path / "e")
    settings = json.loads((tmp_path / "e" / "tokenizer_config.json").read_text())
    if kept_as == "list":
        assert {t["name"]: t["template"] for t in settings["chat_template"]} == {
            "default": TEMPLATE, "tool_use": "{{ tools }}"}
    else:
        assert settings["chat_template"] == TEMPLATE


def test_merges_stored_as_pairs_and_holes_in_the_ids(tmp_path):
    document = json.loads(hf.TOKENIZER.read_text())
    document["model"]["merges"] = [m.split(" ") if isinstance(m, str) else m
                                   for m in document["model"]["merges"]]
    document["added_tokens"].append({"id": 271, "content": "<|im_end|>"})
    (tmp_path / "t.json").write_text(json.dumps(document))
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config(), tokenizer=False)
    got = imported(source, tmp_path / "m.apr", tokenizer=tmp_path / "t.json").metadata
    assert got["tokenizer.merges"][-1] == "Ġret urn"
    assert got["tokenizer.vocabulary"][-2:] == ["[PAD270]", "<|im_end|>"]


def test_folder_without_tokenizer_and_single_file_source(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config(), tokenizer=False)
    report = import_model(source / "model.safetensors", tmp_path / "m.apr")
    assert report["tokenizer"] is None and "no tokenizer" in report["notes"][0]
    report = export_model(tmp_path / "m.apr", tmp_path / "e")
    assert "tokenizer.json" not in report["files"]


def test_real_qwen_vocabulary_is_embedded_whole(tmp_path):
    path = shared("data", "qwen2-tokenizer", "tokenizer.json")
    arrays = hf.tensors()
    arrays["model.embed_tokens.weight"] = np.zeros((151936, 16), hf.BF16)
    source = hf.folder(tmp_path / "s", arrays, hf.config(vocab_size=151936), tokenizer=False)
    got = imported(source, tmp_path / "m.apr", tokenizer=path).metadata
    assert got["tokenizer.vocab_size"] == len(got["tokenizer.vocabulary"]) == 151665
    assert got["tokenizer.vocabulary"][151645] == "<|im_end|>"
    assert got["tokenizer.json"] == path.read_text(encoding="utf-8")


# ---------------------------------------------------------------- tying

def test_head_equal_to_the_embedding_is_understood_and_said(tmp_path):
    arrays = hf.tensors(dtype="BF16")
    arrays["lm_head.weight"] = arrays["model.embed_tokens.weight"].astype(np.float32)
    source = hf.folder(tmp_path / "s", arrays, hf.config())
    report = import_model(source, tmp_path / "m.apr")
    assert report["tensors"] == len(arrays) - 1 and "equals the embedding" in report["notes"][0]
    compared = tensor_stats(tmp_path / "m.apr", against=source)["against"]
    assert compared["clean"] and compared["left_out"] == ["lm_head.weight"]


def test_head_of_other_values_is_used_whatever_the_config_says(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(tied=False), hf.config(tied=True))
    report = import_model(source, tmp_path / "m.apr")
    assert "head of its own" in report["notes"][0]
    with open_model(tmp_path / "m.apr") as model:
        assert not model.config.tied and model.metadata["tied_embeddings"] is False


def test_untied_config_without_head_is_an_error(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(tied=True), hf.config(tied=False))
    with pytest.raises(LoadError, match="missing lm_head.weight"):
        import_model(source, tmp_path / "m.apr")


# ---------------------------------------------------------------- refusals

def test_missing_extra_and_misshapen_tensors_are_all_listed(tmp_path):
    arrays = hf.tensors()
    del arrays["model.layers.1.self_attn.q_proj.bias"]
    arrays["model.surprise.weight"] = arrays["model.norm.weight"]
    arrays["model.layers.0.mlp.up_proj.weight"] = np.zeros((16, 24), hf.BF16)
    source = hf.folder(tmp_path / "s", arrays, hf.config())
    for attempt in (open_model, lambda at: import_model(at, tmp_path / "m.apr")):
        with pytest.raises(LoadError) as caught:
            attempt(source)
        for part in ("3 tensors", "missing model.layers.1.self_attn.q_proj.bias [16]",
                     "not expected model.surprise.weight",
                     "misshapen model.layers.0.mlp.up_proj.weight: got [16, 24], need [24, 16]"):
            assert part in str(caught.value)
    assert not (tmp_path / "m.apr").exists()


def test_inverse_frequency_buffers_are_passed_over_with_a_note(tmp_path):
    arrays = hf.tensors("llama", False, "F16")
    arrays["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    source = hf.folder(tmp_path / "s", arrays, hf.config("llama", False))
    assert "inv_freq" in import_model(source, tmp_path / "m.apr")["notes"][0]
    assert tensor_stats(tmp_path / "m.apr", against=source)["against"]["clean"]


def test_other_dtypes_and_other_families_are_refused(tmp_path):
    arrays = hf.tensors(dtype="F32")
    arrays["model.norm.weight"] = arrays["model.norm.weight"].astype(np.float64)
    source = hf.folder(tmp_path / "s", arrays, hf.config())
    with pytest.raises(LoadError, match="stored as F64"):
        import_model(source, tmp_path / "m.apr")
    for changes in (dict(model_type="mistral"), dict(rope_scaling={"rope_type": "yarn"})):
        source = hf.folder(tmp_path / "t", hf.tensors(), hf.config(**changes))
        with pytest.raises(LoadError):
            import_model(source, tmp_path / "m.apr")


def test_tokenizer_larger_than_the_model_is_refused(tmp_path):
    arrays = hf.tensors()
    arrays["model.embed_tokens.weight"] = arrays["model.embed_tokens.weight"][:269]
    source = hf.folder(tmp_path / "s", arrays, hf.config(vocab_size=269))
    with pytest.raises(LoadError, match="270 ids.*269"):
        import_model(source, tmp_path / "m.apr")
    for text in ("{", "[]", '{"model": {"vocab": {}}}', '{"model": {"vocab": {"a": "b"}}}',
                 '{"model": {"vocab": {"a": 99999999}}}',
                 '{"model": {"vocab": {"a": 0}, "merges": ["a"]}}'):
        (tmp_path / "t.json").write_text(text)
        with pytest.raises(LoadError):
            import_model(source, tmp_path / "m.apr", tokenizer=tmp_path / "t.json")


def test_incomplete_and_hostile_folders(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config(), shards=2)
    index = source / "model.safetensors.index.json"
    (source / "model-00002-of-00002.safetensors").rename(tmp_path / "away")
    with pytest.raises(NotFoundError, match="model-00002"):
        open_hf(source)
    index.write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(FormatError, match="plain file name"):
        open_hf(source)
    index.write_text("nonsense")
    with pytest.raises(FormatError, match="not JSON"):
        open_hf(source)
    (tmp_path / "none").mkdir()
    with pytest.raises(FormatError, match="no .safetensors"):
        open_hf(tmp_path / "none")


SAFETENSORS_FAULTS = {
    "length": b"\xff" * 8 + b"{}", "short": b"\0\0", "json": b"\2\0\0\0\0\0\0\0{x",
    "list": b"\2\0\0\0\0\0\0\0[]", "trailing bytes": b"\2\0\0\0\0\0\0\0{}\0",
}
ENTRY_FAULTS = {
    "unknown dtype": {"dtype": "F3", "shape": [1], "data_offsets": [0, 4]},
    "size": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
    "hole": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    "past the end": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "negative": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
    "no integer": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
    "huge": {"dtype": "F32", "shape": [2**62], "data_offsets": [0, 2**64]},
    "no offsets": {"dtype": "F32", "shape": [1]}, "no object": 3,
}


@pytest.mark.parametrize("case", [*SAFETENSORS_FAULTS, *ENTRY_FAULTS, "twice"])
def test_damaged_safetensors_are_one_typed_error(case, tmp_path):
    blob = SAFETENSORS_FAULTS.get(case)
    if blob is None:
        good = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
        text = json.dumps({"a": ENTRY_FAULTS.get(case)}) if case != "twice" else (
            f'{{"a":{good},"a":{good}}}')
        blob = len(text).to_bytes(8, "little") + text.encode() + bytes(4)
    (tmp_path / "x.safetensors").write_bytes(blob)
    with pytest.raises(BadSafetensors):
        read_safetensors(tmp_path / "x.safetensors")


def test_force_never_deletes_foreign_files(tmp_path):
    import_model(hf.folder(tmp_path / "s", hf.tensors(), hf.config()), tmp_path / "m.apr")
    out = tmp_path / "e"
    out.mkdir()
    export_model(tmp_path / "m.apr", out)  # an empty folder is free
    with pytest.raises(CheckError, match="--force"):
        export_model(tmp_path / "m.apr", out)
    export_model(tmp_path / "m.apr", out, force=True, shard_size=9000)
    assert not (out / "model.safetensors").exists()  # replaced as a whole
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckError, match="thesis.tex"):
        export_model(tmp_path / "m.apr", out, force=True)
    assert (out / "thesis.tex").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e", "m.apr", "s"]


def test_import_never_replaces_its_own_source(tmp_path):
    source = hf.folder(tmp_path / "s", hf.tensors(), hf.config())
    weights = next(source.glob("*.safetensors"))
    before = weights.read_bytes()
    for output in (weights, source / "config.json"):
        with pytest.raises(CheckError, match="part of the source"):
            import_model(source, output, force=True)
    assert weights.read_bytes() == before
