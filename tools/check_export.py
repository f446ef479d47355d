"""Loads two model folders in transformers and compares their logits: SOURCE and what was exported.

    python tools/check_export.py SOURCE EXPORT        needs torch and transformers, CPU is enough

Prints one JSON object; exit code 1 unless the logits are equal bit for bit and the tokenizers give
the same ids.
"""
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

TEXT = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\nfor i in range(10):\n"


def main(source, export):
    """Compare two folders over 64 fixed pseudo-random ids and the tokenizers over a text."""
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in
              (source, export)]
    vocabulary = models[0].config.vocab_size
    ids = (torch.arange(64)[None] * 7919 + 13) % vocabulary
    with torch.no_grad():
        a, b = (m(ids).logits for m in models)
    tokens = [AutoTokenizer.from_pretrained(p)(TEXT)["input_ids"] for p in (source, export)]
    report = {"schema": "aprnb-check-export-v1", "source": str(source), "export": str(export),
              "logits": list(a.shape), "max_abs_difference": (a - b).abs().max().item(),
              "logits_equal": torch.equal(a, b), "token_ids_equal": tokens[0] == tokens[1],
              "token_ids": len(tokens[0])}
    print(json.dumps(report))
    return 0 if report["logits_equal"] and report["token_ids_equal"] else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
