"""config.json of Hugging Face, read into a ModelConfig and written from one.

Nothing is guessed. A number that decides what is computed and that the file does not give is a
LoadError naming the field, unless transformers defines it for files of that age; that is said
(`defined_elsewhere`). So is a feature that this engine does not compute (sliding windows, attention
biases of Llama, other activations): a model that loads is computed as trained.
"""
from dataclasses import asdict

from ..config import FAMILIES, built, head_dim_of, scaling_of
from ..errors import LoadError
from ..fields import (Fields, boolean_of, integer_of, number_of, object_of, token_id_of,
                      token_ids_of)

# what transformers defines where a config.json is silent
LLAMA_THETA = 10000.0
SILU = ("silu", "swish")  # two names of one function
QWEN2_WINDOW, QWEN2_FULL_LAYERS = 4096, 28  # sliding_window, max_window_layers


def from_hf(config, where):
    """ModelConfig from a parsed Hugging Face config.json; `where` names it in errors."""
    get = Fields(config, where)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise LoadError(f"{where}: model_type {family!r} is not supported; "
                        f"supported: {', '.join(FAMILIES)}")
    _refuse_foreign_features(config, where)
    theta, scaling = _rope_from_hf(config, family, where)
    hidden, heads = get.integer("hidden_size"), get.integer("num_attention_heads")
    vocab_size = get.integer("vocab_size")
    kv_heads = config.get("num_key_value_heads")
    if kv_heads is None and family == "llama":
        kv_heads = heads
    elif kv_heads is None:
        get.missing("num_key_value_heads")
    head_dim = config.get("head_dim")
    return built(
        where,
        family=family,
        hidden_size=hidden,
        num_layers=get.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=integer_of(kv_heads, "num_key_value_heads", where),
        head_dim=head_dim_of(head_dim, hidden, heads, where),
        intermediate_size=get.integer("intermediate_size"),
        vocab_size=vocab_size,
        max_position_embeddings=get.integer("max_position_embeddings"),
        rope_theta=theta,
        rms_norm_eps=get.number("rms_norm_eps"),
        tied=boolean_of(config.get("tie_word_embeddings"), "tie_word_embeddings", where),
        rope_scaling=scaling,
        bos_token_id=token_id_of(config.get("bos_token_id"), "bos_token_id", where, vocab_size),
        eos_token_id=token_ids_of(config.get("eos_token_id"), "eos_token_id", where, vocab_size),
        initializer_range=number_of(config.get("initializer_range") or 0.02, "initializer_range",
                                    where),
    )


def defined_elsewhere(config, where):
    """Notes: what a config.json leaves out and `from_hf` takes as transformers defines it."""
    if config.get("model_type") != "llama":
        return []
    places = [config, *(config.get(name) or {} for name in ("rope_parameters", "rope_scaling"))]
    absent = {"rope_theta": all(place.get("rope_theta") is None for place in places),
              "num_key_value_heads": config.get("num_key_value_heads") is None}
    values = {"rope_theta": LLAMA_THETA, "num_key_value_heads": config.get("num_attention_heads")}
    return [f"{where}: {name} is absent, taken as {values[name]:g}, which transformers defines for "
            "Llama files of that age" for name, missing in absent.items() if missing]


def to_hf(config, dtype="float32"):
    """config.json (a dict) that transformers 4 and 5 both load."""
    scaling = config.rope_scaling and {"rope_type": "llama3", **asdict(config.rope_scaling)}
    out = {
        "architectures": [config.hf_architecture],
        "model_type": config.family,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.intermediate_size,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling,
        "rms_norm_eps": config.rms_norm_eps,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initializer_range,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": _json_ids(config.eos_token_id),
        "torch_dtype": dtype,
        "use_cache": True,
    }
    if config.family == "qwen2":
        out["use_sliding_window"] = False
    return out


def _json_ids(value):
    return list(value) if isinstance(value, tuple) else value


def _rope_from_hf(config, family, where):
    """(theta, scaling) from every spelling: rope_parameters (transformers 5), rope_scaling and
    rope_theta (older). Spellings that stand side by side must agree: which one a tool believes
    is its own affair, and another choice computes another model.
    """
    sources = {"": {"rope_theta": config.get("rope_theta")}}
    for name in ("rope_parameters", "rope_scaling"):
        if config.get(name):
            sources[name] = object_of(config[name], name, where)
    theta = _agreed({n: number_of(v["rope_theta"], "rope_theta", where)
                     for n, v in sources.items() if v.get("rope_theta") is not None},
                    "rope_theta", where)
    if theta is None and family == "llama":
        theta = LLAMA_THETA
    if theta is None:
        raise LoadError(f"{where}: needed field 'rope_theta' is missing (top level or under "
                        "rope_parameters); it is never guessed")
    scaling = _agreed({n: scaling_of(v, where) for n, v in sources.items() if n}, "RoPE scaling",
                      where)
    return theta, scaling


def _agreed(values, what, where):
    """The one value that all places give, None if there is none."""
    if len(set(values.values())) > 1:
        places = ", ".join(f"{name or 'top level'}: {value}" for name, value in values.items())
        raise LoadError(f"{where}: {what} contradicts itself ({places}); remove the untrue one")
    return next(iter(values.values()), None)


def _refuse_foreign_features(config, where):
    """Features of the two families that change the maths and that this engine does not compute."""
    wrong = []
    if config.get("hidden_act", "silu") not in SILU:
        wrong.append(f"hidden_act {config['hidden_act']!r} (only {', '.join(SILU)})")
    layers = config.get("layer_types") or []
    if not isinstance(layers, list) or any(t != "full_attention" for t in layers):
        wrong.append("layer_types other than full_attention")
    elif config.get("use_sliding_window") and not layers and not _all_layers_full(config, where):
        wrong.append("use_sliding_window true, for layers from max_window_layers on")
    for flag in ("attention_bias", "mlp_bias", "quantization_config"):
        if config.get(flag):
            wrong.append(f"{flag} set")
    if config.get("partial_rotary_factor", 1.0) != 1.0:
        wrong.append(f"partial_rotary_factor {config['partial_rotary_factor']}")
    if wrong:
        raise LoadError(f"{where}: not computed by this engine: {'; '.join(wrong)}")


def _all_layers_full(config, where):
    """Whether a Qwen2 config.json that turns sliding windows on leaves every layer without one."""
    if config.get("model_type") != "qwen2":
        return False
    if config.get("sliding_window", QWEN2_WINDOW) is None:
        return True
    full = integer_of(config.get("max_window_layers", QWEN2_FULL_LAYERS), "max_window_layers",
                      where)
    return full >= Fields(config, where).integer("num_hidden_layers")
