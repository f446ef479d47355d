#!/usr/bin/env python3
"""Tokens per second of a training step on the CPU: ours and PyTorch eager, turn by turn.

    tools/bench_cpu.py MODEL_FOLDER [--batch 2 --length 255 --threads 2 --rounds 5 --steps 3]
                       [--torch-python PYTHON] [--json FILE]

Both sides do forward, loss, backward, global clip and AdamW in float32 on the same random tokens,
each in a process of its own with the same number of threads. They take turns, so a machine that
drifts drifts for both; the medians and the median of the ratios are printed. PyTorch runs the
transformers model with its fused AdamW (the faster of its CPU optimisers) under --torch-python.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time


def main():
    args = parse()
    if args.worker:
        return work(args)
    sides = {"ours": sys.executable, "torch": args.torch_python}
    workers = {name: start(name, python, args) for name, python in sides.items()}
    seconds = {name: [] for name in workers}
    for name, worker in workers.items():
        ask(worker, 2)  # warm-up: buffers touched, thread pools started
    for _ in range(args.rounds):
        for name, worker in workers.items():
            seconds[name].append(ask(worker, args.steps) / args.steps)
    for worker in workers.values():
        worker.stdin.close()
        worker.wait()
    report(seconds, args)


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("model", help="Hugging Face folder")
    p.add_argument("--batch", type=int, default=2, help="sequences a step")
    p.add_argument("--length", type=int, default=255, help="target tokens a sequence")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--steps", type=int, default=3, help="steps a round")
    p.add_argument("--torch-python", default=sys.executable,
                   help="interpreter that has torch and transformers")
    p.add_argument("--json", help="also write the figures to this file")
    p.add_argument("--worker", choices=("ours", "torch"), help=argparse.SUPPRESS)
    return p.parse_args()


def start(name, python, args):
    """A worker process that runs N steps for every line "N" on its input."""
    threads = {v: str(args.threads) for v in
               ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    return subprocess.Popen(
        [python, __file__, args.model, "--worker", name, "--batch", str(args.batch),
         "--length", str(args.length), "--threads", str(args.threads)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **threads})


def ask(worker, steps):
    worker.stdin.write(f"{steps}\n")
    worker.stdin.flush()
    answer = worker.stdout.readline()
    if not answer:
        raise SystemExit("a worker stopped; see its message above")
    return float(answer)


def work(args):
    step = (ours if args.worker == "ours" else torch_eager)(args)
    for line in sys.stdin:
        begin = time.perf_counter()
        for _ in range(int(line)):
            step()
        print(time.perf_counter() - begin, flush=True)


def tokens(args, vocab_size):
    import numpy as np
    windows = np.random.default_rng(0).integers(0, vocab_size, (args.batch, args.length + 1))
    return windows[:, :-1].astype(np.int32), windows[:, 1:].astype(np.int32)


def ours(args):
    from aprnb.backend import open_backend
    from aprnb.formats.model_file import open_model
    from aprnb.model.instance import Model
    from aprnb.train.step import OptimiserSettings, Trainer
    model = Model.from_file(open_model(args.model), open_backend("cpu", "fp32"))
    trainer = Trainer(model, args.batch, args.batch, args.length, OptimiserSettings())
    inputs, targets = (x.copy() for x in tokens(args, model.config.vocab_size))

    def step():
        trainer.gradients(inputs, targets)
        trainer.update(1e-5)
    return step


def torch_eager(args):
    import torch
    from transformers import AutoModelForCausalLM
    torch.set_num_threads(args.threads)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-5, (0.9, 0.95), weight_decay=0.1,
                                  fused=True)
    inputs, targets = (torch.from_numpy(x).long() for x in tokens(args, model.config.vocab_size))

    def step():
        logits = model(inputs).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()
    return step


def report(seconds, args):
    count = args.batch * args.length
    ratios = [t / o for o, t in zip(seconds["ours"], seconds["torch"])]
    rates = {name: count / statistics.median(s) for name, s in seconds.items()}
    for name, rate in rates.items():
        spread = sorted(count / s for s in seconds[name])
        print(f"{name:6s} {rate:8.0f} tokens/s (min {spread[0]:.0f}, max {spread[-1]:.0f})")
    ratio = statistics.median(ratios)
    print(f"ratio  {ratio:8.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}; above 1 = ours is "
          f"faster), {args.batch} x {args.length}, {args.threads} threads")
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"schema": "aprnb-bench-cpu-v1", "batch": args.batch, "length": args.length,
                       "threads": args.threads, "tokens_per_sec": rates, "ratio": ratio,
                       "ratios": ratios, "seconds_per_step": seconds}, f, indent=1)


if __name__ == "__main__":
    main()
