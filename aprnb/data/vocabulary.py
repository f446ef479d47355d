"""Tokenizer folders: what `tokenize train` and `tokenize import-hf` leave behind."""
import hashlib
import re
import time
from pathlib import Path

from ..formats.atomic import replace_folder, write_json
from .tokenizer import load_tokenizer, train_bpe

OURS = re.compile(r"(tokenizer|tokenizer_config|vocab|manifest)\.json|merges\.txt")


def train_folder(corpus, vocab_size, output, min_frequency=2, force=False, family="qwen2"):
    """Train on a Corpus by a family's rules, write the folder `output`; returns a summary dict."""
    with replace_folder(output, OURS, force) as folder:
        tokenizer = train_bpe((document.text for document in corpus), vocab_size, min_frequency,
                              family)
        tokenizer.save(folder)
    return summary("aprnb-tokenize-train-v1", tokenizer, output) | {
        "documents_nbytes": corpus.nbytes, "skipped_files": [str(file) for file in corpus.skipped]}


def import_folder(source, output, force=False):
    """Copy a tokenizer.json byte for byte into the folder `output`, with the reference's files."""
    tokenizer = load_tokenizer(source)
    result = summary("aprnb-tokenize-import-v1", tokenizer, output)
    with replace_folder(output, OURS, force) as folder:
        tokenizer.save(folder)
        write_json(folder / "manifest.json", {
            "source": str(source), "sha256": hashlib.sha256(tokenizer.text.encode()).hexdigest(),
            "vocab_size": tokenizer.size, "merges_count": tokenizer.merges_count,
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
    return result


def summary(schema, tokenizer, output):
    return {"schema": schema, "output": str(Path(output)), "vocab_size": tokenizer.size,
            "merges_count": tokenizer.merges_count, "style": tokenizer.style,
            "eos_token": tokenizer.eos_token, "eos_token_id": tokenizer.eos_id,
            "tokenizer_digest": tokenizer.digest, "warnings": tokenizer.warnings,
            "rules": tokenizer.rules.name if tokenizer.rules else None}
