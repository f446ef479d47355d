#!/usr/bin/env python3
"""Lay out the data that tools/prove_on_gpu reads.

    tools/prepare_proof.py SHARED OUT

SHARED holds data/qwen2-py-10m, data/qwen2-tokenizer and spec/golden/reference. Writes the
trajectory's windows as a shard, other held-out tokens as the validation shard, and shards of the
standard library's Python files encoded with the real Qwen2 vocabulary.
"""
import argparse
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np

PYTHON_BYTES = 3_000_000  # of source text: some 800,000 tokens, more than twenty steps need


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("shared", type=Path, metavar="SHARED", help="folder of the shared facts")
    p.add_argument("out", type=Path, metavar="OUT", help="folder that is written")
    args = p.parse_args()
    shared, out = args.shared, args.out
    out.mkdir(parents=True, exist_ok=True)
    model = shared / "data/qwen2-py-10m"
    shutil.copytree(model, out / "qwen2-py-10m", dirs_exist_ok=True)
    shutil.copytree(shared / "spec/golden/reference", out / "golden-reference",
                    dirs_exist_ok=True)
    shutil.copy(shared / "data/qwen2-tokenizer/tokenizer.json", out / "qwen2-tokenizer.json")
    tokens = np.load(model / "reference.npz")["heldout_tokens"]
    windows = tokens[:8 * 513].reshape(8, 513)
    shard(out / "trajectory", windows[:, :256])
    shard(out / "validation", tokens[8 * 513:])
    corpus(out / "corpus")
    subprocess.run([sys.executable, "-m", "aprnb", "tokenize", "encode-corpus", "--corpus",
                    out / "corpus", "--tokenizer", out / "qwen2-tokenizer.json", "--output",
                    out / "python", "--force"], check=True)
    shutil.rmtree(out / "corpus")


def shard(folder, tokens):
    folder.mkdir(exist_ok=True)
    np.ascontiguousarray(tokens).astype("<u4").tofile(folder / "shard-00000.bin")


def corpus(folder):
    """Python files of the standard library, in path order."""
    library, total = Path(sysconfig.get_paths()["stdlib"]), 0
    for file in sorted(library.glob("*.py")) + sorted(library.glob("[a-h]*/*.py")):
        total += file.stat().st_size
        if total > PYTHON_BYTES:
            break
        target = folder / file.relative_to(library)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)


if __name__ == "__main__":
    main()
