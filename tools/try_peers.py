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

SIZES = "16x1024,4x512"
VARIANTS = (  # by what each is expected to give
    "plain", "own+trees", "bf16-residual", "bf16-residual+step-graph",
    "master+one-update+step-graph", "master+one-update", "bf16-residual+one-update",
    "fa4+bf16-residual+step-graph", "own", "flash", "expanded", "master", "combo", "segments",
    "tf32", "chunked", "descent", "autotune")


def main():
    args = parse()
    from aprnb.bench.variants import TIMED_CHOICE, variant_of
    for case in args.cases.split(","):
        settings = {"preset": args.preset, "device": args.device, "precision": args.precision,
                    **dict(zip(("batch", "length"), map(int, case.split("x"))))}
        # resolved here: a word that there is none is refused before anything starts
        names = [variant_of(name, settings).name for name in args.variants.split(",")]
        alone = [n for n in names if TIMED_CHOICE & set(n.split("+"))]
        together = [n for n in names if n not in alone]
        groups = [together[i:i + args.beside] for i in range(0, len(together), args.beside)]
        for group in groups + ([] if args.prefill else [[n] for n in alone]):
            measure(group, settings | {"prefill": args.prefill or len(group) > 1}, args)
    return 0


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", nargs="?", help="file that lines are added to")
    p.add_argument("--cases", default=SIZES, help=f"sequences x tokens (default {SIZES})")
    p.add_argument("--variants", default=",".join(VARIANTS), help="names (default: all worth it)")
    p.add_argument("--preset", default="qwen2.5-0.5b")
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


def measure(names, settings, args):
    """Start all of these, then time one after the other."""
    from aprnb.bench.turns import started
    from aprnb.errors import AprnbError
    with ExitStack() as stack:
        workers = {}
        for name in names:
            said = stack.enter_context(tempfile.TemporaryFile("w+"))
            workers[name] = stack.enter_context(started(
                name, "step_torch", settings | {"variant": name}, args.torch_python,
                patience_s=args.limit, stderr=said)), said
        ready = {}
        for name, (worker, said) in workers.items():
            try:
                ready[name] = worker.answer() | {"start_s": worker.elapsed()}
            except AprnbError as error:
                tell(settings, name, {"error": str(error), "last_words": last_words(said)}, args)
        for name, first in ready.items():
            worker, said = workers[name]
            try:
                tell(settings, name, {"start_s": round(first["start_s"], 1)} if args.prefill
                     else timed(worker, first, settings, args), args)
            except AprnbError as error:
                tell(settings, name, {"error": str(error), "last_words": last_words(said)}, args)


def timed(worker, first, settings, args):
    """Figures of one worker that alone has work."""
    from aprnb.bench.timing import median, spread
    worker.steps(4)
    seen = worker.look()
    count = max(2, round(args.turn * 4 / worker.steps(4)["seconds"]))
    answers = [worker.steps(count) for _ in range(args.rounds)]
    tokens = settings["batch"] * settings["length"]
    rates = [tokens * count / answer["seconds"] for answer in answers]
    last = answers[-1]
    return {"tokens_per_sec": round(median(rates), 1), "spread": round(spread(rates), 5),
            "ms_a_step": round(1e3 * tokens / median(rates), 3),
            "memory_gib": round(last["memory_peak"] / 2**30, 2), "loss": last["loss"],
            "start_s": round(first["start_s"], 1), "compile_cache": last["compile_cache"],
            "versions": last["versions"], **seen}


def last_words(file):
    """The last lines that a process said."""
    file.seek(0)
    return [line.rstrip() for line in file if line.strip()][-5:]


def tell(settings, name, figures, args):
    row = {"case": f"{settings['batch']}x{settings['length']}", "preset": settings["preset"],
           "variant": name, **figures}
    if args.out:
        with open(args.out, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    shown = {k: v for k, v in row.items() if k not in ("preset", "versions", "attention_kernels")}
    print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    end(main)
