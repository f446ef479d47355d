#!/usr/bin/env python3
"""Do eval and the first step of pretrain give the known losses of the reference tool's own files?

    tools/check_reference_files.py FOLDER [--device cpu]

FOLDER holds files written by the reference tool and expected.json with the loss in nats of each of
two rows of tokens, from an independent forward pass. Each is evaluated, and one pretrain step is
taken on it; both must agree within 2e-5. Files without expected losses must be refused (exit 6).
"""
import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

LIMIT = 2e-5  # nats


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("folder", type=Path)
    p.add_argument("--device", default="cpu")
    args = p.parse_args()
    expected = json.loads((args.folder / "expected.json").read_text())
    bad = 0
    for name, facts in expected["files"].items():
        file = args.folder / name
        if not file.exists() or file.suffix != ".apr" or (file.parent / "config.json").exists():
            continue
        with tempfile.TemporaryDirectory() as work:
            ok = check(file, facts, expected["tokens"], Path(work), args.device)
        bad += not ok
    return 1 if bad else 0


def check(file, facts, tokens, work, device):
    """Evaluate one file on each row, take one step on both; True if all is as expected."""
    if "loss_nats" not in facts:
        code = run("eval", file, "--dataset", shard(work / "x", tokens), "--seq-length", "16",
                   "--device", device).returncode
        print(f"{file.name}: refused with exit {code}, expected 6")
        return code == 6
    errors = []
    for i, want in enumerate(facts["loss_nats"]):
        out = run("eval", file, "--dataset", shard(work / str(i), tokens[i:i + 1]),
                  "--seq-length", "16", "--device", device, "--precision", "fp32", "--json")
        errors.append(json.loads(out.stdout)["loss_nats"] - want)
    both = shard(work / "both", tokens)
    out = run("pretrain", "--init", file, "--dataset", both, "--run-dir", work / "run",
              "--order", "sequential", "--seq-length", "16", "--batch-size", "2", "--num-steps",
              "1", "--val-shard", both, "--device", device, "--precision", "fp32", "--json")
    step = json.loads(out.stdout)["per_step_metrics"][0]["loss_nats"]
    errors.append(step - sum(facts["loss_nats"]) / 2)
    print(f"{file.name}: errors of eval and of the first step {['%.1e' % e for e in errors]}")
    return max(map(abs, errors)) <= LIMIT


def shard(folder, rows):
    """A dataset folder of these rows of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    np.array(rows).astype("<u4").tofile(folder / "shard-00000.bin")
    return folder


def run(*words):
    done = subprocess.run([sys.executable, "-m", "aprnb", *map(str, words)], capture_output=True,
                          text=True)
    if done.returncode not in (0, 6):
        print(done.stderr, file=sys.stderr)
    return done


if __name__ == "__main__":
    sys.exit(main())
