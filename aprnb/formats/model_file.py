"""A model ready to be computed with, from an .apr file (ours or the reference's) or a folder.

Nothing is guessed: hyper-parameters stand in the file or in a config.json beside it, tensors are
compared with the architecture as sets of names and shapes. Whether the head is tied is read from
the tensors (entry absent, or placeholder without bytes); where it is there with the embedding's
values, `tie_word_embeddings: false` is believed.
"""
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..config import APR_ALIASES, ModelConfig, from_apr
from ..dtypes import FLOATS
from ..errors import LoadError
from .apr_layout import QUANTISED
from .apr_reader import read_apr
from .companions import companion_keys
from .config_json import defined_elsewhere, from_hf
from .hf_folder import HfModel, open_hf, read_json
from .names import (EMBEDDING, HEAD, common_prefix, compare_names, expected_tensors, is_buffer,
                    is_state, summary, written_by)
from .tensors import CHUNK, DENSE, TensorFile
from .tokenizer_folder import holds_tokenizer, read_tokenizer
from .tokenizer_keys import special_id_keys, token_ids
from .tokenizer_library import TokenizerStyleError


@dataclass
class OpenModel:
    """Configuration, texts and checked weights of one model."""

    path: Path
    config: ModelConfig
    """`tied` as the tensors say, whatever the file claims."""
    source: TensorFile | HfModel
    metadata: dict
    """Keys of apr-v2-format section 7; of a folder the special ids and `companions.KEYS`."""
    tokenizer_json: str | None
    notes: list
    """What a user should know: sources of hyper-parameters, synthesised heads, warnings."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.source.close()

    @property
    def names(self):
        """Weight names in the order of the computation."""
        return list(expected_tensors(self.config))

    def array(self, name):
        """One weight in its expected shape: a read-only view, or float32 if it was quantised."""
        return self.source.values(name).reshape(expected_tensors(self.config)[name])

    def weights(self):
        """Iterate over (name, array) of every weight, in the order of the computation."""
        for name, shape in expected_tensors(self.config).items():
            yield name, self.source.values(name).reshape(shape)


def open_tensors(path, verify=True):
    """The tensor table of an .apr file, a .safetensors file or a folder of them."""
    path = Path(path)
    if path.is_dir() or path.suffix == ".safetensors":
        return open_hf(path)
    return read_apr(path, verify)


def open_model(path):
    """Open and check a model.

    Errors:  NotFoundError; FormatError classes; LoadError if hyper-parameters are missing or
             untrustworthy, or if tensors are missing, extra or misshapen (all are listed).
    """
    source = open_tensors(path)
    if isinstance(source, HfModel):
        config, notes = config_of_folder(source)
        text, metadata, more = folder_texts(source, config)
        notes += more
        config = config.with_(eos_token_id=end_of_text(metadata))
        texts = text, metadata
    else:
        config, notes = hyper_parameters(source)
        notes = list(source.warnings) + notes
        texts = source.metadata.get("tokenizer.json"), source.metadata
    words = texts[1].get("tokenizer.vocab_size")
    if isinstance(words, int) and words > config.vocab_size:
        raise LoadError(f"{path}: tokenizer has {words} ids, the model's vocabulary "
                        f"{config.vocab_size}; need a tokenizer that is not larger than the model")
    config, head_notes = settle_head(source, config)
    notes += head_notes + check_weights(source, config)
    return OpenModel(Path(path), config, source, texts[1], texts[0], notes)


# ---------------------------------------------------------------- hyper-parameters

def config_of_folder(model):
    """(ModelConfig, notes) from the config.json of an HfModel."""
    settings, where = model.json("config.json", needed=True), model.folder / "config.json"
    chosen = [f"{model.folder}: of the hub's cache, this snapshot is read"
              ] * (model.folder.parent.name == "snapshots")
    return from_hf(settings, where), chosen + defined_elsewhere(settings, where)


def folder_texts(model, config):
    """(tokenizer.json or None, metadata keys, notes) of an HfModel, as import would keep them.

    A tokenizer whose files do not say how words are cut is left out with a note: the weights can be
    computed with all the same.
    """
    tokenizer, tokens, notes = None, {}, []
    if holds_tokenizer(model.folder):
        try:
            tokenizer = read_tokenizer(model.folder)
            notes += tokenizer.notes
            tokens = token_ids(tokenizer.text, tokenizer.where)
        except TokenizerStyleError as error:
            notes.append(f"the tokenizer is not used: {error}")
        except LoadError as error:
            ends = "tokenizer.eos_token_id" in folder_ids(model, {}, {})
            if "eos_token" in tokenizer.settings and not ends:
                raise  # only this tokenizer could say which id ends a text
            notes.append(f"special tokens have no ids: {error}")
    ids = folder_ids(model, tokenizer.settings if tokenizer else {}, tokens)
    keys, more = companion_keys(model, config, ids, tokenizer and (tokenizer, tokens))
    keys = {key: value for key, value in (ids | keys).items() if value is not None}
    return tokenizer and tokenizer.text, keys, notes + more


def folder_ids(model, settings, tokens):
    """`special_id_keys` of an HfModel and of the tokenizer_config.json and {token: id} to be used
    with it."""
    config, generation = (model.json(f"{name}.json") or {} for name in ("config",
                                                                        "generation_config"))
    return special_id_keys(config, generation, settings, tokens)


def end_of_text(keys):
    """Id or tuple of ids that end a text, from `special_id_keys`; None: nobody says."""
    several = keys.get("tokenizer.eos_token_ids")
    return tuple(several) if several else keys.get("tokenizer.eos_token_id")


def hyper_parameters(file):
    """(ModelConfig, notes) of an AprFile, from its metadata or from a config.json beside it."""
    metadata, beside = file.metadata, file.path.parent / "config.json"
    reason = untrusted_hyper_parameters(file)
    if reason is None:
        config = from_apr(metadata, file.path)
        _refuse_adjacent_pairs(metadata, config, file.path)
        return config, []
    if not beside.is_file():
        raise LoadError(f"{file.path}: {reason}; they are never guessed: put the model's "
                        "config.json beside the file, or import the model from its folder again")
    settings = read_json(beside)
    return from_hf(settings, beside), [f"hyper-parameters taken from {beside}: {reason}",
                                       *defined_elsewhere(settings, beside)]


def untrusted_hyper_parameters(file):
    """Why the hyper-parameters in an AprFile cannot be used, or None.

    The reference's quantiser derives head counts as hidden_size / 64, whatever the model has, and
    shapes cannot show it; its mark is quantised tensors from safetensors without a head_dim.
    """
    absent = [key for key, spellings in APR_ALIASES.items()
              if all(file.metadata.get(s) is None for s in spellings)]
    if absent:
        return f"the file holds no {', '.join(absent)}"
    quantised = any(t.dtype in QUANTISED for t in file.tensors.values())
    if (quantised and file.metadata.get("original_format") == "safetensors"
            and file.metadata.get("head_dim") is None):
        return ("the file is quantised and holds no head_dim, and the tool that writes such files "
                "invents the head counts")
    return None


def _refuse_adjacent_pairs(metadata, config, path):
    """GGUF stores Llama's q and k rows permuted for rotation of adjacent pairs."""
    if metadata.get("original_format") == "gguf" and config.family == "llama":
        raise LoadError(f"{path}: comes from GGUF, where Llama weights are ordered for adjacent "
                        "RoPE pairs, and this engine rotates split halves; import the model from "
                        "its Hugging Face folder")


# ---------------------------------------------------------------- tensors

def settle_head(source, config):
    """(config with `tied` as the tensors say, notes).

    A head of the same values as the embedding is tied only where the file does not say untied: one
    that starts as a copy is trained apart, as in transformers.
    """
    head = source.tensors.get(HEAD)
    if head is None:
        # a folder that claims an untied head and has none is incomplete; see check_weights
        return (config if isinstance(source, HfModel) else config.with_(tied=True)), []
    if head.is_placeholder:
        return config.with_(tied=True), [f"{HEAD} is a placeholder without bytes: the head is the "
                                         "embedding"]
    if same_values(source, HEAD, EMBEDDING):
        if said_untied(source, config):
            return config, [f"{HEAD} equals the embedding in value and the file says untied: it is "
                            "a head of its own"]
        return config.with_(tied=True), [f"{HEAD} equals the embedding in value: the head is tied "
                                         f"and the copy ({head.dtype}) is not used"]
    if config.tied:
        return config.with_(tied=False), [f"{HEAD} differs from the embedding although the file "
                                          "says tied: the head of its own is used"]
    return config, []


def said_untied(source, config):
    """Whether a model's file says untied; transformers takes an absent key of config.json for it,
    while older .apr files without the key hold copies of tied heads."""
    if config.tied:
        return False
    return isinstance(source, HfModel) or source.metadata.get("tied_embeddings") is False


def same_values(source, a, b):
    """Whether two tensors hold equal values, in whatever dtypes; streamed."""
    if b not in source.tensors or source.tensors[a].shape != source.tensors[b].shape:
        return False
    return all(np.array_equal(x, y, equal_nan=True)
               for x, y in zip(float_pieces(source, a), float_pieces(source, b)))


def float_pieces(source, name, count=CHUNK // 4):
    """A tensor as flat pieces of `count` elements; dense ones are read, not mapped.

    float32 for the weight types, float64 for any other, which float32 might not hold exactly.
    """
    entry = source.tensors[name]
    if entry.dtype not in DENSE:
        flat = source.values(name).reshape(-1)
        for at in range(0, flat.size, count):
            yield flat[at:at + count]
        return
    dtype, wide = DENSE[entry.dtype], np.float32 if entry.dtype in FLOATS else np.float64
    for piece in source.chunks(name, nbytes=count * dtype.itemsize):
        yield np.frombuffer(piece, dtype).astype(wide)


def check_weights(source, config):
    """Notes about tensors that are passed over; LoadError unless the rest is what config needs."""
    if config.num_layers > len(source.tensors):  # before a table of that many rows is made
        raise LoadError(f"{source.path}: {config.num_layers} layers are claimed, the file holds "
                        f"{len(source.tensors)} tensors in all")
    expected, notes, found = expected_tensors(config), [], {}
    buffers = [name for name in source.tensors if is_buffer(name)]
    for name, entry in source.tensors.items():
        if is_state(name) or is_buffer(name) or (name == HEAD and config.tied):
            continue
        shape = entry.shape
        if name.endswith(".bias") and name in expected and shape == (1, *expected[name]):
            shape = expected[name]
            notes.append(f"{name} has shape {list(entry.shape)}, read as {list(shape)}")
        found[name] = shape
    wrong = compare_names(found, expected)
    prefix = common_prefix(found, expected)
    if wrong and prefix:
        raise LoadError(f"{source.path}: the names of the tensors begin with {prefix!r}"
                        f"{written_by(prefix)}; try `aprnb import --strip-prefix {prefix}`")
    if wrong:
        raise LoadError(f"{source.path}: {len(wrong)} tensors do not fit {config.hf_architecture} "
                        f"with {config.num_layers} layers: {summary(wrong)}")
    if buffers:
        notes.append(f"{len(buffers)} rotary_emb.inv_freq buffers are passed over: they are "
                     "computed from rope_theta")
    return notes
