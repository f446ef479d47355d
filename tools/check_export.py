"""Loads two model folders in transformers and compares their logits: SOURCE and what was exported.

    python tools/check_export.py SOURCE EXPORT        needs torch and transformers, CPU is enough

Prints one JSON object; exit code 1 unless the logits are equal bit for bit and the tokenizers give
the same ids.
"""
import argparse
import json
import sys

from frameworks import AutoModelForCausalLM, AutoTokenizer, require, torch

TEXT = "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\nfor i in range(10):\n"


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("source", metavar="SOURCE", help="folder that was imported")
    p.add_argument("export", metavar="EXPORT", help="folder that was exported")
    args = p.parse_args()
    require()
    report = compare(args.source, args.export)
    print(json.dumps(report))
    return 0 if report["logits_equal"] and report["token_ids_equal"] else 1


def compare(source, export):
    """Report on two folders: 64 fixed pseudo-random ids, and the tokenizers over a text."""
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in
              (source, export)]
    vocabulary = models[0].config.vocab_size
    ids = (torch.arange(64)[None] * 7919 + 13) % vocabulary
    with torch.no_grad():
        a, b = (m(ids).logits for m in models)
    tokens = [AutoTokenizer.from_pretrained(p)(TEXT)["input_ids"] for p in (source, export)]
    return {"schema": "aprnb-check-export-v1", "source": source, "export": export,
            "logits": list(a.shape), "max_abs_difference": (a - b).abs().max().item(),
            "logits_equal": torch.equal(a, b), "token_ids_equal": tokens[0] == tokens[1],
            "token_ids": len(tokens[0])}


if __name__ == "__main__":
    sys.exit(main())
