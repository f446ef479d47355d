"""Real text for the data tests: the interpreter's standard library, and a small BPE of it."""
import sysconfig
from functools import lru_cache
from pathlib import Path

import numpy as np

from aprnb.data.tokenizer import train_bpe

STDLIB = Path(sysconfig.get_paths()["stdlib"])


@lru_cache
def stdlib_texts(nbytes=1_500_000):
    """Texts of standard-library files, in order, until they hold `nbytes` bytes."""
    texts, total = [], 0
    for file in sorted(STDLIB.glob("*.py")) + sorted((STDLIB / "asyncio").glob("*.py")):
        texts.append(file.read_bytes().decode())
        total += len(texts[-1].encode())
        if total >= nbytes:
            break
    return texts


@lru_cache
def small_tokenizer():
    """A byte-level BPE of 1,024 tokens trained on half a megabyte of the standard library, by
    GPT-2's rules: another family's are put on top where a test is about them."""
    return train_bpe(iter(stdlib_texts(500_000)), 1024, family="gpt2")


@lru_cache
def stdlib_ids(tokens=60_000):
    """(tokens,) u32 ids of real text under the small tokenizer."""
    ids = [i for text in stdlib_texts(500_000)[:12] for i in [*small_tokenizer().encode(text), 0]]
    assert len(ids) >= tokens
    return np.array(ids[:tokens], "<u4")
