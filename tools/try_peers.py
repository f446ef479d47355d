#!/usr/bin/env python3
"""Which way to train with PyTorch is the fastest here? Variants of `bench step`'s peer, one by one.

    tools/try_peers.py OUT.jsonl [--cases 16x1024,4x512] [--variants NAME,...] [--beside 4]
    tools/try_peers.py --prefill [--cases ... --variants ... --beside 4]

Each variant (words of aprnb/bench/variants.py joined by "+") runs in a process of its own; a line
with its figures, or with why it has none, goes to OUT.jsonl as soon as it is known. --beside starts
so many at once, since compiling takes most of the time, and then times one after the other while
the others wait; they must fit into the memory together. --prefill ends them after their first step:
it fills the compile caches for what is measured later. Choices that were timed while others ran are
not kept, and words that live from such choices are left out of --prefill and start alone.
"""
import argparse
import json
import sys
import tempfile
from contextlib import ExitStack

from endings import end

SIZES, STANDARD = "16x1024,4x512", "qwen2.5-0.5b"
MANY = (  # for batches of many tokens, by what each is expected to give
    "plain", "bf16-residual", "master+one-update", "fa4+bf16-residual",
    "bf16-residual+one-update", "bf16-residual+step-graph", "own", "flash",
    "expanded", "chunked", "combo", "segments")
FEW = (  # where the launches count
    "own+trees", "bf16-residual+step-graph", "master+one-update+step-graph",
    "fa4+bf16-residual+step-graph", "own+bf16-residual+step-graph",
    "bf16-residual+one-update+step-graph", "own+bf16-residual+trees", "step-graph")
FEW_TOKENS = 4096  # a batch of fewer


def main():
    args = parse()
    from aprnb.bench.variants import TIMED_CHOICE, variant_of
    jobs = []
    for case in args.cases.split(","):
        preset, _, size = case.rpartition("/")
        settings = {"preset": preset or STANDARD, "device": args.device,
                    "precision": args.precision,
                    **dict(zip(("batch", "length"), map(int, size.split("x"))))}
        # resolved here: a word that there is none is refused before anything starts
        jobs += [settings | {"variant": variant_of(name, settings).name}
                 for name in named(args.variants, settings)]
    alone = [job for job in jobs if TIMED_CHOICE & set(job["variant"].split("+"))]
    together = [job for job in jobs if job not in alone]
    groups = [together[i:i + args.beside] for i in range(0, len(together), args.beside)]
    for group in groups + ([] if args.prefill else [[job] for job in alone]):
        measure([job | {"prefill": args.prefill or len(group) > 1} for job in group], args)
    return 0


def named(variants, settings):
    """The names asked for, or those that are worth a trial at this size."""
    if variants:
        return variants.split(",")
    return FEW if settings["batch"] * settings["length"] < FEW_TOKENS else MANY


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", nargs="?", help="file that lines are added to")
    p.add_argument("--cases", default=SIZES,
                   help=f"[PRESET/]sequences x tokens, ... (default {SIZES} of {STANDARD})")
    p.add_argument("--variants", help="names (default: those worth it for the size, see MANY, FEW)")
    p.add_argument("--device", default="cuda")
    p.add_argument("--precision", default="bf16", choices=("bf16", "fp32"))
    p.add_argument("--beside", type=int, default=1, help="processes that start at once (default 1)")
    p.add_argument("--rounds", type=int, default=3, help="turns of each (default 3)")
    p.add_argument("--turn", type=float, default=1.0, help="seconds of a turn (default 1)")
    p.add_argument("--limit", type=float, default=150, help="seconds without an answer (150)")
    p.add_argument("--prefill", action="store_true", help="compile only")
    p.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    args = p.parse_args()
    if bool(args.out) == args.prefill:
        p.error("need OUT.jsonl, or --prefill without it")
    return args


def measure(jobs, args):
    """Start all of these, then time one after the other."""
    from aprnb.bench.turns import started
    with ExitStack() as stack:
        workers = []
        for job in jobs:
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            worker = stack.enter_context(started(job["variant"], "step_torch", job,
                                                 args.torch_python, args.limit, said))
            workers.append((job, worker, said))
        ready = [(job, worker, said, first) for job, worker, said in workers
                 if (first := attempt(job, said, args, lambda: started_up(worker)))]
        for job, worker, said, first in ready:
            figures = first if args.prefill else attempt(
                job, said, args, lambda: timed(worker, job, args) | first)
            if figures:
                tell(job, figures, args)


def attempt(job, said, args, work):
    """What work() returns; None where the worker ended or refused, which is told."""
    from aprnb.errors import AprnbError
    try:
        return work()
    except AprnbError as error:
        tell(job, {"error": str(error), "last_words": last_words(said)}, args)


def started_up(worker):
    answer = worker.answer()
    return {"start_s": round(worker.elapsed(), 1), "compile_cache": answer["compile_cache"]}


def timed(worker, job, args):
    """Figures of one worker that alone has work."""
    from aprnb.bench.timing import median, spread
    worker.steps(4)
    count = max(2, round(args.turn * 4 / worker.steps(4)["seconds"]))
    answers = [worker.steps(count) for _ in range(args.rounds)]
    tokens = job["batch"] * job["length"]
    rates = [tokens * count / answer["seconds"] for answer in answers]
    last = answers[-1]
    return {"tokens_per_sec": round(median(rates), 1), "spread": round(spread(rates), 5),
            "ms_a_step": round(1e3 * tokens / median(rates), 3),
            "memory_gib": round(last["memory_peak"] / 2**30, 2), "loss": last["loss"],
            "versions": last["versions"],
            **worker.look()}  # behind the turns: a profiler may slow what follows


def last_words(file):
    """The last lines that a process said."""
    file.seek(0)
    return [line.rstrip() for line in file if line.strip()][-5:]


def tell(job, figures, args):
    row = {"preset": job["preset"], "case": f"{job['batch']}x{job['length']}",
           "variant": job["variant"], **figures}
    if args.out:
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    shown = {k: v for k, v in row.items() if k not in ("versions", "attention_kernels")}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    end(main)
