"""Compares an exported folder, as transformers loads it, with its source and with its own files.

    python tools/check_export.py SOURCE EXPORT    needs torch and transformers, CPU is enough
    python tools/check_export.py EXPORT           needs transformers, no torch

Two folders: logits, and the ids that both tokenizers give for TEXTS. A folder with tokenizer.json:
whether transformers gives the ids of that file, as the `tokenizers` library reads it. transformers
4 keeps the file and 5 builds some tokenizers anew, so ask both (4.57 and 5). Prints one JSON
object; exit code 1 unless all is equal. A difference from its own file that SOURCE has too is
reported, and is no fault of the export.
"""
import argparse
import json
import sys
from pathlib import Path

TEXTS = (
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\nfor i in range(10):\n",
    "It's 2024: x1234 = 3.14159 and 1,000,000; they've we'll I'M DON'T you'D",
    " a  b\t\tc \r\n\r\nd ", "naïve cafe\u0301 A\u030a \u1100\u1161 Ⅷ ² 中文 123号 한국어",
    "🙂👩\u200d👧 🇩🇪 —“quoted”…",
    "if x:\n\n\n        return [1, 22, 333]  # {'k': [1]};//**\n   \n   \n")


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folders", metavar="[SOURCE] EXPORT", nargs="+",
                   help="folder that was imported, if it is there, and the one that was exported")
    args = p.parse_args()
    if len(args.folders) > 2:
        p.error("need EXPORT, or SOURCE and EXPORT")
    report = check(*args.folders)
    print(json.dumps(report))
    lost = report["own_ids_equal"] is False and report["source_own_ids_equal"] is not False
    return 1 if lost or False in (report["logits_equal"], report["token_ids_equal"]) else 0


def check(*folders):
    """Report; what was not compared is null."""
    from frameworks import require
    require(need_torch=len(folders) == 2)
    import transformers
    ids = [ids_of(folder) for folder in folders]
    own = [ids_of_file(folder) for folder in folders]
    kept = [None if file is None else file == there for file, there in zip(own, ids)]
    report = {"schema": "aprnb-check-export-v1", "transformers": transformers.__version__,
              "source": folders[0] if len(folders) == 2 else None, "export": folders[-1],
              "logits_equal": None, "token_ids_equal": ids[0] == ids[1] if len(ids) == 2 else None,
              "token_ids": sum(map(len, ids[-1])),
              "own_ids_equal": kept[-1], "source_own_ids_equal": ([None] + kept)[-2],
              "other_than_tokenizer_json": [text for text, a, b in zip(
                  TEXTS, own[-1] or ids[-1], ids[-1]) if a != b]}
    return report | (logits_report(*folders) if len(folders) == 2 else {})


def logits_report(source, export):
    """Logits of 64 fixed pseudo-random ids."""
    from frameworks import AutoModelForCausalLM, torch
    models = [AutoModelForCausalLM.from_pretrained(p, dtype=torch.float32) for p in
              (source, export)]
    ids = (torch.arange(64)[None] * 7919 + 13) % models[0].config.vocab_size
    with torch.no_grad():
        a, b = (m(ids).logits for m in models)
    return {"logits": list(a.shape), "max_abs_difference": (a - b).abs().max().item(),
            "logits_equal": torch.equal(a, b)}


def ids_of(folder):
    """Ids of TEXTS by the tokenizer that transformers makes of a folder."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]


def ids_of_file(folder):
    """Ids of TEXTS by the folder's tokenizer.json alone, or None."""
    from tokenizers import Tokenizer
    file = Path(folder) / "tokenizer.json"
    library = Tokenizer.from_file(str(file)) if file.is_file() else None
    return library and [library.encode(text, add_special_tokens=False).ids for text in TEXTS]


if __name__ == "__main__":
    sys.exit(main())
