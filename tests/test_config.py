"""config.json: every spelling of RoPE, and nothing that is guessed, contradictory or absurd."""
import pytest

from aprnb.config import APR_ALIASES, PRESETS, RopeScaling, from_apr, to_apr
from aprnb.errors import LoadError
from aprnb.formats.config_json import defined_elsewhere, from_hf, to_hf

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
SCALING = RopeScaling(8.0, 1.0, 4.0, 64)


def config(**changes):
    """A valid Llama config.json; a value of None removes the field."""
    base = {**to_hf(PRESETS["llama-370m"]), **changes}
    return {k: v for k, v in base.items() if v is not None}


@pytest.mark.parametrize("fields", [
    {"rope_theta": None, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    {"rope_theta": None, "rope_parameters": {"type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **LLAMA3}},
    {"rope_theta": None, "rope_scaling": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
    {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3},
     "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
])
def test_every_spelling_of_rope(fields):
    got = from_hf(config(**fields), "config.json")
    assert (got.rope_theta, got.rope_scaling) == (5e5, SCALING)


@pytest.mark.parametrize("fields, word", [
    ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
      "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, "contradicts itself"),
    ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **LLAMA3},
      "rope_scaling": {"type": "linear", "factor": 2}}, "'linear' is not supported"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "'yarn' is not supported"),
    ({"rope_scaling": "llama3"}, "need an object"), ({"rope_scaling": [1]}, "need an object"),
    ({"rope_theta": 1e4, "rope_scaling": {"rope_type": "default", "rope_theta": 2e4}},
     "contradicts itself"),
    ({"rope_theta": float("inf")}, "rope_theta is inf"), ({"rope_theta": 0}, "rope_theta is 0"),
    ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
    ({"initializer_range": -1.0}, "initializer_range is -1"),
    ({"tie_word_embeddings": "false"}, "need true or false"),
    ({"num_hidden_layers": 10**9}, "no model of this size"),
    ({"vocab_size": 10**12}, "no model of this size"),
    ({"vocab_size": 10**400}, "no model of this size"),
    ({"vocab_size": 2**31 + 1, "hidden_size": 64}, "at most 2,147,483,648"),
    ({"rope_theta": 10**400}, "rope_theta is 10000"), ({"hidden_size": 0}, "hidden_size is 0"),
    ({"head_dim": 7}, "head_dim 7 is odd"), ({"num_key_value_heads": 5}, "not a multiple"),
    ({"rope_scaling": {"rope_type": "llama3", **LLAMA3, "factor": 0.5}}, "need factor >= 1"),
])
def test_what_cannot_be_meant_is_refused(fields, word):
    with pytest.raises(LoadError, match=f"^a/config.json: .*{word}"):
        from_hf(config(**fields), "a/config.json")


NO_IDS = ["</s>", "2", 2.0, True, {"id": 2}, -1, 50257, 1 << 40]  # of a vocabulary of 50,257


@pytest.mark.parametrize("name, value", [
    *((name, value) for name in ("bos_token_id", "eos_token_id") for value in NO_IDS),
    ("bos_token_id", [1]), *(("eos_token_id", [1, value]) for value in NO_IDS + [None, [2]])],
    ids=str)
def test_what_is_no_id_of_a_token_is_refused_from_file_and_metadata(name, value):
    with pytest.raises(LoadError, match=f"^a/config.json: {name} is .*need"):
        from_hf(config(**{name: value}), "a/config.json")
    metadata = to_apr(PRESETS["llama-370m"]) | {f"tokenizer.{name}": value}
    with pytest.raises(LoadError, match=f"^a.apr: tokenizer.{name} is .*need"):
        from_apr(metadata, "a.apr")


def test_ids_of_tokens_are_read_one_or_several_or_none():
    for value in (0, 50256, None, [1, 2]):
        found = from_hf(config(eos_token_id=value), "config.json").eos_token_id
        assert found == (tuple(value) if isinstance(value, list) else value)
    metadata = to_apr(PRESETS["llama-370m"]) | {"tokenizer.eos_token_id": 1,
                                                "tokenizer.eos_token_ids": [1, 2]}
    assert from_apr(metadata, "a.apr").eos_token_id == (1, 2)
    with pytest.raises(LoadError, match="^a.apr: hidden_size is 0"):
        from_apr(metadata | {"hidden_size": 0, "head_dim": 64}, "a.apr")


@pytest.mark.parametrize("field", [
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "vocab_size", "max_position_embeddings", "rope_theta", "rms_norm_eps"])
def test_a_needed_field_is_never_guessed(field):
    with pytest.raises(LoadError, match=field):
        from_hf(config(**{"model_type": "qwen2", field: None}), "config.json")


def test_what_transformers_defines_is_read_and_said():
    """LlamaConfig has a base of RoPE, and as many key heads as heads, where a file has none."""
    old = config(rope_theta=None, num_key_value_heads=None)
    got = from_hf(old, "c")
    assert (got.rope_theta, got.num_kv_heads) == (10000, got.num_heads)
    notes = defined_elsewhere(old, "c")
    assert [n.partition(", which")[0] for n in notes] == [
        "c: rope_theta is absent, taken as 10000", "c: num_key_value_heads is absent, taken as 16"]
    newer = config(rope_theta=None, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert from_hf(newer, "c").rope_theta == 5e5
    assert defined_elsewhere(newer, "c") == defined_elsewhere(config(), "c") == []
    assert from_hf(config(hidden_act="swish"), "c") == from_hf(config(), "c")
    with pytest.raises(LoadError, match="hidden_act 'gelu'"):
        from_hf(config(hidden_act="gelu"), "c")


@pytest.mark.parametrize("fields, full", [
    ({"max_window_layers": 24}, True), ({"max_window_layers": 23}, False), ({}, True),
    ({"num_hidden_layers": 29}, False), ({"max_window_layers": 0, "sliding_window": None}, True),
    ({"layer_types": ["full_attention"] * 24, "max_window_layers": 0}, True),
    ({"layer_types": ["sliding_attention"] * 24}, False), ({"model_type": "llama"}, False)])
def test_windows_that_no_layer_has_are_none_as_in_transformers(fields, full):
    """Qwen2Config: layers from max_window_layers (28) on have a window, unless it is null."""
    base = to_hf(PRESETS["qwen2.5-0.5b"]) | {"use_sliding_window": True} | fields
    if full:
        assert from_hf(base, "c") == PRESETS["qwen2.5-0.5b"]
    else:
        with pytest.raises(LoadError, match="^c: not computed by this engine: "):
            from_hf(base, "c")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_config_json(name):
    assert from_hf(to_hf(PRESETS[name]), "config.json") == PRESETS[name]


def test_presets_are_the_published_configurations():
    """config.json of Qwen/Qwen2.5-0.5B, -1.5B and -7B; a Llama of 370 M parameters."""
    names = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
             "intermediate_size", "vocab_size", "max_position_embeddings", "rope_theta",
             "rms_norm_eps", "tied")
    published = {
        "qwen2.5-0.5b": (896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, True),
        "qwen2.5-1.5b": (1536, 28, 12, 2, 128, 8960, 151936, 32768, 1e6, 1e-6, True),
        "qwen2.5-7b": (3584, 28, 28, 4, 128, 18944, 152064, 32768, 1e6, 1e-6, False),
        "llama-370m": (1024, 24, 16, 4, 64, 2816, 50257, 4096, 1e4, 1e-5, False)}
    for name, facts in published.items():
        assert tuple(getattr(PRESETS[name], field) for field in names) == facts, name
        assert PRESETS[name].qkv_bias == name.startswith("qwen")


FIELDS = {"hidden_size": 384, "num_hidden_layers": 3, "num_attention_heads": 12,
          "num_key_value_heads": 2, "head_dim": 40, "intermediate_size": 200, "vocab_size": 777,
          "max_position_embeddings": 55, "rope_theta": 12345.0, "rms_norm_eps": 3e-6}


@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_the_ten_fields_are_those_of_the_file(model_type):
    """None of them a default or a quotient of others; the same through the metadata of an .apr."""
    there = from_hf(config(model_type=model_type, **FIELDS), "config.json")
    for got in (there, from_apr(to_apr(there), "m.apr")):
        assert (got.family, got.qkv_bias) == (model_type, model_type == "qwen2")
        assert [got.hidden_size, got.num_layers, got.num_heads, got.num_kv_heads, got.head_dim,
                got.intermediate_size, got.vocab_size, got.max_position_embeddings,
                got.rope_theta, got.rms_norm_eps] == list(FIELDS.values())


def test_scaling_and_tying_go_through_the_metadata():
    for tied in (True, False):
        got = from_hf(config(rope_scaling={"rope_type": "llama3", **LLAMA3},
                             tie_word_embeddings=tied), "config.json")
        back = from_apr(to_apr(got), "m.apr")
        assert (back.rope_scaling, back.tied) == (SCALING, tied)


@pytest.mark.parametrize("key", APR_ALIASES)
def test_a_needed_key_of_the_metadata_is_never_guessed(key):
    metadata = to_apr(PRESETS["qwen2.5-0.5b"])
    del metadata[key]
    with pytest.raises(LoadError, match=f"holds no {key}; hyper-parameters are never guessed"):
        from_apr(metadata, "m.apr")


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "deberta-v2", "mistral",
                                        "gpt2", "Qwen2", None, 3])
def test_another_family_is_refused_from_file_and_metadata(model_type):
    with pytest.raises(LoadError, match="not supported"):
        from_hf(config() | {"model_type": model_type}, "config.json")
    if model_type != "Qwen2":  # .apr files name the class or the family
        metadata = to_apr(PRESETS["qwen2.5-0.5b"]) | dict.fromkeys(
            ("architecture", "hf_architecture", "hf_model_type"), model_type)
        with pytest.raises(LoadError, match="not supported"):
            from_apr(metadata, "m.apr")
