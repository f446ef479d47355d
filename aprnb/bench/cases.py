"""What is measured: sizes, floating-point operations and bytes of every case, as plain tables.

Shapes are those of Qwen2.5-0.5B; attention with head_dim 128 has the heads of the 1.5B model. Bytes
are what an op must move at least: each input read once, each output written once, whatever a kernel
does; operations are counted at a product's full size, in causal attention at half of T x T.
"""
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod

import numpy as np

from ..config import PRESETS
from ..dtypes import BF16, F32
from ..errors import UsageError

INT = np.dtype(np.int32)
SHAPE = PRESETS["qwen2.5-0.5b"]
ROWS = (16384, 2048)
ATTENTION_SIZES = ((16, 1024), (8, 2048), (4, 4096), (1, 16384), (4, 512))  # batch, length
ATTENTION_HEADS = {64: (14, 2), 128: (12, 2)}  # head_dim -> query heads, key/value heads
STEP_CASES = ("16x1024", "4x512", "8x2048", "4x4096", "1x16384", "64x256")


def select(cases, patterns):
    """The cases whose names match one of comma-separated globs.

    cases: name -> case
    Errors: UsageError for a glob that matches none.
    """
    globs = [glob.strip() for glob in patterns.split(",")]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in cases):
            raise UsageError(f"--cases {glob!r} matches none of {', '.join(cases)}")
    return {name: case for name, case in cases.items()
            if any(fnmatchcase(name, glob) for glob in globs)}


# ---------------------------------------------------------------- products

@dataclass(frozen=True)
class Product:
    """C = A B in one of three layouts: "nt" A (M, K), B (N, K); "nn" A (M, K), B (K, N);
    "tn" A (K, M), B (K, N) and C in float32."""

    layout: str
    M: int
    N: int
    K: int

    @property
    def shapes(self):
        """Of C, A and B."""
        M, N, K = self.M, self.N, self.K
        return (M, N), (K, M) if self.layout == "tn" else (M, K), \
            (N, K) if self.layout == "nt" else (K, N)

    @property
    def dtypes(self):
        return F32 if self.layout == "tn" else BF16, BF16, BF16

    @property
    def flops(self):
        return 2 * self.M * self.N * self.K

    @property
    def nbytes(self):
        return sum(prod(s) * t.itemsize for s, t in zip(self.shapes, self.dtypes))


def products(config=SHAPE):
    """Name -> Product of every linear layer, forward and both gradients, and one large cube."""
    c, cases = config, {}
    layers = {"qkv": (c.hidden_size, (c.num_heads + 2 * c.num_kv_heads) * c.head_dim),
              "o": (c.num_heads * c.head_dim, c.hidden_size),
              "gate_up": (c.hidden_size, 2 * c.intermediate_size),
              "down": (c.intermediate_size, c.hidden_size),
              "head": (c.hidden_size, c.vocab_size)}
    for R in ROWS:
        for name, (inside, outside) in layers.items():
            cases[f"{name}/fwd/{R}"] = Product("nt", R, outside, inside)
            cases[f"{name}/dgrad/{R}"] = Product("nn", R, inside, outside)
            cases[f"{name}/wgrad/{R}"] = Product("tn", outside, inside, R)
    return cases | {"cube/8192": Product("nt", 8192, 8192, 8192)}


# ---------------------------------------------------------------- attention

@dataclass(frozen=True)
class Attention:
    """Causal grouped-query attention, one direction."""

    direction: str
    B: int
    T: int
    H: int
    KVH: int
    D: int

    @property
    def flops(self):
        """Two products forward, five backward, of the lower half of T x T."""
        return (2 if self.direction == "fwd" else 5) * self.B * self.H * self.T ** 2 * self.D


def attentions():
    """Name -> Attention."""
    return {f"{direction}/{D}/{B}x{T}": Attention(direction, B, T, *heads, D)
            for D, heads in ATTENTION_HEADS.items() for direction in ("fwd", "bwd")
            for B, T in ATTENTION_SIZES}


# ---------------------------------------------------------------- memory-bound ops

@dataclass(frozen=True)
class Array:
    """An argument of an op."""

    shape: tuple[int, ...]
    dtype: np.dtype = BF16
    passes: float = 1
    """How often its bytes move: 1 read or written, 2 both, a fraction if only that part is."""
    fill: str | float = "normal"
    """"normal" random values, "ids" different integers, or one number."""
    below: int = 0
    """What ids are smaller than."""

    @property
    def nbytes(self):
        return prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Op:
    """A call of an op: arrays and scalars in the order of its signature."""

    name: str
    arguments: tuple
    home: str | None = None
    """File under kernels/ of an op that a backend does not bind by itself."""

    @property
    def arrays(self):
        return [a for a in self.arguments if isinstance(a, Array)]

    @property
    def moved(self):
        """Bytes that have to move."""
        return round(sum(a.nbytes * a.passes for a in self.arrays))

    @property
    def held(self):
        """Bytes that the arrays occupy."""
        return sum(a.nbytes for a in self.arrays)


def ops(config=SHAPE, rows=ROWS):
    """Name -> Op."""
    cases = {}
    for R in rows:
        for op in (*norms(config, R), *elementwise(config, R), *lookups(config, R)):
            cases[f"{op.name}/{R}"] = op
    for op in whole_model(config):
        cases[f"{op.name}/all"] = op
    return cases


def norms(config, R):
    """RMSNorm, alone and with the residual add."""
    C, eps = config.hidden_size, config.rms_norm_eps
    x, w, dw, rstd = Array((R, C)), Array((C,)), Array((C,), F32), Array((R,), F32, fill=1.0)
    yield Op("rmsnorm_forward", (x, rstd, x, w, eps))
    yield Op("rmsnorm_backward", (x, dw, x, x, w, rstd, False))
    yield Op("add_rmsnorm_forward", (x, x, rstd, x, x, w, eps))
    yield Op("add_rmsnorm_backward", (x, dw, x, x, x, w, rstd, False))


def elementwise(config, R):
    """SwiGLU, RoPE in place on packed heads, the bias gradient, conversion of storage type."""
    c, F, T = config, config.intermediate_size, min(R, 1024)
    gate_up, act = Array((R, 2 * F)), Array((R, F))
    yield Op("swiglu_forward", (act, gate_up))
    yield Op("swiglu_backward", (gate_up, act, gate_up))
    turned, packed = c.num_heads + c.num_kv_heads, c.num_heads + 2 * c.num_kv_heads
    x = Array((R // T, T, packed, c.head_dim), passes=2 * turned / packed)
    angles = Array((T, c.head_dim // 2), F32, fill=0.6)
    yield Op("rope_forward", (x, angles, angles, turned))
    yield Op("rope_backward", (x, angles, angles, turned))
    yield Op("column_sum", (Array((packed * c.head_dim,), F32), Array((R, packed * c.head_dim)),
                            False))
    yield Op("convert", (Array((R * c.hidden_size,)), Array((R * c.hidden_size,), F32)))


def lookups(config, R):
    """Embedding, of whose table only R rows move, and the loss of a chunk of R rows of logits."""
    C, V = config.hidden_size, config.vocab_size
    x, ids = Array((R, C)), Array((R,), INT, fill="ids", below=V)
    yield Op("embedding_forward", (x, Array((V, C), passes=R / V), ids))
    yield Op("embedding_backward", (Array((V, C), F32, passes=2 * R / V), x, ids, True))
    yield Op("cross_entropy", (Array((R,), F32), Array((R, V), passes=2), ids,
                               Array((1,), F32, fill=1e-4), True), home="sm80.cross_entropy")


def whole_model(config):
    """Ops over the flat arena of all parameters."""
    n = parameters(config)
    one = Array((1,), F32, fill=0.5)
    yield Op("sum_of_squares", (Array((1024,), F32), Array((n,), F32)))
    both, moment = Array((n,), F32, passes=2), Array((n,), F32, passes=2, fill=0.0)
    yield Op("adamw", (both, Array((n,)), moment, moment, Array((n,), F32),
                       Array((1,), F32, fill=1e-5), one, one, one, 0.9, 0.95, 1e-8, 0.1, n))


def parameters(config):
    """Weights of a model whose head is its embedding table, biases of Q, K, V included."""
    c = config
    qkv = (c.num_heads + 2 * c.num_kv_heads) * c.head_dim
    layer = (c.hidden_size * (qkv + c.num_heads * c.head_dim + 3 * c.intermediate_size + 2)
             + (qkv if c.qkv_bias else 0))
    return c.vocab_size * c.hidden_size + c.num_layers * layer + c.hidden_size
