"""`aprnb tokenize`: train a vocabulary, encode a corpus, audit the shards."""
import json
import os
import sys
import textwrap
import time
from pathlib import Path

import click

from ..words import counted
from .import_tokens import import_tokens
from .options import FORCE, JSON, MOST_COUNT, MOST_IDS, OUTPUT, NamedPath, report

MOST_TOKENS = 1_000_000  # of a vocabulary: four times the largest in use


CORPUS = click.option("--corpus", "paths", multiple=True, required=True, metavar="PATH",
                      type=NamedPath(),
                      help=".jsonl, .json, .txt, .py, these as .gz or .zst, .parquet (.zst and "
                           ".parquet: extra `data`), or a folder of them; repeat it for more.")
INCLUDE = click.option("--include", multiple=True, metavar="NAME",
                       help="A folder or file that is left out for its name: test, tests, valid, "
                            "val, dev, eval, .hidden, node_modules; a name, or a path as the "
                            "warning prints it; repeat it for more.")
FIELD = click.option("--content-field", default="content", show_default=True,
                     help="Field or column that holds the text of .jsonl, .json and .parquet.")
ALLOW = click.option("--allow-degenerate", is_flag=True,
                     help="Take what the audit refuses; the manifest records what it found.")

PROGRESS_SECONDS = 2.0  # between two lines
COLUMNS = 100  # of a table
SHOWN = 8  # names of what is skipped for one reason
TAKEN_BY_NAME = ("hidden", "cache", "virtual environment", "installed packages",
                 "held out by its name")


@click.group(epilog="""\b
Examples:
  aprnb tokenize train --corpus src/ --vocab-size 4096 --output tok/
  aprnb tokenize encode-corpus --corpus src/ --tokenizer tok/ --output shards/

\b
Exit codes: 0 success; 2 usage; 3 file not found; 4 not a tokenizer;
5 degenerate corpus, or the output exists; 7 I/O; 9 package missing; 130 interrupted.""")
def tokenize():
    """Train a tokenizer, encode a corpus into token shards, audit the shards."""


tokenize.add_command(import_tokens)


@tokenize.command(epilog="""\b
Examples:
  aprnb tokenize train --corpus src/ --vocab-size 4096 --output tok/
  aprnb tokenize train --corpus a.jsonl --corpus b.txt --vocab-size 32000 --output tok/ --json

\b
Exit codes: 0 success; 2 usage; 3 corpus not found; 5 output exists, nothing to train on, or more
than 1 % of the bytes are not UTF-8; 7 I/O; 9 pyarrow or zstandard missing; 130 interrupted.""")
@CORPUS
@click.option("--vocab-size", required=True, metavar="N",
              type=click.IntRange(257, MOST_TOKENS),
              help="Tokens at most, at least 257 (256 bytes and <|endoftext|>).")
@click.option("--min-frequency", default=2, show_default=True, metavar="N",
              type=click.IntRange(1, MOST_COUNT),
              help="Occurrences that a pair needs to be merged.")
@click.option("--family", default="qwen2", show_default=True,
              type=click.Choice(["qwen2", "llama", "gpt2"]),
              help="Whose rules cut words and normalise text: those of the models that the "
                   "tokenizer is for.")
@OUTPUT
@FIELD
@INCLUDE
@FORCE
@JSON
def train(paths, vocab_size, min_frequency, family, output, content_field, include, force,
          as_json):
    """Learn a byte-level BPE vocabulary from a corpus.

    transformers 5 gives every Qwen2 model the rules of Qwen2's tokenizer, whatever its
    tokenizer.json says; a vocabulary trained under other rules is another one there.
    """
    from ..data.vocabulary import train_folder
    corpus = open_corpus(paths, content_field, include)
    summary = train_folder(corpus, vocab_size, output, min_frequency, force, family)
    summary["skipped"] = corpus.left_out_summary()
    if summary["vocab_size"] < vocab_size:
        warn(f"the corpus yields {summary['vocab_size']} tokens, {vocab_size} were asked for")
    report(summary, as_json, f"{output}: {size_line(summary)}, end of text {summary['eos_token']} "
                             f"= {summary['eos_token_id']}")


@tokenize.command("import-hf", epilog="""\b
Examples:
  aprnb tokenize import-hf --input Qwen2.5-0.5B/tokenizer.json --output tok/
  aprnb tokenize import-hf --input tokenizer.json --output tok/ --force --json

\b
Exit codes: 0 success; 2 usage; 3 input not found; 4 not a tokenizer.json; 5 output exists, or the
vocabulary is not byte-level; 7 I/O.""")
@click.option("--input", "source", required=True, metavar="FILE", type=NamedPath(),
              help="tokenizer.json, or a folder with it or with vocab.json and merges.txt.")
@OUTPUT
@FORCE
@JSON
def import_hf(source, output, force, as_json):
    """Make a tokenizer folder of a Hugging Face tokenizer.json.

    The file is copied byte for byte, tokenizer_config.json with it (bos, eos, pad, class, chat
    templates); vocab.json and merges.txt are written beside them.
    """
    from ..data.vocabulary import import_folder
    summary = import_folder(source, output, force)
    for line in summary["warnings"]:
        warn(line)
    report(summary, as_json, f"{output}: {size_line(summary)}, style {summary['style']}, end of "
                             f"text {summary['eos_token']} = {summary['eos_token_id']}")


@tokenize.command("encode-corpus", epilog="""\b
Examples:
  aprnb tokenize encode-corpus --corpus src/ --tokenizer tok/ --output shards/
  aprnb tokenize encode-corpus --corpus a.jsonl --tokenizer tokenizer.json --output shards/ \\
      --content-field text --eos-policy after --num-workers 8 --json

\b
Exit codes: 0 success; 2 usage; 3 corpus or tokenizer not found; 4 not a tokenizer; 5 output exists,
vocabulary not byte-level, degenerate corpus (the shards are kept beside the output), or more than
1 % of the bytes are not UTF-8 (nothing is left behind); 7 I/O, disk full; 9 pyarrow or zstandard
missing; 130 interrupted.""")
@CORPUS
@click.option("--tokenizer", "tokenizer_path", required=True, metavar="DIR-or-FILE",
              type=NamedPath(),
              help="tokenizer.json, or a folder with it or with vocab.json and merges.txt.")
@OUTPUT
@click.option("--shard-tokens", default=10_000_000, show_default=True, metavar="N",
              type=click.IntRange(1, MOST_COUNT),
              help="A shard closes after the document that brings it to N tokens.")
@FIELD
@INCLUDE
@click.option("--eos-policy", default="between", show_default=True,
              type=click.Choice(["none", "between", "after"]),
              help="Where an end-of-text token goes.")
@click.option("--eos-token", metavar="TOKEN",
              help="End-of-text token  [default: the one that tokenizer_config.json, "
                   "generation_config.json or config.json beside the tokenizer names, else the "
                   "first of </s>, <|endoftext|>, <eos>, <|eos|>, <|end_of_text|>].")
@click.option("--special-tokens", default="text", show_default=True,
              type=click.Choice(["text", "control"]),
              help="What a control token becomes that a text spells out, such as <|endoftext|>; "
                   "both are counted.")
@click.option("--num-workers", default=None, type=click.IntRange(1, 1024), metavar="N",
              help="Threads that encode  [default: all cores]; the shards do not depend on it.")
@FORCE
@ALLOW
@click.option("--quiet", is_flag=True, help="No progress lines on stderr.")
@JSON
def encode_corpus(paths, tokenizer_path, output, shard_tokens, content_field, include, eos_policy,
                  eos_token, special_tokens, num_workers, force, allow_degenerate, quiet, as_json):
    """Turn a corpus into token shards, and audit them."""
    from ..data.encode import EncodeOptions, encode_corpus as encode, separator_warning
    from ..data.tokenizer import load_tokenizer
    options = EncodeOptions(shard_tokens, eos_policy, num_workers or os.cpu_count() or 1,
                            allow_degenerate, eos_token, special_tokens)
    tokenizer = load_tokenizer(tokenizer_path)
    warn_all(tokenizer)
    if said := separator_warning(tokenizer, options):
        warn(said)
    corpus = open_corpus(paths, content_field, include)
    manifest, audited = encode(corpus, tokenizer, output, options, force,
                               None if quiet else Progress())
    if as_json:
        print(json.dumps({"schema": "aprnb-encode-v1", "output": str(output),
                          "manifest": manifest, "audit": audited}))
    else:
        print(f"{output}: {counted(manifest['total_tokens'], 'token')} in "
              f"{counted(manifest['shard_count'], 'shard')}, "
              f"{counted(manifest['total_documents'], 'document')}")
        print_audit(audited)
    warn_empty(manifest["empty_documents"])
    overruled(audited)


@tokenize.command(epilog="""\b
Examples:
  aprnb tokenize audit shards/
  aprnb tokenize audit shards/ --vocab-size 151936 --val-shard held-out/ --json

\b
Exit codes: 0 plausible text; 2 usage; 3 not found; 5 degenerate corpus (the report is printed all
the same), unreadable shard, or an id >= the vocabulary; 7 I/O.""")
@click.argument("dataset", metavar="DIR", type=NamedPath())
@click.option("--vocab-size", type=click.IntRange(1, MOST_IDS), metavar="N",
              help="Ids must be below it  [default: that of the manifest or tokenizer].")
@click.option("--tokenizer", "tokenizer_path", metavar="DIR-or-FILE",
              type=NamedPath(),
              help="For the texts of tokens  [default: the tokenizer.json beside the shards].")
@click.option("--val-shard", metavar="DIR", type=NamedPath(),
              help="Validation shards  [default: the last 5 % of the tokens].")
@ALLOW
@JSON
def audit(dataset, vocab_size, tokenizer_path, val_shard, allow_degenerate, as_json):
    """Say what the shards hold, and refuse what cannot be text."""
    from ..data.audit import audit as audit_dataset, refuse_degenerate, verdict
    from ..data.shards import check_tokenizer, open_dataset, record_verdict
    from ..data.tokenizer import load_tokenizer
    opened = open_dataset(dataset)
    tokenizer_path = tokenizer_path or opened.tokenizer_file
    tokenizer = load_tokenizer(tokenizer_path) if tokenizer_path else None
    if tokenizer:
        warn_all(tokenizer)
        check_tokenizer(opened, None, tokenizer.digest)
    val = open_dataset(val_shard) if val_shard else None
    audited = audit_dataset(opened, tokenizer, val, vocab_size)
    if as_json:
        print(json.dumps(audited))
    else:
        print_audit(audited)
    for line in opened.warnings:
        warn(line)
    if allow_degenerate:
        overruled(audited)
        if record_verdict(opened, verdict(audited, True)):
            return
        warn(f"{dataset}: has no manifest.json of its own, so nothing is recorded")
    else:
        refuse_degenerate(audited, "; --allow-degenerate takes it all the same")


@tokenize.command("repair-manifest", epilog="""\b
Examples:
  aprnb tokenize repair-manifest shards/
  aprnb tokenize repair-manifest shards/ --tokenizer tok/ --json

\b
Exit codes: 0 success; 2 usage; 3 not found; 5 no shard, or one that is truncated; 7 I/O.""")
@click.argument("dataset", metavar="DIR", type=NamedPath())
@click.option("--tokenizer", "tokenizer_path", metavar="DIR-or-FILE",
              type=NamedPath(),
              help="Sets vocabulary, digest and end-of-text  [default: the tokenizer.json beside "
                   "the shards, else what the old manifest says].")
@JSON
def repair_manifest(dataset, tokenizer_path, as_json):
    """Rebuild manifest.json from the shards.

    Doing it twice changes nothing.
    """
    from ..data.shards import repair_manifest as repair
    from ..data.tokenizer import load_tokenizer
    if tokenizer_path is None and (dataset / "tokenizer.json").is_file():
        tokenizer_path = dataset / "tokenizer.json"
    tokenizer = load_tokenizer(tokenizer_path) if tokenizer_path else None
    if tokenizer:
        warn_all(tokenizer)
    manifest = repair(dataset, tokenizer)
    summary = {"schema": "aprnb-repair-manifest-v1", "dataset": str(dataset), "manifest": manifest}
    report(summary, as_json, f"{dataset}: manifest of {counted(manifest['shard_count'], 'shard')}, "
                             f"{counted(manifest['total_tokens'], 'token')}")


# ---------------------------------------------------------------- what is printed

def size_line(summary):
    """The size of a tokenizer in words."""
    return f"{counted(summary['vocab_size'], 'token')}, {counted(summary['merges_count'], 'merge')}"


def warn(text):
    """A warning on stderr, which never changes the exit code."""
    print(f"warning: {text}", file=sys.stderr)


def overruled(audited):
    """Say what the audit found where --allow-degenerate took the corpus all the same."""
    for finding in audited["findings"]:
        warn(f"--allow-degenerate: {finding}")


def open_corpus(paths, content_field, include):
    """The corpus, after saying what of it will not be read, before the long work begins."""
    from ..data.corpus import Corpus
    corpus = Corpus(paths, content_field, include)
    for reason, names in corpus.left_out.items():
        shown = "".join(f"\n  {name}" for name in names[:SHOWN])
        more = f"\n  and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        size = f" ({counted(corpus.skipped_nbytes, 'byte')})" if reason == "not UTF-8" else ""
        hint = "; --include NAME reads them" if reason in TAKEN_BY_NAME else (
            "; --content-field reads another field" if reason.startswith("no record") else "")
        warn(f"{counted(len(names), 'entry')} of the corpus skipped, {reason}{size}{hint}:"
             f"{shown}{more}")
    if corpus.held_out:
        warn(f"{counted(len(corpus.held_out), 'file')} read although named as held out from "
             f"training: {', '.join(map(str, corpus.held_out[:SHOWN]))}; move what is validation "
             "data out of the corpus")
    if corpus.repeated:
        warn(f"{counted(corpus.repeated, 'file')} named by more than one --corpus, read as often")
    return corpus


def warn_empty(n):
    """Say how many documents held no character; they are no documents of the shards."""
    if n:
        warn(f"{counted(n, 'document')} without a character skipped")


def warn_all(tokenizer):
    """What was guessed or passed over while a tokenizer was read."""
    for line in tokenizer.warnings:
        warn(line)


class Progress:
    """A line on stderr every PROGRESS_SECONDS, and one at the end: share, rate, time to go."""

    def __init__(self):
        self.started = self.printed = time.perf_counter()

    def __call__(self, done, total, tokens):
        now = time.perf_counter()
        if now - self.printed < PROGRESS_SECONDS and done < total:
            return
        self.printed = now
        rate = done / max(now - self.started, 1e-9)  # bytes a second
        seconds = round((total - done) / rate) if rate else 0
        print(f"encode {100 * done / max(total, 1):3.0f} % | {done / 1e6:,.1f}/"
              f"{total / 1e6:,.1f} MB | {tokens:,} tokens | {rate / 1e6:.2f} MB/s | "
              f"ETA {seconds // 60}:{seconds % 60:02d}", file=sys.stderr, flush=True)


def print_audit(audited):
    """The audit as a table of two columns, at most COLUMNS wide."""
    def number(key, unit="", digits=2):
        return "unknown" if audited[key] is None else f"{audited[key]:,.{digits}f}{unit}"
    size = audited["vocab_size"]
    rows = [("tokens", f"{audited['tokens']:,} in {counted(audited['shards'], 'shard')}"),
            ("distinct ids", f"{audited['distinct']:,} of {f'{size:,}' if size else 'unknown'}"),
            ("entropy", f"{number('entropy_bits')} of {number('log2_vocab')} bits"),
            ("unknown", number("unknown_percent", " %")),
            ("control tokens", control_tokens(audited)),
            ("tokens per byte", number("tokens_per_byte", digits=3)),
            ("repeated windows", number("repeated_percent", " % of 13-token windows")),
            ("leaked windows", number("shared_percent", " % of those of the validation data "
                                      f"({audited['validation']}) also in training")),
            ("most frequent", most_frequent(audited)), ("sample", repr(audited["sample"])),
            ("verdict", "plausible text" if audited["ok"] else "DEGENERATE")]
    for name, value in rows:
        for line in folded(value):
            print(f"  {name:17s} {line}")
            name = ""


def control_tokens(audited):
    """Control tokens in the shards, and what became of those that the texts mention."""
    def counts(found):
        return ", ".join(f"{token} {n:,}" for token, n in found.items()) or "none"
    held, told = audited["control_tokens"], audited["special_tokens_in_text"]
    line = "unknown" if held is None else counts(held)
    if audited["separator_count"] is not None:
        line += f"; {counted(audited['separator_count'], 'separator')}"
    if told:
        became = "text" if audited["special_tokens"] == "text" else "control tokens"
        line += f"; mentioned in the texts, encoded as {became}: {counts(told)}"
    return line


def most_frequent(audited):
    """The most frequent tokens with their share; ids where no tokenizer gives a text."""
    return ", ".join(f"{row['id'] if row['text'] is None else repr(row['text'])} "
                     f"{row['percent']:.1f} %" for row in audited["most_frequent"])


def folded(text, width=COLUMNS - 20):
    """Lines of a long text, cut after spaces, none of which is lost or added."""
    return textwrap.wrap(text, width, drop_whitespace=False, replace_whitespace=False,
                         expand_tabs=False, break_on_hyphens=False) or [""]
