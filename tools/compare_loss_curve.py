#!/usr/bin/env python3
"""Train one model twice from the same weights on the same data, here and with PyTorch amp.

    tools/compare_loss_curve.py DATASET -o curve.json [--arch qwen2.5-0.5b] [--steps 200]
        [--batch 4] [--length 512] [--device cuda]

Both sides: float32 master weights and moments, bfloat16 operands, AdamW with decay on matrices,
clip 1.0, linear warm-up to a constant rate. Exit status 1 if the losses, of a step or averaged over
the last EVERY, differ by more than LIMIT at any EVERY-th step. Needs torch and transformers.
"""
import argparse
import json
from pathlib import Path

import numpy as np
from endings import end
from frameworks import AutoModelForCausalLM, require, torch

EVERY, LIMIT = 20, 0.01
RATE, WARMUP, DECAY, BETAS = 3e-4, 20, 0.1, (0.9, 0.95)


def main():
    from aprnb.config import PRESETS
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("dataset", help="folder of token shards")
    p.add_argument("-o", "--output", required=True, help=".json that is written")
    p.add_argument("--arch", default="qwen2.5-0.5b", choices=PRESETS, help="default qwen2.5-0.5b")
    p.add_argument("--steps", type=int, default=200, help="optimiser steps (default 200)")
    p.add_argument("--batch", type=int, default=4, help="sequences of a step (default 4)")
    p.add_argument("--length", type=int, default=512, help="tokens of a sequence (default 512)")
    p.add_argument("--device", default="cuda", help="of both sides: cpu, cuda (default) or cuda:N")
    args = p.parse_args()
    if args.steps < EVERY or min(args.batch, args.length) < 1:
        p.error(f"--steps: need {EVERY} or more, --batch and --length 1 or more")
    require()
    config, data = PRESETS[args.arch], batches(args)
    ours, weights = train_here(config, data, args)
    theirs = train_torch(config, data, weights, args)
    rows = [compare(step, ours, theirs) for step in range(EVERY, args.steps + 1, EVERY)]
    for row in rows:
        print("step {step:4d}  single {ours:.4f} {theirs:.4f} ({single:+.3%})  mean of the last "
              "{every} {mean_ours:.4f} {mean_theirs:.4f} ({mean:+.3%})".format(**row))
    worst = float(np.max(np.abs([[row["single"], row["mean"]] for row in rows])))  # keeps a NaN
    report = {"worst": worst, "limit": LIMIT, "settings": vars(args), "rows": rows, "ours": ours,
              "theirs": theirs}
    Path(args.output).write_text(json.dumps(report, indent=1) + "\n")
    print(f"worst departure {worst:.3%} of a loss, limit {LIMIT:.0%}")
    return 0 if worst <= LIMIT else 1


def batches(args):
    """[(inputs, targets)] of every step: windows of the dataset in order, from the first again."""
    from aprnb.data.batches import Windows
    from aprnb.data.shards import open_dataset
    windows = Windows(open_dataset(args.dataset), args.length)
    picked = [np.stack([windows[(step * args.batch + i) % len(windows)]
                        for i in range(args.batch)]) for step in range(args.steps)]
    return [(w[:, :-1].copy(), w[:, 1:].copy()) for w in picked]


def rate(step):
    return RATE * min(1, (step + 1) / WARMUP)


def train_here(config, data, args):
    """(losses, initial weights by Hugging Face name)."""
    from aprnb.backend import open_backend
    from aprnb.model.instance import Model
    from aprnb.train.step import OptimiserSettings, Trainer
    model = Model.random(config, open_backend(args.device, "bf16"), seed=0)
    weights = model.tensors()
    trainer = Trainer(model, args.batch, args.batch, args.length, OptimiserSettings(
        *BETAS, weight_decay=DECAY, decay_on="matrices", grad_clip=1.0))
    losses = []
    for step, (inputs, targets) in enumerate(data):
        losses.append(trainer.gradients(inputs, targets)[0])
        trainer.update(rate(step))
    return losses, weights


def train_torch(config, data, weights, args):
    """Losses of the same model with autocast, eager."""
    from aprnb.formats.config_json import to_hf
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    hf = CONFIG_MAPPING[config.family].from_dict(to_hf(config))
    hf.use_cache = False
    with torch.device(args.device):
        model = AutoModelForCausalLM.from_config(hf, attn_implementation="sdpa").float().train()
    state = {name: torch.from_numpy(array) for name, array in weights.items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": DECAY},
                                   {"params": vectors, "weight_decay": 0.0}], RATE, BETAS, 1e-8)
    losses = []
    for step, pair in enumerate(data):
        inputs, targets = (torch.from_numpy(x).long().to(args.device) for x in pair)
        for group in optimiser.param_groups:
            group["lr"] = rate(step)
        with torch.autocast(args.device.split(":")[0], torch.bfloat16):
            logits = model(input_ids=inputs).logits
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return losses


def compare(step, ours, theirs):
    """The losses of one step and of the EVERY steps that end there."""
    a, b = (np.mean(x[step - EVERY:step]) for x in (ours, theirs))
    return {"step": step, "every": EVERY, "ours": ours[step - 1], "theirs": theirs[step - 1],
            "single": ours[step - 1] / theirs[step - 1] - 1, "mean_ours": float(a),
            "mean_theirs": float(b), "mean": float(a / b - 1)}


if __name__ == "__main__":
    end(main)
