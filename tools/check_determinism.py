#!/usr/bin/env python3
"""Train twice from the same weights on the same batches: is every byte the same?

    tools/check_determinism.py [--arch qwen2.5-0.5b] [--steps 50] [--batch 4] [--length 512]
        [--device cuda]

Random tokens. Prints the SHA-256 of weights, moments and step after each run; exit status 1 if they
differ.
"""
import argparse
import hashlib

from endings import end


def main():
    from aprnb.config import PRESETS
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--arch", default="qwen2.5-0.5b", choices=PRESETS, help="default qwen2.5-0.5b")
    p.add_argument("--steps", type=int, default=50, help="optimiser steps (default 50)")
    p.add_argument("--batch", type=int, default=4, help="sequences of a step (default 4)")
    p.add_argument("--length", type=int, default=512, help="tokens of a sequence (default 512)")
    p.add_argument("--device", default="cuda", help="auto, cpu, cuda (default) or cuda:N")
    args = p.parse_args()
    if min(args.steps, args.batch, args.length) < 1:
        p.error("--steps, --batch and --length: need 1 or more")
    digests = [train(args) for _ in range(2)]
    print("\n".join(digests))
    print("equal bytes" if digests[0] == digests[1] else "DIFFERENT BYTES")
    return 0 if digests[0] == digests[1] else 1


def train(args):
    """SHA-256 of everything that the next step would depend on."""
    import numpy as np
    from aprnb.backend import open_backend
    from aprnb.config import PRESETS
    from aprnb.model.instance import Model
    from aprnb.train.step import OptimiserSettings, Trainer
    config = PRESETS[args.arch]
    model = Model.random(config, open_backend(args.device), seed=0)
    trainer = Trainer(model, args.batch, None, args.length, OptimiserSettings())
    rng = np.random.default_rng(1)
    for step in range(args.steps):
        window = rng.integers(0, config.vocab_size, (args.batch, args.length + 1), np.int32)
        trainer.gradients(window[:, :-1].copy(), window[:, 1:].copy())
        trainer.update(3e-4 / (1 + step))
    weights = hashlib.sha256(model.backend.download(model.master).tobytes()).hexdigest()
    return f"weights {weights} moments {trainer.state_digest()}"


if __name__ == "__main__":
    end(main)
