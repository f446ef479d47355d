"""ModelConfig: the numbers that fix a decoder, presets of it, and how APR metadata has them.

Nothing here is guessed: a number that decides what is computed and that the file does not give is
a LoadError naming the field. formats/config_json.py reads those of Hugging Face.
"""
from dataclasses import asdict, dataclass, replace

from .errors import LoadError
from .fields import Fields, integer_of, object_of, token_id_of, token_ids_of

# Hugging Face class, whether the Q/K/V projections carry biases.
FAMILIES = {
    "qwen2": ("Qwen2ForCausalLM", True),
    "llama": ("LlamaForCausalLM", False),
}

# APR key -> spellings accepted on reading; the first one present wins, only the first is written.
APR_ALIASES = {
    "hidden_size": ("hidden_size", "hidden_dim", "d_model", "n_embd"),
    "num_layers": ("num_layers", "num_hidden_layers", "n_layers", "n_layer"),
    "num_heads": ("num_heads", "num_attention_heads", "n_heads", "n_head"),
    "num_kv_heads": ("num_kv_heads", "num_key_value_heads", "n_kv_heads"),
    "vocab_size": ("vocab_size", "n_vocab"),
    "intermediate_size": ("intermediate_size", "ffn_dim", "intermediate_dim", "n_inner"),
    "max_position_embeddings": ("max_position_embeddings", "max_seq_len", "context_length",
                                "n_ctx"),
    "rms_norm_eps": ("rms_norm_eps", "layer_norm_eps", "norm_eps"),
    "rope_theta": ("rope_theta",),
}

MOST_LAYERS, MOST_PARAMETERS = 10_000, 1e13  # beyond them a number in the file is wrong
MOST_IDS = 1 << 31  # ids of tokens are signed 32-bit integers, here and in every shard

SPLIT_HALVES = 2  # APR rope_type of Hugging Face weights: k is rotated with k + head_dim/2


@dataclass(frozen=True)
class RopeScaling:
    """Llama-3 frequency scaling (Llama 3.1 report, section 3; transformers rope type "llama3")."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        if not (self.factor >= 1 and 0 < self.low_freq_factor < self.high_freq_factor
                and self.original_max_position_embeddings > 0):
            raise LoadError(f"rope_scaling {asdict(self)}: need factor >= 1, 0 < low_freq_factor "
                            "< high_freq_factor and original_max_position_embeddings > 0")


@dataclass(frozen=True)
class ModelConfig:
    """Shape and constants of a decoder-only transformer of the Qwen2 or Llama family."""

    family: str
    """"qwen2" (biases on Q, K, V) or "llama" (none)."""
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    rope_theta: float
    rms_norm_eps: float
    """Added to the mean square, not to the root."""
    tied: bool
    """The output head is the embedding table itself."""
    rope_scaling: RopeScaling | None = None
    bos_token_id: int | None = None
    eos_token_id: int | tuple[int, ...] | None = None
    initializer_range: float = 0.02

    def __post_init__(self):
        if self.family not in FAMILIES:
            raise LoadError(f"model family {self.family!r} is not supported; "
                            f"supported: {', '.join(FAMILIES)}")
        for name in ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
                     "intermediate_size", "vocab_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise LoadError(f"{name} is {getattr(self, name)}, need at least 1")
        if self.num_heads % self.num_kv_heads:
            raise LoadError(f"num_heads {self.num_heads} is not a multiple of "
                            f"num_kv_heads {self.num_kv_heads}")
        if self.head_dim % 2:
            raise LoadError(f"head_dim {self.head_dim} is odd; RoPE rotates halves")
        for name in ("rope_theta", "rms_norm_eps", "initializer_range"):
            if not 0 < getattr(self, name) < float("inf"):
                raise LoadError(f"{name} is {getattr(self, name)}, need a positive finite number")
        per_layer = self.hidden_size * (2 * (self.num_heads + self.num_kv_heads) * self.head_dim
                                        + 3 * self.intermediate_size)
        parameters = self.num_layers * per_layer + self.vocab_size * self.hidden_size
        if self.num_layers > MOST_LAYERS or parameters > MOST_PARAMETERS:
            raise LoadError(f"more than {MOST_LAYERS:,} layers or {MOST_PARAMETERS:.0e} parameters:"
                            " no model of this size exists; the configuration must be wrong")
        if self.vocab_size > MOST_IDS:
            raise LoadError(f"vocab_size is {self.vocab_size:,}, need at most {MOST_IDS:,}")

    @property
    def qkv_bias(self):
        return FAMILIES[self.family][1]

    @property
    def hf_architecture(self):
        return FAMILIES[self.family][0]

    def with_(self, **changes):
        """A copy with some fields replaced."""
        return replace(self, **changes)


# ---------------------------------------------------------------- APR metadata

def from_apr(metadata, where):
    """ModelConfig from the metadata of an .apr file (apr-v2-format, section 7, with its aliases).

    `tied` is what the file claims; only the tensors decide (see formats/model_file.py).
    `rope_type` is not believed: tensors with Hugging Face names are split halves.
    """
    flat = {}
    for key, spellings in APR_ALIASES.items():
        present = [s for s in spellings if metadata.get(s) is not None]
        if present:
            flat[key] = metadata[present[0]]
    get = Fields(flat, f"{where}: metadata")
    absent = [k for k in APR_ALIASES if k not in flat]
    if absent:
        raise LoadError(f"{where}: the file holds no {', '.join(absent)}; hyper-parameters are "
                        "never guessed: import the model again from its Hugging Face folder")
    family = family_of(metadata)
    if family is None:
        raise LoadError(f"{where}: architecture {metadata.get('architecture')!r} is not supported; "
                        f"supported: {', '.join(FAMILIES)}")
    hidden, heads = get.integer("hidden_size"), get.integer("num_heads")
    vocab_size, eos = get.integer("vocab_size"), "tokenizer.eos_token_ids"
    if eos not in metadata:
        eos = "tokenizer.eos_token_id"
    return built(
        where,
        family=family,
        hidden_size=hidden,
        num_layers=get.integer("num_layers"),
        num_heads=heads,
        num_kv_heads=get.integer("num_kv_heads"),
        head_dim=head_dim_of(metadata.get("head_dim"), hidden, heads, where),
        intermediate_size=get.integer("intermediate_size"),
        vocab_size=vocab_size,
        max_position_embeddings=get.integer("max_position_embeddings"),
        rope_theta=get.number("rope_theta"),
        rms_norm_eps=get.number("rms_norm_eps"),
        tied=bool(metadata.get("tied_embeddings", False)),
        rope_scaling=scaling_of(metadata.get("rope_scaling"), where),
        bos_token_id=token_id_of(metadata.get("tokenizer.bos_token_id"), "tokenizer.bos_token_id",
                                 where, vocab_size),
        eos_token_id=token_ids_of(metadata.get(eos), eos, where, vocab_size),
    )


def to_apr(config):
    """The metadata keys of apr-v2-format section 7, in its order, custom keys last."""
    out = {
        "architecture": config.family,
        "hf_architecture": config.hf_architecture,
        "hf_model_type": config.family,
        "hidden_size": config.hidden_size,
        "num_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "vocab_size": config.vocab_size,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings,
        "rope_theta": config.rope_theta,
        "rope_type": SPLIT_HALVES,
        "rms_norm_eps": config.rms_norm_eps,
        "head_dim": config.head_dim,
        "tied_embeddings": config.tied,
    }
    if config.rope_scaling:
        out["rope_scaling"] = {"rope_type": "llama3", **asdict(config.rope_scaling)}
    return out


def family_of(metadata):
    """"qwen2", "llama" or None, from the architecture keys of APR metadata."""
    by_class = {cls: family for family, (cls, _) in FAMILIES.items()}
    for key in ("hf_model_type", "architecture", "hf_architecture", "model_type"):
        value = metadata.get(key)
        if isinstance(value, str):
            family = by_class.get(value, value.lower())
            if family in FAMILIES:
                return family
    return None


# ---------------------------------------------------------------- presets

PRESETS = {
    "qwen2.5-0.5b": ModelConfig("qwen2", 896, 24, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, True,
                                bos_token_id=151643, eos_token_id=151643),
    "qwen2.5-1.5b": ModelConfig("qwen2", 1536, 28, 12, 2, 128, 8960, 151936, 32768, 1e6, 1e-6,
                                True, bos_token_id=151643, eos_token_id=151643),
    "qwen2.5-7b": ModelConfig("qwen2", 3584, 28, 28, 4, 128, 18944, 152064, 32768, 1e6, 1e-6,
                              False, bos_token_id=151643, eos_token_id=151643),
    "llama-370m": ModelConfig("llama", 1024, 24, 16, 4, 64, 2816, 50257, 4096, 1e4, 1e-5, False),
    "tiny": ModelConfig("qwen2", 128, 4, 4, 2, 32, 384, 4096, 1024, 1e4, 1e-6, True),
}


# ---------------------------------------------------------------- both ways

def built(where, **fields):
    """The ModelConfig of these fields; what it refuses is said of `where`."""
    try:
        return ModelConfig(**fields)
    except LoadError as error:
        raise LoadError(f"{where}: {error}") from None


def head_dim_of(stored, hidden, heads, where):
    if stored is not None:
        return integer_of(stored, "head_dim", where)
    if heads < 1 or hidden % heads:
        raise LoadError(f"{where}: hidden_size {hidden} is not a multiple of the {heads} heads and "
                        "no head_dim is given")
    return hidden // heads


def scaling_of(value, where):
    if not value:
        return None
    object_of(value, "rope_scaling", where)
    kind = value.get("rope_type", value.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise LoadError(f"{where}: rope type {kind!r} is not supported; supported: default, llama3")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    get = Fields(value, f"{where}: rope_scaling")
    numbers = [get.number(n) for n in names[:3]] + [get.integer(names[3])]
    try:
        return RopeScaling(*numbers)
    except LoadError as error:
        raise LoadError(f"{where}: {error}") from None
