"""Tensor names and shapes of the Hugging Face families (apr-v2-format, section 10).

Matrices are (out, in), row-major, y = x @ W.T. Vectors have one dimension.
"""
from collections import Counter

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
PREFIXES = {"_orig_mod.": "torch.compile", "module.": "DistributedDataParallel",
            "base_model.model.": "PEFT"}


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
    """The findings as one text, the first of every kind, with a count of those left out."""
    kinds = {}
    for line in lines:
        kinds.setdefault(line.partition(" ")[0], []).append(line)
    shown = [line for kind in kinds.values() for line in kind[:limit // len(kinds)]]
    more = f"; and {len(lines) - len(shown)} more" if len(lines) > len(shown) else ""
    return "; ".join(shown) + more


def common_prefix(found, expected):
    """What stands before the expected names in most of the found ones: "" where nothing does."""
    prefixes = Counter()
    for name in found:
        for at, letter in enumerate(name):
            if letter == "." and name[at + 1:] in expected:
                prefixes[name[:at + 1]] += 1
                break
    prefix, count = max(prefixes.items(), key=lambda item: item[1], default=("", 0))
    return prefix if 2 * count > len(expected) else ""


def written_by(prefix):
    """Who puts such a prefix before names, as words of a message."""
    tools = [tool for part, tool in PREFIXES.items() if part in prefix]
    return f", as {' and '.join(tools)} write{'s' if len(tools) == 1 else ''} them" * bool(tools)
