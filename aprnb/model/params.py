"""The parameter table: where each tensor of a model lies in the flat arenas.

Weights, gradients and both moments share one layout, so the optimiser walks a single vector.
Matrices come first and vectors (norms, biases) last, so "decay on matrices" is a prefix. Q, K, V
lie side by side, gate and up too: one product computes them, while each keeps its Hugging Face name
as a view of its own.
"""
from dataclasses import dataclass
from math import prod

ALIGN = 64  # elements between packs: 256 bytes in float32, 128 in bfloat16


@dataclass(frozen=True)
class Row:
    """One named view: the elements offset .. offset + prod(shape) of an arena."""

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self):
        return prod(self.shape)


@dataclass(frozen=True)
class ParamTable:
    """Rows by Hugging Face name (`tensors`) and by the name under which ops use them (`packs`)."""

    tensors: dict[str, Row]
    packs: dict[str, Row]
    matrix_elements: int
    """Elements before the first vector: what weight decay on matrices covers."""
    elements: int
    """Length of an arena, padding included."""

    @property
    def parameters(self):
        """Number of trained values, padding excluded."""
        return sum(row.size for row in self.tensors.values())

    def views(self, arena):
        """Name -> view of a flat arena, for tensors and packs alike."""
        rows = {**self.tensors, **self.packs}
        return {name: arena[r.offset:r.offset + r.size].reshape(r.shape)
                for name, r in rows.items()}


def build_table(config):
    """The layout of a model of this configuration."""
    matrices, vectors = _packs(config)
    tensors, packs, at = {}, {}, 0
    for index, (pack, width, parts) in enumerate(matrices + vectors):
        if index == len(matrices):
            matrix_elements = at
        start = at
        for name, shape in parts:
            tensors[name] = Row(name, shape, at)
            at += prod(shape)
        packs[pack] = Row(pack, (sum(s[0] for _, s in parts), *width), start)
        at = -(-at // ALIGN) * ALIGN
    return ParamTable(tensors, packs, matrix_elements, at)


def _packs(config):
    """Lists of (pack name, trailing shape, [(tensor name, shape)]): matrices, then vectors."""
    c = config
    q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    hidden, ffn = (c.hidden_size,), (c.intermediate_size,)
    matrices = [_pack("model.embed_tokens.weight", (c.vocab_size,), hidden)]
    vectors = []
    for layer in range(c.num_layers):
        at = f"model.layers.{layer}."
        qkv = [(f"{at}self_attn.{n}_proj", rows) for n, rows in (("q", q), ("k", kv), ("v", kv))]
        gate_up = [(f"{at}mlp.{n}_proj.weight", ffn + hidden) for n in ("gate", "up")]
        matrices += [
            (f"{at}qkv.weight", hidden, [(f"{n}.weight", (rows, *hidden)) for n, rows in qkv]),
            _pack(f"{at}self_attn.o_proj.weight", hidden, (q,)),
            (f"{at}gate_up.weight", hidden, gate_up),
            _pack(f"{at}mlp.down_proj.weight", hidden, ffn),
        ]
        vectors += [_pack(f"{at}{n}_layernorm.weight", hidden) for n in ("input", "post_attention")]
        if c.qkv_bias:
            vectors.append((f"{at}qkv.bias", (), [(f"{n}.bias", (rows,)) for n, rows in qkv]))
    vectors.append(_pack("model.norm.weight", hidden))
    if not c.tied:
        matrices.append(_pack("lm_head.weight", (c.vocab_size,), hidden))
    return matrices, vectors


def _pack(name, rows, width=()):
    """A pack of one tensor."""
    return name, width, [(name, rows + width)]
