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
Exit status 0 if each case has figures of one variant at least; otherwise the code that all without
figures share, or 5.
"""
import argparse
import json
import math
import os
import sys
from contextlib import ExitStack
from pathlib import Path

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
    check(args)
    from aprnb.bench.step import require_torch
    from aprnb.bench.variants import TIMED_CHOICE, variants_of
    # resolved here: a word that there is none is refused before anything starts
    jobs = [settings | {"variant": variant.name} for settings in cases_of(args)
            for variant in variants_of(named(args.variants, settings), settings)]
    require_torch(args.torch_python)
    alone = [job for job in jobs if TIMED_CHOICE & set(job["variant"].split("+"))]
    together = [job for job in jobs if job not in alone]
    groups = [together[i:i + args.beside] for i in range(0, len(together), args.beside)]
    tried = []  # (name of the case, exit code of the variant)
    for group in groups + ([] if args.prefill else [[job] for job in alone]):
        tried += measure([job | {"prefill": args.prefill or len(group) > 1} for job in group], args)
    return verdict(tried)


def verdict(tried):
    """0 if every case has figures.  Errors: AprnbError that names those that have none."""
    from aprnb.errors import AprnbError, CheckError
    failed = [code for _, code in tried if code]
    bare = dict.fromkeys(case for case, _ in tried if (case, 0) not in tried)
    if failed:
        print(f"{len(failed)} of {len(tried)} trials have no figures", file=sys.stderr)
    if bare:
        error = AprnbError(f"{', '.join(bare)}: no variant has figures; the lines above say why")
        error.exit_code = failed[0] if len(set(failed)) == 1 else CheckError.exit_code
        raise error
    return 0


def check(args):
    """Errors: UsageError, NotFoundError, StorageError before anything is started or written."""
    from aprnb.bench.devices import require
    from aprnb.errors import NotFoundError, StorageError, UsageError
    require(args.device, "cpu", "cuda")
    for name, least in (("beside", 1), ("rounds", 1), ("turn", 0), ("limit", 0)):
        value = getattr(args, name)
        if not (math.isfinite(value) and (value >= least if least else value > 0)):
            need = f"at least {least}" if least else "a finite number above 0"
            raise UsageError(f"--{name} {value:g}: need {need}")
    if args.out is None:
        return
    if not args.out.parent.is_dir():
        raise NotFoundError(f"{args.out.parent}: no such folder for OUT.jsonl")
    if args.out.is_dir():
        raise StorageError(f"{args.out}: is a folder, need a file to add lines to")
    if not os.access(args.out if args.out.exists() else args.out.parent, os.W_OK):
        raise StorageError(f"{args.out}: cannot be written; choose another file")
    if args.out.exists():
        require_lines(args.out)


def require_lines(path):
    """CheckError unless a file holds whole lines of JSON: a line added to another would be lost."""
    from aprnb.errors import CheckError
    text = path.read_bytes()
    try:
        whole = all(isinstance(json.loads(line), dict) for line in text.splitlines())
    except ValueError:
        whole = False
    if not whole or text and not text.endswith(b"\n"):
        raise CheckError(f"{path}: is no file of JSON lines; choose another, or repair it")


def cases_of(args):
    """Settings of each case.  Errors: UsageError for one that is none or stands twice."""
    from aprnb.bench.step import SIZE, batch_and_length
    from aprnb.config import PRESETS
    from aprnb.errors import UsageError
    found = []
    for case in args.cases.split(","):
        preset, slash, size = case.strip().rpartition("/")
        if not SIZE.fullmatch(size) or slash and preset not in PRESETS:
            raise UsageError(f"--cases {case!r}: need [PRESET/]sequences x tokens, such as "
                             f"tiny/2x64; presets: {', '.join(PRESETS)}")
        settings = {"preset": preset or STANDARD, "device": args.device,
                    "precision": args.precision, **batch_and_length(size)}
        if settings in found:
            raise UsageError(f"--cases {args.cases}: {case} stands twice; leave one out")
        found.append(settings)
    return found


def named(variants, settings):
    """The names asked for, or those that are worth a trial at this size."""
    if variants is not None:
        return [name.strip() for name in variants.split(",")]
    return FEW if settings["batch"] * settings["length"] < FEW_TOKENS else MANY


def parse():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("out", nargs="?", metavar="OUT.jsonl", type=Path,
                   help="file that lines are added to")
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
    if (args.out is not None) == args.prefill:
        p.error("need OUT.jsonl, or --prefill without it")
    return args


def measure(jobs, args):
    """Start all of these, then time one after the other.

    Returns (name of the case, exit code) of each; 0 of one that has its figures.
    """
    from aprnb.bench.turns import started
    codes = []
    with ExitStack() as stack:
        workers = []
        for job in jobs:
            name = f"torch {job['variant']}"
            workers.append((job, stack.enter_context(
                started(name, "step_torch", job, args.torch_python, args.limit))))
        ready = []
        for job, worker in workers:
            first, code = attempt(worker, lambda: started_up(worker))
            if code or args.prefill:
                tell(job, first, args)
                codes.append((name_of(job), code))
            else:
                ready.append((job, worker, first))
        for job, worker, first in ready:
            figures, code = attempt(worker, lambda: timed(worker, job, args) | first)
            tell(job, figures, args)
            codes.append((name_of(job), code))
    return codes


def attempt(worker, work):
    """(what work() returns, 0); where the worker ended or refused, why and its exit code."""
    from aprnb.errors import AprnbError
    try:
        return work(), 0
    except AprnbError as error:
        return {"error": str(error), "last_words": worker.last_words()}, error.exit_code


def name_of(job):
    return f"{job['preset']}/{job['batch']}x{job['length']}"


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
