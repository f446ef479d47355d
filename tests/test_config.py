"""config.json: every spelling of RoPE, and nothing that is guessed, contradictory or absurd."""
import pytest

from aprnb.config import PRESETS, RopeScaling, from_hf, to_hf
from aprnb.errors import LoadError

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
])
def test_what_cannot_be_meant_is_refused(fields, word):
    with pytest.raises(LoadError, match=word):
        from_hf(config(**fields), "config.json")


@pytest.mark.parametrize("field", [
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
    "vocab_size", "max_position_embeddings", "rope_theta", "rms_norm_eps"])
def test_a_needed_field_is_never_guessed(field):
    with pytest.raises(LoadError, match=field):
        from_hf(config(**{field: None}), "config.json")


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_config_json(name):
    assert from_hf(to_hf(PRESETS[name]), "config.json") == PRESETS[name]
