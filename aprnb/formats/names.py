"""Tensor names and shapes of the Hugging Face families (apr-v2-format, section 10).

Matrices are (out, in), row-major, y = x @ W.T. Vectors have one dimension.
"""
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def expected_tensors(config):
    """{name: shape} of every tensor that a ModelConfig needs, the head only if it is not tied.

    In the order of the computation: embedding, layers, final norm, head.
    """
    hidden, vocabulary = config.hidden_size, config.vocab_size
    table = {EMBEDDING: (vocabulary, hidden)}
    for layer in range(config.num_layers):
        for name, shape in _layer(config).items():
            table[f"model.layers.{layer}.{name}"] = shape
    table["model.norm.weight"] = (hidden,)
    if not config.tied:
        table[HEAD] = (vocabulary, hidden)
    return table


def _layer(config):
    hidden, ffn = config.hidden_size, config.intermediate_size
    rows = {"q": config.num_heads * config.head_dim, "k": config.num_kv_heads * config.head_dim,
            "v": config.num_kv_heads * config.head_dim}
    table = {"input_layernorm.weight": (hidden,)}
    for letter, n in rows.items():
        table[f"self_attn.{letter}_proj.weight"] = (n, hidden)
        if config.qkv_bias:
            table[f"self_attn.{letter}_proj.bias"] = (n,)
    table["self_attn.o_proj.weight"] = (hidden, rows["q"])
    table["post_attention_layernorm.weight"] = (hidden,)
    table["mlp.gate_proj.weight"] = (ffn, hidden)
    table["mlp.up_proj.weight"] = (ffn, hidden)
    table["mlp.down_proj.weight"] = (hidden, ffn)
    return table


def is_state(name):
    """Whether a tensor is optimiser state or other luggage of a checkpoint, not a weight."""
    return name.startswith("__")


def is_buffer(name):
    """Whether a tensor is a constant that older checkpoints stored and every model recomputes."""
    return name.endswith("rotary_emb.inv_freq")


def compare_names(found, expected):
    """Lines that say how {name: shape} departs from the expected table; empty if it does not."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    lines = [f"missing {name} {list(expected[name])}" for name in missing]
    lines += [f"not expected {name} {list(found[name])}" for name in extra]
    lines += [f"misshapen {name}: got {list(found[name])}, need {list(shape)}"
              for name, shape in expected.items()
              if name in found and tuple(found[name]) != shape]
    return lines


def summary(lines, limit=12):
    """The findings as one text, with a count of those left out."""
    more = f"; and {len(lines) - limit} more" if len(lines) > limit else ""
    return "; ".join(lines[:limit]) + more
