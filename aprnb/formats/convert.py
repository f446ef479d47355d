"""Import and export: Hugging Face folder -> .apr -> Hugging Face folder.

Payload bytes, dtypes and names are those of the source all the way round, and so are the files of
the weights; config.json is written anew from the hyper-parameters. What stands in metadata for
export's sake: tokenizer.json, generation_config, tokenizer_config, chat_template, source_digests.
"""
import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from statistics import mode

import numpy as np

from ..config import to_apr, to_hf
from ..dtypes import FLOATS
from ..errors import CheckError, LoadError, NonFiniteError, NotFoundError
from .apr_writer import create_apr
from .atomic import refuse_existing, replace_folder, write_text
from .hf_folder import INDEX, open_hf, read_text
from .model_file import (chat_template, check_weights, config_of_folder, float_pieces, open_model,
                         settle_head)
from .names import expected_tensors
from .safetensors import write_safetensors
from .tokenizer_keys import (generation_settings, special_id_keys, token_ids, tokenizer_keys,
                             tokenizer_settings)

MODEL_TYPE = {"qwen2": "Qwen2", "llama": "Llama"}  # as the reference's importer spells them
TORCH_DTYPE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SHARD_NBYTES = 5_000_000_000
WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
# every name that an export may write: what --force may replace
EXPORTED = re.compile(r"(generation_|tokenizer_)?config\.json|tokenizer\.json|"
                      rf"{WEIGHT_FILE.pattern}(\.index\.json)?")


# ---------------------------------------------------------------- import

def import_model(source, output, tokenizer=None, force=False):
    """Write a Hugging Face folder, or one .safetensors beside its config.json, as one .apr file.

    The source is read twice, first for the digests, which stand before the payloads; memory stays
    at one chunk. tokenizer: a tokenizer.json, or a folder that holds one, instead of the source's.
    Returns a report (schema aprnb-import-v1).
    Errors:  LoadError for configuration, tensors or tokenizer; CheckError if `output` exists.
    """
    output = Path(output)
    refuse_existing(output, force)
    with open_hf(source) as model:
        _refuse_own_source(output, model)
        config, notes = settle_head(model, config_of_folder(model))
        notes += check_weights(model, config)
        names = expected_tensors(config)
        entries = [(name, _importable(model, name), model.tensors[name].shape) for name in names]
        words, tokenizer_report, more_notes = _texts(model, config, tokenizer)
        metadata = {"model_type": MODEL_TYPE[config.family], "name": output.stem,
                    "original_format": "safetensors", **to_apr(config), **words,
                    "source_digests": {name: _digest(model, name) for name in sorted(names)}}
        with create_apr(output, metadata, entries, force) as writer:
            for entry in writer.entries:
                writer.write_chunks(entry.name, model.chunks(entry.name))
    return {"schema": "aprnb-import-v1", "output": str(output), "tensors": len(entries),
            "bytes": output.stat().st_size, "dtypes": dict(Counter(e[1] for e in entries)),
            "tokenizer": tokenizer_report, "source": str(source), "notes": notes + more_notes}


def _refuse_own_source(output, model):
    """CheckError if the output would replace a file of the folder that the model is read from."""
    inside = output.resolve().parent == model.folder.resolve()
    if inside and output.exists() and output.suffix in (".safetensors", ".json"):
        raise CheckError(f"{output}: is part of the source, which --force does not replace while "
                         "it is read; choose another output")


def _importable(model, name):
    """Dtype of a weight, if this engine can compute with it."""
    dtype = model.tensors[name].dtype
    if dtype not in FLOATS:
        raise LoadError(f"{model.path}: {name} is stored as {dtype}; dtypes that can be imported: "
                        f"{', '.join(FLOATS)}")
    return dtype


def _digest(model, name):
    """SHA-256 and file of one source tensor; the first of the two readings."""
    sha = hashlib.sha256()
    for piece in model.chunks(name):
        sha.update(piece)
    return {"sha256": sha.hexdigest(), "file": model.file_of(name)}


def _texts(model, config, tokenizer):
    """(metadata keys, tokenizer report or None, notes) from the JSON files beside the weights."""
    generation = model.json("generation_config.json") or {}
    settings = model.json("tokenizer_config.json") or {}
    path = _tokenizer_path(model, tokenizer)
    keys, tokens, report, notes = {}, {}, None, []
    if path is None:
        notes.append("no tokenizer.json in the source: the file will hold no tokenizer")
    else:
        text = read_text(path)
        keys, tokens = tokenizer_keys(text, path, config.vocab_size), token_ids(text, path)
        report = {"file": str(path), "tokens": keys["tokenizer.vocab_size"],
                  "merges": len(keys["tokenizer.merges"])}
    ids = special_id_keys(model.json("config.json"), generation, settings, tokens)
    keys |= ids
    keys["chat_template"] = chat_template(model)
    # kept for export, whole, as they are or as export would have to make them up; the chat
    # template has a key of its own
    settings.pop("chat_template", None)
    keys["generation_config"] = generation or generation_settings(ids)
    keys["tokenizer_config"] = settings or tokenizer_settings(ids, tokens)
    return keys, report, notes


def _tokenizer_path(model, given):
    """The tokenizer.json to embed, or None where the source has none."""
    if given is None:
        path = model.folder / "tokenizer.json"
        return path if path.is_file() else None
    path = Path(given)
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise NotFoundError(f"{path}: no such tokenizer file")
    return path


# ---------------------------------------------------------------- export

def export_model(path, folder, dtype="keep", shard_size=None, force=False):
    """Write a model as a folder that transformers loads.

    dtype: "keep" leaves every payload byte as it is; "F32", "F16" or "BF16" rounds to nearest even.
    shard_size: bytes of weights in one file; None keeps the files of the source that the model was
    imported from, so that import -> export -> import gives equal bytes, or else takes 5 GB.
    Returns a report (schema aprnb-export-v1).
    """
    with open_model(path) as model:
        dtypes = {name: _exportable(model, name, dtype) for name in model.names}
        shapes = expected_tensors(model.config)
        shards = _source_shards(model) if shard_size is None else None
        shards = shards or _shards(dtypes, shapes, shard_size or SHARD_NBYTES)
        with replace_folder(folder, EXPORTED, force) as out:
            for file, names in shards.items():
                write_safetensors(out / file, [(n, dtypes[n], shapes[n]) for n in names],
                                  lambda name: _payload(model, name, dtypes[name]))
            for file, content in _json_files(model, dtypes, shapes, shards).items():
                text = content if isinstance(content, str) else json.dumps(
                    content, indent=2, ensure_ascii=False) + "\n"
                write_text(out / file, text)
    written = sorted(Path(folder).iterdir())
    return {"schema": "aprnb-export-v1", "output": str(folder), "source": str(path),
            "tensors": len(dtypes), "dtypes": dict(Counter(dtypes.values())),
            "files": [p.name for p in written],
            "bytes": sum(p.stat().st_size for p in written), "notes": model.notes}


def _exportable(model, name, dtype):
    """Dtype in which a weight is written."""
    if dtype != "keep":
        return dtype
    stored = model.source.tensors[name].dtype
    if stored not in FLOATS:
        raise CheckError(f"{model.path}: {name} is stored as {stored}, which transformers does not "
                         f"read; choose one of --dtype {', '.join(FLOATS)}")
    return stored


def _payload(model, name, dtype):
    """Pieces of one payload, as stored or rounded to another dtype."""
    if model.source.tensors[name].dtype == dtype:
        yield from model.source.chunks(name)
        return
    for piece in float_pieces(model.source, name):
        with np.errstate(over="ignore"):  # judged below, with the name of the tensor
            rounded = piece.astype(FLOATS[dtype])
        if not np.isfinite(rounded[np.isfinite(piece)].astype(np.float32)).all():
            raise NonFiniteError(f"{model.path}: {name} holds values beyond the range of {dtype}; "
                                 "choose --dtype BF16 or F32")
        yield rounded.view(np.uint8)


def _source_shards(model):
    """{file name: tensor names} as the source had them, if the model says so of every weight."""
    digests = model.metadata.get("source_digests")
    if not isinstance(digests, dict):
        return None
    shards = {}
    for name in model.names:
        row = digests.get(name)
        file = row.get("file") if isinstance(row, dict) else None
        if not isinstance(file, str) or not WEIGHT_FILE.fullmatch(file):
            return None
        shards.setdefault(file, []).append(name)
    # one complete file, or a numbered set of which none is missing
    numbered = [f"model-{i:05d}-of-{len(shards):05d}.safetensors"
                for i in range(1, len(shards) + 1)]
    return shards if sorted(shards) in (["model.safetensors"], numbered) else None


def _shards(dtypes, shapes, limit):
    """{file name: tensor names}: in order, a new file before the limit would be passed."""
    groups, room = [[]], limit
    for name in dtypes:
        nbytes = _nbytes(dtypes[name], shapes[name])
        if groups[-1] and nbytes > room:
            groups.append([])
            room = limit
        groups[-1].append(name)
        room -= nbytes
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names
            for i, names in enumerate(groups, 1)}


def _kept(metadata, key):
    """An object that import put away, or None if the file was not made by import."""
    return metadata[key] if isinstance(metadata.get(key), dict) else None


def _nbytes(dtype, shape):
    """Payload size in bytes."""
    return math.prod(shape) * FLOATS[dtype].itemsize


def _json_files(model, dtypes, shapes, shards):
    """{file name: text or object} of everything beside the weights."""
    metadata, config = model.metadata, model.config
    ids = {key: value for key, value in metadata.items() if key.endswith(("_token_id", "_ids"))}
    files = {"config.json": to_hf(config, TORCH_DTYPE[mode(dtypes.values())]),
             "generation_config.json": _kept(metadata, "generation_config")
             or generation_settings(ids)}
    if list(shards) != ["model.safetensors"]:
        files[INDEX] = {
            "metadata": {"total_size": sum(_nbytes(dtypes[n], shapes[n]) for n in dtypes)},
            "weight_map": {name: file for file, names in shards.items() for name in names}}
    if model.tokenizer_json is None:
        model.notes.append("the model holds no tokenizer.json: none is exported")
        return files
    tokens = token_ids(model.tokenizer_json, model.path)
    settings = _kept(metadata, "tokenizer_config") or tokenizer_settings(ids, tokens)
    template = metadata.get("chat_template")
    files["tokenizer.json"] = model.tokenizer_json
    files["tokenizer_config.json"] = settings | ({"chat_template": template} if template else {})
    return files
