"""Corpus -> shards, in parallel, with the same bytes whatever the number of workers.

The main thread reads documents and writes shards; workers only turn text into ids, and their
results are taken in the order in which the text was read. Workers are threads: the `tokenizers`
library releases the interpreter lock while it encodes (about 97 % of the time), and each thread
has a tokenizer of its own, because threads that share one slow each other down at its cache.
"""
import os
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np

from ..errors import AprnbError, CheckError, Interrupted, StorageError, UsageError
from ..formats.atomic import refuse_occupied, replace_folder, write_json
from .audit import audit, refuse_degenerate, verdict
from .maps import DTYPE
from .shards import MANIFEST, OURS, SCHEMA, ShardWriter, open_dataset, totals
from .tokenizer import EOS_TOKENS, SPECIAL_TOKENS, write_settings

EOS_POLICIES = ("none", "between", "after")
BATCH_BYTES = 1 << 20  # text handed to a worker at a time
QUEUED = 2  # batches in flight per worker: bounds memory


@dataclass(frozen=True)
class EncodeOptions:
    """How documents become shards."""

    shard_tokens: int = 10_000_000
    """A shard closes after the document that brings it to this many tokens."""
    eos_policy: str = "between"
    """End-of-text before every document but the first, after every document, or nowhere."""
    workers: int = 1
    allow_degenerate: bool = False
    """Take a corpus that the audit refuses; the manifest records its findings either way."""
    eos_token: str | None = None
    """The separator, where it shall not be the one that the tokenizer's files name."""
    special_tokens: str = "text"
    """What a control token that a text mentions becomes: "text" or "control"."""

    def __post_init__(self):
        if self.eos_policy not in EOS_POLICIES:
            raise UsageError(f"--eos-policy {self.eos_policy}: need one of {EOS_POLICIES}")
        if self.special_tokens not in SPECIAL_TOKENS:
            raise UsageError(f"--special-tokens {self.special_tokens}: need one of "
                             f"{SPECIAL_TOKENS}")
        if self.shard_tokens < 1 or self.workers < 1:
            raise UsageError(f"--shard-tokens {self.shard_tokens} and --num-workers "
                             f"{self.workers}: need at least 1")


def encode_corpus(corpus, tokenizer, output, options=EncodeOptions(), force=False, progress=None):
    """Write shards, manifest.json and tokenizer.json into the new folder `output`; audit them.

    `progress(done_bytes, total_bytes, tokens)` is called after every batch. Returns (manifest,
    audit report). Nothing is left behind of a corpus that could not be encoded; one that was, and
    is refused or cannot be audited, is kept beside `output`, as the message says. Errors:
    CheckError (output exists, no end-of-text token, empty or degenerate corpus), StorageError
    (disk).
    """
    started = time.perf_counter()
    tokenizer = tokenizer.taking_special_tokens_as(options.special_tokens)
    eos = end_of_text(tokenizer, options)
    with replace_folder(output, OURS, force) as folder:
        writer = ShardWriter(folder, options.shard_tokens)
        counts = write_documents(corpus, tokenizer, writer, options, eos, progress)
        if not writer.shards:
            raise CheckError("no file of the corpus holds text: an empty corpus cannot be "
                             "encoded")
        with finished(folder, Path(output)):
            (folder / "tokenizer.json").write_bytes(tokenizer.text.encode())
            if tokenizer.settings:
                write_settings(folder, tokenizer.settings)
            manifest = describe(corpus, tokenizer, writer.shards, options) | counts | {
                "eos_token_id": eos, "elapsed_seconds": time.perf_counter() - started}
            write_json(folder / MANIFEST, manifest)
            report = audit(open_dataset(folder), tokenizer) | {"path": str(output)}
            manifest["audit"] = verdict(report, options.allow_degenerate)
            write_json(folder / MANIFEST, manifest)
            # another program may have made it since this one began
            refuse_occupied(Path(output).resolve(), OURS, force)
        if not options.allow_degenerate and report["findings"]:
            kept = keep_beside(folder, Path(output), "degenerate")
            refuse_degenerate(report, f". The shards are whole and kept in {kept}: look at them "
                              "with `aprnb tokenize audit`; if they are what you want, rename the "
                              "folder, or encode with --allow-degenerate")
    return manifest, report


@contextmanager
def finished(folder, output):
    """What follows when the shards in `folder` are whole: whatever goes wrong, they are kept."""
    try:
        yield
    except BaseException as error:  # Ctrl-C too
        kept = keep_beside(folder, output, "kept")
        kind = (type(error) if isinstance(error, AprnbError) else
                Interrupted if isinstance(error, KeyboardInterrupt) else
                StorageError if isinstance(error, OSError) else CheckError)
        reason = str(error).replace(str(folder), str(kept)) or type(error).__name__
        raise kind(f"{output}: the corpus is encoded, but what follows failed: {reason}. The "
                   f"shards are whole and kept in {kept}: `aprnb tokenize repair-manifest` and "
                   "`aprnb tokenize audit` go on from there, then rename the folder") from error


def keep_beside(folder, output, why):
    """Rename finished shards to OUTPUT.WHY, or to the first free OUTPUT.WHY-N; returns the path."""
    output = output.resolve()
    names = (f"{output.name}.{why}{'' if n == 1 else f'-{n}'}" for n in count(1))
    kept = next(path for name in names if not (path := output.with_name(name)).exists())
    os.replace(folder, kept)
    return kept


def end_of_text(tokenizer, options):
    """Id of the token that separates documents; None only for the policy "none" without one.

    Errors: CheckError where the tokenizer has no such token, or not the one that was asked for.
    """
    token = tokenizer.eos_token if options.eos_token is None else options.eos_token
    if token in tokenizer.vocabulary:
        return tokenizer.vocabulary[token]
    if options.eos_token is None and options.eos_policy == "none":
        return None
    there = ", ".join(list(tokenizer.controls)[:20]) or "none"
    why = f"--eos-token {token}: no such token" if options.eos_token is not None else (
        "no end-of-text token: no tokenizer_config.json, generation_config.json or config.json "
        f"beside it names one, and no control token is spelled {', '.join(EOS_TOKENS)}")
    raise CheckError(f"{tokenizer.where}: {why}; control tokens of the vocabulary: {there}; name "
                     "one with --eos-token, or use --eos-policy none")


def separator_warning(tokenizer, options):
    """What to say of a separator that texts can produce too, or None."""
    eos = end_of_text(tokenizer, options)
    if options.eos_policy == "none" or eos in tokenizer.controls.values():
        return None
    token = next(word for word, i in tokenizer.vocabulary.items() if i == eos)
    if eos not in tokenizer.encode(token):
        return None
    there = ", ".join(list(tokenizer.controls)[:20]) or "none"
    return (f"{token!r} separates documents and is an ordinary token: a document seems to end "
            f"wherever a text holds it; control tokens of the vocabulary: {there}; --eos-token "
            "names another")


def write_documents(corpus, tokenizer, writer, options, eos, progress):
    """Encode everything into `writer`; returns the manifest's counts of control tokens.

    eos_token_count: ids of end-of-text in the shards; separator_count: those put between documents;
    special_tokens_in_text: {token: times that the texts spell it}.
    """
    separator = np.array([] if eos is None else [eos], np.uint32)
    eos_count = done = tokens = eos_in_text = 0
    mentioned = Counter()
    unfinished = None  # the piece written last: its document goes on only if the next one says so

    def finish_document():
        nonlocal eos_count
        if unfinished and options.eos_policy == "after":
            writer.add(separator, 0, 0)
            eos_count += 1
        writer.end_document()

    for documents, encoded in encode_in_order(batches_of(corpus), tokenizer, options.workers):
        for document, ids in zip(documents, encoded):
            if document.opens:
                finish_document()
                if unfinished and options.eos_policy == "between":
                    writer.add(separator, 0, 0)
                    eos_count += 1
            writer.add(ids, document.nbytes, int(document.opens))
            mentioned += tokenizer.mentions(document.text)
            eos_in_text += 0 if eos is None else int(np.count_nonzero(ids == eos))
            unfinished = document
            done += document.progress
            tokens += len(ids)
        if progress:
            progress(done, corpus.nbytes, tokens + eos_count)
    finish_document()
    writer.close()
    return {"eos_token_count": eos_count + eos_in_text, "separator_count": eos_count,
            "special_tokens_in_text": dict(mentioned.most_common())}


def batches_of(corpus):
    """Lists of non-empty documents with about BATCH_BYTES of text each."""
    batch, nbytes = [], 0
    for document in corpus:
        if not document.text:
            continue
        batch.append(document)
        nbytes += document.nbytes
        if nbytes >= BATCH_BYTES:
            yield batch
            batch, nbytes = [], 0
    if batch:
        yield batch


def encode_in_order(batches, tokenizer, workers):
    """(documents, list of (n,) u32 id arrays) of each batch, in order, on `workers` threads."""
    own, unclaimed = threading.local(), [tokenizer]

    def encode(documents):
        if not hasattr(own, "tokenizer"):
            try:
                own.tokenizer = unclaimed.pop()  # the first worker takes the original
            except IndexError:
                own.tokenizer = tokenizer.copy()
        ids = own.tokenizer.encode_batch([document.text for document in documents])
        return documents, [np.array(each, np.uint32) for each in ids]

    with one_thread_a_call(), ThreadPoolExecutor(workers) as pool:
        waiting = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(encode, batch))
                if len(waiting) >= QUEUED * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # on failure or Ctrl-C: do not encode what nobody will read
                future.cancel()


@contextmanager
def one_thread_a_call():
    """Keep the library from starting threads of its own inside each worker."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def describe(corpus, tokenizer, shards, options):
    """The manifest: the reference's keys, then ours."""
    return {
        "schema": SCHEMA,
        "dtype": DTYPE.name,
        "tokenizer_dir": str(Path(tokenizer.where)),
        "vocab_size": tokenizer.size,
        "eos_policy": options.eos_policy,
        "special_tokens": options.special_tokens,
        **totals(shards),
        "content_field": corpus.content_field,
        "normalization": "none",  # the tokenizer's own normaliser is the only one
        "input_format": corpus.input_format,
        "input_files": [str(file) for file in corpus.files],
        "num_workers": options.workers,
        "tokenizer_digest": tokenizer.digest,
        "skipped_files": [str(file) for file in corpus.skipped],
        "skipped": corpus.left_out_summary(),
        "empty_documents": corpus.empty,
        "shards": shards,
    }
