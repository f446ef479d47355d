"""Token shards: headerless little-endian u32 files `shard-NNNNN.bin` and a manifest.json.

The manifest (schema pretokenize-bin-v1) carries, besides the reference's keys, each shard's token
count, CRC-32, documents and text bytes, and the digest of the tokenizer. A folder with a manifest
must agree with it; one without is read in lexical order, and so is a single .bin file. Shards are
memory-mapped: opening reads them once in blocks for the CRC and keeps nothing.
"""
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import NotFoundError, StorageError
from ..formats.atomic import write_json
from .disguise import refuse_disguised
from .maps import DTYPE, Shard, ShardError, open_shards
from .walk import kind_of, named_held_out

SCHEMA = "pretokenize-bin-v1"
MANIFEST = "manifest.json"
OF_TEXTS = ("separator_count", "special_tokens_in_text")  # of the manifest; ids do not show them
BLOCK_TOKENS = 1 << 20  # read at a time: 4 MiB
OURS = re.compile(r"shard-\d+\.bin|(manifest|tokenizer|tokenizer_config)\.json")  # encoding's


@dataclass(frozen=True)
class Dataset:
    """Token ids on disk; a shard is mapped when it is read and nothing is loaded before."""

    path: Path
    """Folder, or a single .bin file."""
    files: tuple[Path, ...]
    shards: tuple[Shard, ...]
    """The ids of every file."""
    manifest: dict | None
    warnings: tuple[str, ...] = ()
    """What the user should be told once, such as a missing manifest."""

    @property
    def tokens(self):
        return sum(len(shard) for shard in self.shards)

    @property
    def vocab_size(self):
        """Vocabulary of the tokenizer that made the shards, or None."""
        return self.manifest.get("vocab_size") if self.manifest else None

    @property
    def tokenizer_digest(self):
        return self.manifest.get("tokenizer_digest") if self.manifest else None

    @property
    def tokenizer_file(self):
        """The tokenizer.json that encode-corpus put beside the shards, or None."""
        folder = self.path if self.path.is_dir() else self.path.parent
        file = folder / "tokenizer.json"
        return file if file.is_file() else None

    @property
    def bytes_per_token(self):
        """Mean UTF-8 bytes of text a token stands for (end-of-text counts as none), or None."""
        entries = {entry["file"]: entry for entry in (self.manifest or {}).get("shards", [])}
        sizes = [entries.get(file.name, {}).get("bytes") for file in self.files]
        return None if None in sizes or not self.tokens else sum(sizes) / self.tokens

    def blocks(self):
        """(file, position of the first token, (n,) u32 block) over all shards, in order."""
        for file, shard in zip(self.files, self.shards):
            for start in range(0, len(shard), BLOCK_TOKENS):
                yield file, start, shard[start:start + BLOCK_TOKENS]


def open_dataset(path, vocab_size=None, tokenizer_digest=None):
    """Dataset of a folder of shards or of one .bin file, checked against its manifest.

    `vocab_size` (of the model) and `tokenizer_digest` are compared with the manifest when both
    sides know them. Errors: NotFoundError; StorageError; ShardError: no shard, empty or odd-sized
    shard, count, CRC-32, vocabulary or tokenizer that contradicts the manifest.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"{path}: no such dataset; need a folder of shards or a .bin file")
    folder = path if path.is_dir() else path.parent
    files = tuple(bin_files(path)) if path.is_dir() else (path,)
    refuse_other_kinds(path)
    others = not_read(path) if path.is_dir() else ()
    if not files:
        raise ShardError(f"{path}: an empty dataset, no .bin shard"
                         f"{''.join(f', but {names}' for names in others)}; make one with `aprnb "
                         "tokenize encode-corpus`, or of token ids in other files with `aprnb "
                         "tokenize import-tokens`")
    manifest = read_manifest(folder)
    if not path.is_dir() and file_entry(manifest, path.name) is None:
        manifest = None  # the neighbours' manifest says nothing about this file
    shards = open_shards(files)
    warnings = warnings_of(path, manifest) + warnings_of_audit(path, manifest)
    dataset = Dataset(path, files, shards, manifest,
                      warnings + tuple(f"{path}: not read: {names}" for names in others))
    if manifest:
        check_shards(dataset)
    refuse_disguised(shards, manifest)
    if manifest:
        check_tokenizer(dataset, vocab_size, tokenizer_digest)
    return dataset


def refuse_other_kinds(path):
    """ShardError for texts and models where shards are needed."""
    if path.is_file() and kind_of(path):
        raise ShardError(f"{path}: a text by its name, not token ids; `aprnb tokenize "
                         f"encode-corpus --corpus {path} --tokenizer DIR --output SHARDS` makes a "
                         "dataset of it")
    found = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    models = [entry.name for entry in found if entry.suffix in (".safetensors", ".apr")]
    if models and not any(entry.suffix == ".bin" for entry in found):
        raise ShardError(f"{path}: a model ({models[0]}), not a dataset; need a folder of shards, "
                         "as `aprnb tokenize encode-corpus` writes")


def bin_files(folder):
    """The .bin files of a folder, in lexical order. Errors: StorageError if it cannot be listed."""
    try:
        return sorted(entry for entry in folder.iterdir() if entry.suffix == ".bin")
    except OSError as error:  # glob would find nothing and say nothing
        raise StorageError(f"{folder}: {error.strerror}; make the folder readable") from error


def not_read(folder):
    """What else lies in a folder of shards, in words: () or one text with number and names."""
    names = sorted(f"{entry.name}{'/' * entry.is_dir()}" for entry in folder.iterdir()
                   if entry.suffix != ".bin" and not OURS.fullmatch(entry.name))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (f"{len(names)} other: {', '.join(names[:5])}{more}",) if names else ()


def warnings_of(path, manifest):
    if manifest or not path.is_dir():
        return ()
    named = [file.name for file in bin_files(path) if named_held_out(file)]
    return (f"{path}: no {MANIFEST}; shards are read as they are, in lexical order "
            "(`aprnb tokenize repair-manifest` writes one)",
            *([f"{path}: {', '.join(named[:5])} read like the other shards, although named as held "
               "out from training; name the files one by one if that is not meant"] * bool(named)))


def warnings_of_audit(path, manifest):
    """What the audit found when the shards were encoded, whether it was overruled or not."""
    verdict = manifest.get("audit") if manifest else None
    found = verdict.get("findings") if isinstance(verdict, dict) else None
    if not found:
        return ()
    how = "taken all the same" if verdict.get("allowed") else "not taken"
    return (f"{path}: its audit found a degenerate corpus, {how}: "
            + "; ".join(map(str, found if isinstance(found, list) else [found])),)


def crc32_of(shard):
    crc = 0
    for start in range(0, len(shard), BLOCK_TOKENS):
        crc = zlib.crc32(shard[start:start + BLOCK_TOKENS], crc)
    return crc


def read_manifest(folder):
    """The manifest of a folder as a dict, or None where there is none."""
    file = folder / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{file}: not valid JSON: {error}; rebuild it with "
                         "`aprnb tokenize repair-manifest`") from error
    if not isinstance(manifest, dict) or manifest.get("schema") != SCHEMA:
        raise ShardError(f"{file}: not a manifest of schema {SCHEMA}; rebuild it with "
                         "`aprnb tokenize repair-manifest`")
    entries = manifest.get("shards", [])
    if not isinstance(entries, list) or not all(
            isinstance(entry, dict) and {"file", "tokens", "crc32"} <= entry.keys()
            for entry in entries):
        raise ShardError(f"{file}: `shards` must list file, tokens and crc32 of each shard")
    return manifest


def file_entry(manifest, name):
    entries = manifest.get("shards", []) if manifest else []
    return next((entry for entry in entries if entry["file"] == name), None)


def check_shards(dataset):
    """Names, counts and CRC-32 against the manifest; the reference's manifest has totals only."""
    manifest, where = dataset.manifest, dataset.path
    if dataset.path.is_dir():
        names = [file.name for file in dataset.files]
        listed = sorted(entry["file"] for entry in manifest.get("shards", []))
        if "shards" in manifest and names != listed:
            raise ShardError(f"{where}: the manifest lists {listed}, the folder holds {names}")
        for key, got in (("shard_count", len(names)), ("total_tokens", dataset.tokens)):
            if manifest.get(key, got) != got:
                raise ShardError(f"{where}: {key} is {manifest[key]} in the manifest, the shards "
                                 f"have {got}; a shard was cut or replaced, encode again")
    for file, shard in zip(dataset.files, dataset.shards):
        entry = file_entry(manifest, file.name)
        if entry and entry["tokens"] != len(shard):
            raise ShardError(f"{file}: {len(shard)} tokens, the manifest says {entry['tokens']}")
        if entry and entry["crc32"] != (crc := f"{crc32_of(shard):08x}"):
            raise ShardError(f"{file}: CRC-32 is {crc}, the manifest says {entry['crc32']}; "
                             "the shard is damaged or was edited, encode again")


def check_tokenizer(dataset, vocab_size, tokenizer_digest):
    """ShardError when the manifest names another tokenizer or a vocabulary beyond the model's."""
    made_with, made_size = dataset.tokenizer_digest, dataset.vocab_size
    if tokenizer_digest and made_with and tokenizer_digest != made_with:
        raise ShardError(f"{dataset.path}: encoded with tokenizer {made_with[:12]}, got "
                         f"{tokenizer_digest[:12]}; use the dataset's tokenizer or encode again")
    if vocab_size and made_size and made_size > vocab_size:
        raise ShardError(f"{dataset.path}: encoded with a vocabulary of {made_size}, the model has "
                         f"{vocab_size}; use the model's tokenizer or encode again")


class ShardWriter:
    """Writes documents into `shard-NNNNN.bin` files of a folder, streaming.

    A shard closes after the document that brings it to `shard_tokens`. Errors: StorageError.
    """

    def __init__(self, folder, shard_tokens):
        self.folder, self.shard_tokens = folder, shard_tokens
        self.shards = []
        """Manifest entries of the shards, the open one included."""
        self._file = None

    def add(self, ids, nbytes, documents):
        """Append ids (n,) u32 that stand for `nbytes` of text; `documents` (0 or 1) begin here."""
        if self._file is None:
            name = f"shard-{len(self.shards):05d}.bin"
            self._file = open(self.folder / name, "wb")
            self.shards.append({"file": name, "tokens": 0, "documents": 0, "bytes": 0, "crc32": 0})
        entry = self.shards[-1]
        data = np.ascontiguousarray(ids, DTYPE).tobytes()
        self._guard(self._file.write, data)
        entry["crc32"] = zlib.crc32(data, entry["crc32"])
        entry["tokens"] += len(ids)
        entry["documents"] += documents
        entry["bytes"] += nbytes

    def end_document(self):
        """Close the shard if it is full."""
        if self._file and self.shards[-1]["tokens"] >= self.shard_tokens:
            self.close()

    def close(self):
        """Flush the open shard; its CRC becomes eight hex digits."""
        if self._file is None:
            return
        self._guard(self._file.close)
        self._file = None
        self.shards[-1]["crc32"] = f"{self.shards[-1]['crc32']:08x}"

    def _guard(self, operation, *arguments):
        try:
            operation(*arguments)
        except OSError as error:
            entry = self.shards[-1]
            raise StorageError(
                f"{self.folder / entry['file']}: {error.strerror} after {4 * entry['tokens']} "
                f"bytes of this shard ({len(self.shards) - 1} full ones before it); nothing was "
                "kept, free some space or choose another folder") from error


def totals(shards):
    """The manifest's sums over its shards; a sum with an unknown part is None."""
    def total(key):
        values = [entry.get(key) for entry in shards]
        return None if None in values else sum(values)
    return {"shard_count": len(shards), "total_tokens": total("tokens"),
            "total_documents": total("documents"), "total_bytes": total("bytes")}


def repair_manifest(folder, tokenizer=None):
    """Rebuild manifest.json from the shards; returns it. Doing it twice changes nothing.

    What shards cannot tell (documents, bytes, origin) is kept from the old manifest where a
    shard's count and CRC-32 still agree, else null. `tokenizer` (default: the tokenizer.json in
    the folder, read by the caller) sets vocabulary and digest, and end-of-text unless the old
    manifest names one of this tokenizer.
    Errors: NotFoundError, ShardError.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotFoundError(f"{folder}: no such folder of shards")
    files = bin_files(folder)
    if not files:
        raise ShardError(f"{folder}: an empty dataset, no .bin shard")
    try:
        old = read_manifest(folder) or {}
    except ShardError:
        old = {}  # unreadable: that is what this verb is for
    opened = open_shards(files)
    unchanged = all(same(shard, file_entry(old, shard.file.name)) for shard in opened)
    refuse_disguised(opened, old if unchanged else None)
    if not unchanged:
        old.pop("dtype", None)  # nothing vouches for what was put there since
    shards = [measured(shard, file_entry(old, shard.file.name)) for shard in opened]
    manifest = {"schema": SCHEMA} | old | totals(shards) | {"shards": shards}
    if tokenizer:
        kept = old.get("tokenizer_digest") == tokenizer.digest and old.get("eos_token_id")
        manifest |= {"vocab_size": tokenizer.size, "tokenizer_digest": tokenizer.digest,
                     "eos_token_id": tokenizer.eos_id if type(kept) is not int else kept}
    if shards != old.get("shards"):  # counts of texts that nobody can read again
        manifest |= {key: None for key in OF_TEXTS if key in old}
    manifest["eos_token_count"] = count_id(opened, manifest.get("eos_token_id"))
    write_json(folder / MANIFEST, manifest)
    return manifest


def measured(shard, old):
    entry = {"file": shard.file.name, "tokens": len(shard), "documents": None, "bytes": None,
             "crc32": f"{crc32_of(shard):08x}"}
    if same(shard, old, entry["crc32"]):
        entry |= {key: old.get(key) for key in ("documents", "bytes")}
    return entry


def same(shard, entry, crc=None):
    """Whether a shard is the one that an entry of a manifest describes."""
    return bool(entry) and entry["tokens"] == len(shard) \
        and entry["crc32"] == (crc or f"{crc32_of(shard):08x}")


def count_id(shards, token):
    if token is None:
        return None
    return sum(int(np.count_nonzero(shard[:] == token)) for shard in shards)


def record_verdict(dataset, verdict):
    """Write an audit's verdict into the manifest of a dataset folder; whether there was one."""
    if not (dataset.manifest and dataset.path.is_dir()):
        return False
    write_json(dataset.path / MANIFEST, dataset.manifest | {"audit": verdict})
    return True
