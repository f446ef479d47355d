#!/usr/bin/env python3
"""MB/s of encode-corpus on the standard library's .py files, beside `tokenizers` used plainly.

    python tools/bench_encode.py [TOKENIZER ...]

MB are 10^6 bytes of UTF-8 text. Rates are the best of three runs, taken in turn so that a busy
machine hurts all alike: per core in processor time, encode-corpus in wall time with 1 and with all
workers. Without an argument a BPE of 4,096 tokens is trained first.
"""
import argparse
import os
import sysconfig
import tempfile
import time
from pathlib import Path

import tokenizers

from aprnb.data.corpus import Corpus
from aprnb.data.encode import EncodeOptions, encode_corpus
from aprnb.data.tokenizer import load_tokenizer, train_bpe

ROUNDS = 3


def best_rates(nbytes, clock, functions):
    """MB/s of each function in its fastest round."""
    best = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for i, function in enumerate(functions):
            started = clock()
            function()
            best[i] = min(best[i], clock() - started)
    return [nbytes / 1e6 / seconds for seconds in best]


def rates(name, tokenizer, corpus):
    """One line: plain library, our encoder, and the whole verb with 1 and with all workers."""
    texts = [document.text for document in corpus]
    nbytes = sum(len(text.encode()) for text in texts)
    plain = tokenizers.Tokenizer.from_str(tokenizer.text)

    def verb(workers):
        with tempfile.TemporaryDirectory() as folder:
            encode_corpus(corpus, tokenizer, Path(folder, "out"), EncodeOptions(workers=workers))

    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # the first column is the library used plainly: one call a file
    one, ours = best_rates(nbytes, time.process_time, [
        lambda: [plain.encode(text).ids for text in texts],
        lambda: [tokenizer.encode_batch([text]) for text in texts]])
    cores = os.cpu_count()
    whole = best_rates(nbytes, time.perf_counter, [lambda: verb(1), lambda: verb(cores)])
    print(f"{name}: {tokenizer.size:,} tokens, {nbytes / 1e6:.1f} MB | per core: tokenizers.encode "
          f"{one:.2f}, aprnb {ours:.2f} MB/s | encode-corpus with audit: {whole[0]:.2f} MB/s on 1 "
          f"worker, {whole[1]:.2f} on {cores}", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("tokenizers", nargs="*", metavar="TOKENIZER",
                   help="tokenizer.json, or a folder with one  [default: train one]")
    args = p.parse_args()
    root = Path(sysconfig.get_paths()["stdlib"])
    corpus = Corpus([folder for folder in sorted(root.iterdir())
                     if folder.is_dir() and folder.name not in ("site-packages", "test")
                     and any(folder.rglob("*.py"))])
    if not args.tokenizers:
        texts = (document.text for document in corpus)
        rates("trained on the same files", train_bpe(texts, 4096), corpus)
    for path in args.tokenizers:
        rates(Path(path).name, load_tokenizer(path), corpus)


if __name__ == "__main__":
    main()
