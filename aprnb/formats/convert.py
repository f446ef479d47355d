"""Import and export: Hugging Face folder -> .apr -> Hugging Face folder.

Payload bytes, dtypes and names are those of the source all the way round, and so are the files of
the weights; config.json is written anew from the hyper-parameters, beside the keys that came in.
What stands in metadata for export's sake: tokenizer.json, source_digests and `companions.KEYS`.
"""
import hashlib
import json
import math
import re
from collections import Counter
from pathlib import Path
from statistics import mode

import numpy as np

from ..config import to_apr
from ..dtypes import FLOATS
from ..errors import CheckError, FormatError, LoadError, NonFiniteError
from .apr_writer import create_apr
from .atomic import refuse_existing, replace_folder, write_text
from .chat_templates import FILE, FOLDER
from .companions import companion_files, companion_keys, left_behind
from .hf_folder import INDEX, open_hf
from .model_file import (check_weights, config_of_folder, float_pieces, folder_ids, open_model,
                         settle_head)
from .names import expected_tensors
from .safetensors import write_safetensors
from .tokenizer_folder import holds_tokenizer, read_tokenizer
from .tokenizer_keys import token_ids, tokenizer_keys
from .tokenizer_rules import identity_warnings

MODEL_TYPE = {"qwen2": "Qwen2", "llama": "Llama"}  # as the reference's importer spells them
TORCH_DTYPE = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
SHARD_NBYTES = 5_000_000_000
WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
# every name that an export may write: what --force may replace
EXPORTED = re.compile(r"(generation_|tokenizer_)?config\.json|tokenizer\.json|"
                      rf"{re.escape(FILE)}|{FOLDER}/(.+\.jinja)?|"
                      rf"{WEIGHT_FILE.pattern}(\.index\.json)?")


# ---------------------------------------------------------------- import

def import_model(source, output, tokenizer=None, force=False, strip_prefix=""):
    """Write a Hugging Face folder, or one .safetensors beside its config.json, as one .apr file.

    The source is read twice, first for the digests, which stand before the payloads; memory stays
    at one chunk. tokenizer: a tokenizer.json, or a folder that holds one, instead of the source's;
    strip_prefix: taken off the names of tensors.
    Returns a report (schema aprnb-import-v1).
    Errors:  LoadError for configuration, tensors or tokenizer; CheckError if `output` exists.
    """
    output = Path(output)
    refuse_existing(output, force)
    with open_hf(source, strip_prefix) as model:
        _refuse_own_source(output, model)
        config, notes = config_of_folder(model)
        config, more_notes = settle_head(model, config)
        notes += more_notes + check_weights(model, config)
        names = expected_tensors(config)
        entries = [(name, _importable(model, name), model.tensors[name].shape) for name in names]
        words, tokenizer_report, more_notes, warnings = _texts(model, config, tokenizer)
        metadata = {"model_type": MODEL_TYPE[config.family], "name": output.stem,
                    "original_format": "safetensors", **to_apr(config), **words,
                    "source_digests": {name: _digest(model, name) for name in sorted(names)}}
        with create_apr(output, metadata, entries, force) as writer:
            for entry in writer.entries:
                writer.write_chunks(entry.name, model.chunks(entry.name))
    return {"schema": "aprnb-import-v1", "output": str(output), "tensors": len(entries),
            "bytes": output.stat().st_size, "dtypes": dict(Counter(e[1] for e in entries)),
            "tokenizer": tokenizer_report, "source": str(source), "notes": notes + more_notes,
            "warnings": warnings}


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


def _texts(model, config, given):
    """(metadata keys, tokenizer report or None, notes, warnings) from the files beside the weights.

    given: a tokenizer.json or folder instead of the source's tokenizer, with what stands beside it.
    """
    notes, tokenizer, tokens, keys, report, warnings = [], None, {}, {}, None, []
    if given is None and not holds_tokenizer(model.folder):
        notes.append("no tokenizer.json in the source: the file will hold no tokenizer")
    else:
        tokenizer = read_tokenizer(model.folder if given is None else given)
        notes += tokenizer.notes
        keys = tokenizer_keys(tokenizer.text, tokenizer.where, config.vocab_size)
        tokens = token_ids(tokenizer.text, tokenizer.where)
        report = {"file": str(tokenizer.where), "tokens": keys["tokenizer.vocab_size"],
                  "merges": len(keys["tokenizer.merges"])}
        warnings = identity_warnings(tokenizer.text, config.family, tokenizer.settings,
                                     tokenizer.where)
    settings = tokenizer.settings if tokenizer else model.json("tokenizer_config.json") or {}
    ids = folder_ids(model, settings, tokens)
    kept, more = companion_keys(model, config, ids, tokenizer and (tokenizer, tokens))
    return keys | ids | kept, report, notes + more + left_behind(model, tokenizer), warnings


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
            files, warnings = _json_files(model, dtypes, shapes, shards)
            for file, content in files.items():
                (out / file).parent.mkdir(exist_ok=True)
                write_text(out / file, _text(content, f"{path}: {file}"))
    written = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {"schema": "aprnb-export-v1", "output": str(folder), "source": str(path),
            "tensors": len(dtypes), "dtypes": dict(Counter(dtypes.values())),
            "files": [str(p.relative_to(folder)) for p in written],
            "bytes": sum(p.stat().st_size for p in written), "notes": model.notes,
            "warnings": warnings}


def _text(content, where):
    """A file's text, of a text or of an object. Errors: FormatError if it has no UTF-8 JSON."""
    try:
        text = content if isinstance(content, str) else json.dumps(
            content, indent=2, ensure_ascii=False) + "\n"
        text.encode()
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: cannot be written: {error}") from error
    return text


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


def _nbytes(dtype, shape):
    """Payload size in bytes."""
    return math.prod(shape) * FLOATS[dtype].itemsize


def _json_files(model, dtypes, shapes, shards):
    """({file name: text or object} of everything beside the weights, warnings)."""
    metadata, config, warnings, tokens = model.metadata, model.config, [], None
    ids = {key: value for key, value in metadata.items() if key.endswith(("_token_id", "_ids"))}
    if model.tokenizer_json is None:
        model.notes.append("the model holds no tokenizer.json: none is exported")
    else:
        tokens = token_ids(model.tokenizer_json, model.path)
    files = companion_files(metadata, config, TORCH_DTYPE[mode(dtypes.values())], ids, tokens)
    if tokens is not None:
        files["tokenizer.json"] = model.tokenizer_json
        warnings = identity_warnings(model.tokenizer_json, config.family,
                                     files["tokenizer_config.json"], model.path)
    if list(shards) != ["model.safetensors"]:
        files[INDEX] = {
            "metadata": {"total_size": sum(_nbytes(dtypes[n], shapes[n]) for n in dtypes)},
            "weight_map": {name: file for file, names in shards.items() for name in names}}
    return files, warnings
