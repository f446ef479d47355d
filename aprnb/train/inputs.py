"""What a run reads: model, tokenizer and data, opened and judged before a device is touched.

Model, tokenizer and shards must belong together, and each pair is checked by what the files say:
ids against rows of the embedding, the digest in the manifest against that of the tokenizer. What
cannot be checked becomes a warning, never a guess. A checkpoint carries the tokenizer and chat
template of the model that it continues ("luggage"), so that it can be spoken with by itself.
"""
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..config import PRESETS, ModelConfig
from ..data.audit import refuse_meaningless
from ..data.batches import Windows, count_repeats, draw, split_validation
from ..data.ngrams import count_shared
from ..data.shards import crc32_of, file_entry, open_dataset
from ..data.tokenizer import TokenizerStyleError, from_json, load_tokenizer
from ..errors import LoadError, NotFoundError, UsageError
from ..formats import companions
from ..formats.config_json import defined_elsewhere, from_hf
from ..formats.hf_folder import read_json, snapshot_of
from ..formats.model_file import OpenModel, open_model
from ..formats.tokenizer_keys import special_id_keys, tokenizer_keys
from ..formats.tokenizer_rules import identity_warnings
from ..words import counted

LUGGAGE = ("chat_format", "special_tokens", *companions.KEYS)  # beside all "tokenizer." keys


@dataclass
class ModelInput:
    """The model to train, not yet on a device."""

    config: ModelConfig
    opened: OpenModel | None
    """Weights to begin with; None for random ones."""
    luggage: dict
    """Metadata keys of tokenizer and chat template, for the checkpoints."""
    tokenizer_digest: str | None
    warnings: list[str] = field(default_factory=list)

    @property
    def ln_vocab_nats(self):
        """Loss of a uniform guess over the rows of the embedding."""
        return math.log(self.config.vocab_size)


@dataclass
class DataInput:
    """Windows to train and to validate on, none in both unless --val-shard says so."""

    train: Windows
    train_indices: range | np.ndarray
    val: Windows
    val_indices: range | np.ndarray
    """Both are ascending window numbers."""
    fingerprint: str
    """Of the tokens of both datasets: a resumed run must read the same."""
    repeats: int
    """Windows of the training data that equal an earlier one."""
    shared: int
    """Validation windows that also stand in the training data."""
    entropy_nats: float
    """Of the training data's ids: what a model scores that knows how often each comes."""
    warnings: list[str] = field(default_factory=list)

    def counts(self):
        """What is used and what is not, JSON-able: windows of both, and tokens in no window."""
        own = self.val is not self.train
        return {"train_windows": len(self.train_indices), "val_windows": len(self.val_indices),
                "val_windows_left_out": len(self.val) - len(self.val_indices) if own else 0,
                "tokens_in_no_window": {"dataset": self.train.left_out()}
                | ({"val_shard": self.val.left_out()} if own else {})}


# ---------------------------------------------------------------- model

def open_model_input(settings, state=None):
    """ModelInput of --init or --arch, or of a saved state.

    state: OpenModel of the run that goes on; its own tokenizer then stands.
    Errors: LoadError if sequence or tokenizer do not fit the model; UsageError, NotFoundError,
    FormatError for what cannot be opened.
    """
    opened = state or (open_model(settings.init) if settings.init else None)
    config, notes = (opened.config, opened.notes) if opened else arch_config(settings.arch)
    if settings.seq_length > config.max_position_embeddings:
        raise LoadError(f"--seq-length {settings.seq_length} exceeds the model's "
                        f"{config.max_position_embeddings} positions; use a shorter one")
    luggage = luggage_of(opened) if opened else {}
    warnings = list(notes)
    given = None if state else settings.tokenizer
    try:
        tokenizer = find_tokenizer(settings.dataset, opened, given)
    except TokenizerStyleError as error:
        if given:
            raise
        # the shards are encoded already: the text goes into the checkpoints as it came
        warnings.append(f"the model's tokenizer cannot be checked against the data: {error}")
        tokenizer = None
    if tokenizer is None and not luggage.get("tokenizer.vocabulary"):
        warnings.append("no tokenizer: the checkpoints will hold none and cannot be spoken with; "
                        "give one with --tokenizer")
    if tokenizer:
        if opened and opened.tokenizer_json not in (None, tokenizer.text):
            luggage = companions.without_tokenizer(luggage)
            warnings.append(f"{tokenizer.where} takes the place of the model's own tokenizer: the "
                            "special ids, chat templates, generation_config.json and "
                            "tokenizer_config.json of the model do not go into the checkpoints")
        luggage |= tokenizer_luggage(tokenizer, config, luggage)
        warnings += tokenizer.warnings + identity_warnings(
            tokenizer.text, config.family, luggage.get("tokenizer_config") or {}, tokenizer.where)
    return ModelInput(config, opened, luggage, tokenizer.digest if tokenizer else None, warnings)


def arch_config(name):
    """(ModelConfig, notes) of a preset, of a config.json or of the folder that holds one.

    Errors: UsageError for an unknown name, NotFoundError for a missing file, LoadError for one
    that lacks a hyper-parameter: none is ever guessed.
    """
    if name in PRESETS:
        return PRESETS[name], []
    path = snapshot_of(Path(name))
    path = path / "config.json" if path.is_dir() else path
    if not path.exists() and path.suffix != ".json":
        raise UsageError(f"--arch {name}: need one of {', '.join(PRESETS)}, or a config.json")
    if not path.is_file():
        raise NotFoundError(f"{path}: no such config.json")
    settings = read_json(path)
    return from_hf(settings, path), defined_elsewhere(settings, path)


def find_tokenizer(dataset, opened=None, given=None):
    """Tokenizer from the path given, else the model's own, else the dataset's, else None.

    Errors: TokenizerStyleError for a vocabulary that is not byte-level.
    """
    if given:
        return load_tokenizer(given)
    if opened and opened.tokenizer_json:
        settings = opened.metadata.get("tokenizer_config")
        return from_json(opened.tokenizer_json, f"{opened.path}: tokenizer.json",
                         settings if isinstance(settings, dict) else None)
    folder = Path(dataset)
    beside = (folder if folder.is_dir() else folder.parent) / "tokenizer.json"
    return load_tokenizer(beside) if beside.is_file() else None


def tokenizer_luggage(tokenizer, config, before):
    """Metadata keys of a tokenizer and of its tokenizer_config.json.

    before: the model's; its special ids and its tokenizer_config.json stay, if it has any.
    Errors: LoadError if the tokenizer has more ids than the model.
    """
    keys = tokenizer_keys(tokenizer.text, tokenizer.where, config.vocab_size)
    settings = tokenizer.settings | {"eos_token": tokenizer.eos_token}
    keys |= special_id_keys({}, {}, settings, tokenizer.vocabulary)
    if "tokenizer_config" not in before and tokenizer.settings:
        keys |= companions.settings_keys(tokenizer.settings)
    return keys | {key: before[key] for key in before if key.endswith(("_token_id", "_token_ids"))}


def luggage_of(opened):
    """What a checkpoint takes over from the model that it continues, beside its weights."""
    return {key: value for key, value in opened.metadata.items()
            if (key.startswith("tokenizer.") or key in LUGGAGE) and value is not None}


# ---------------------------------------------------------------- data

def open_data_input(settings, model):
    """DataInput of --dataset and --val-shard, after the gate CORPUS-PREFLIGHT on both.

    Without --val-shard at most 5 % of the windows of the dataset are held out. Which windows
    validate depends on --val-windows, --seed and the data alone. Repeats and leaks are counted and
    warned about, never refused.
    Errors: CheckError for data on which a loss means nothing, or that another tokenizer made.
    """
    dataset, windows, entropy_nats = _open(settings.dataset, settings, model)
    wanted, order, seed = settings.wanted_val_windows(), settings.val_order, settings.seed
    if settings.val_shard:
        val_dataset, val, _ = _open(settings.val_shard, settings, model)
        datasets, train_indices = (dataset, val_dataset), range(len(windows))
        val_indices = (draw(len(val), wanted, seed) if order == "shuffled" else
                       range(min(wanted, len(val))))
    else:
        val, datasets = windows, (dataset,)
        train_indices, val_indices = split_validation(len(windows), wanted, order, seed)
    repeats = count_repeats(windows)
    shared = count_shared(val.hashes[np.asarray(val_indices)],
                          windows.hashes[np.asarray(train_indices)])
    warnings = [w for d in datasets for w in d.warnings]
    warnings += [w for each in {id(windows): windows, id(val): val}.values()
                 for w in short_shards(each)]
    warnings += trained_on_validation(settings, model, fingerprint(*datasets))
    if settings.val_batches:
        warnings.append(f"--val-batches {settings.val_batches}: the validation windows depend on "
                        f"--batch-size; --val-windows {wanted} names the same number without it")
    if repeats:
        warnings.append(f"{repeats} of {counted(len(windows), 'window')} repeat an earlier one")
    if shared:
        warnings.append(f"{shared} of {len(val_indices)} validation windows also stand in the "
                        "training data; the validation loss is too good")
    return DataInput(windows, train_indices, val, val_indices, fingerprint(*datasets), repeats,
                     shared, entropy_nats, warnings)


def trained_on_validation(settings, model, data):
    """A warning where --init was trained on the same data, split in another way.

    A draw with the same seed, or a tail, of no more windows than were held out then lies in those.
    """
    facts = model.opened.metadata if settings.init and model.opened else {}
    then = facts.get("training_settings")
    if settings.val_shard or facts.get("training_data_sha256") != data \
            or not isinstance(then, dict):
        return []
    order = then.get("val_order", "sequential")
    try:
        held_out = then.get("val_windows") or then["val_batches"] * then["batch_size"]
        same = (settings.val_order == order and settings.seq_length == then["seq_length"]
                and (order == "sequential" or settings.seed == then["seed"])
                and settings.wanted_val_windows() <= held_out)
    except (KeyError, TypeError):
        return []  # settings that no run of ours has written
    return [] if same else [
        f"{settings.init} was trained on this dataset with other validation windows ({held_out} of "
        f"them, {order}, --seed {then.get('seed')}): it has seen most of those of this run, so its "
        "validation loss is too good; give the same --seed, --seq-length and --val-order and no "
        "more --val-windows, or a --val-shard"]


def short_shards(windows):
    """A warning where whole shards are not read, being shorter than a window."""
    short = windows.left_out()["short_shards"]
    if not short["count"]:
        return []
    names = ", ".join(f"{name} ({tokens})" for name, tokens in list(short["names"].items())[:5])
    return [f"{windows.path}: {counted(short['count'], 'shard')} shorter than a "
            f"window of {windows.seq_length + 1} tokens and not read: {names}"
            f"{', ...' * (short['count'] > 5)}; a shorter --seq-length reads them"]


def _open(path, settings, model):
    """(Dataset, its Windows, its entropy in nats), with ids, counts, checksums and tokenizer
    judged."""
    dataset = open_dataset(path, model.config.vocab_size, model.tokenizer_digest)
    entropy_bits = refuse_meaningless(dataset, model.config.vocab_size, settings.seq_length)
    return dataset, Windows(dataset, settings.seq_length), entropy_bits * math.log(2)


def fingerprint(*datasets):
    """SHA-256 over count and CRC-32 of every shard, wherever the shards lie."""
    rows = []
    for dataset in datasets:
        for file, shard in zip(dataset.files, dataset.shards):
            entry = file_entry(dataset.manifest, file.name)  # was checked when it was opened
            rows.append([len(shard), entry["crc32"] if entry else f"{crc32_of(shard):08x}"])
        rows.append("end")
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
