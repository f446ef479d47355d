"""Full training steps, forward to AdamW, of ours and of PyTorch: tokens/s, memory, start.

The sides are processes of their own on one device and take turns (turns.py). Of several variants
of PyTorch the fastest is the peer; the JSON document tells about all. Time is the host's around
several steps with one synchronisation at the end. Memory is the peak that each side's own allocator
reports; what nvidia-smi saw the process take stands in the JSON document. Start is the time from a
process's start to the end of its first step; the row says what the peer's compile cache held.
"""
import re
import subprocess
from contextlib import ExitStack

from ..config import PRESETS
from ..errors import MissingPackageError, UsageError
from .cases import STEP_CASES, select
from .devices import require
from .rows import Row
from .timing import median, rotated
from .turns import signal_name, started
from .variants import variants_of

SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")  # sequences x target tokens of each
STANDARD = "qwen2.5-0.5b"
WARM_UP = 4  # steps: what records graphs or compiles again has done so by then
TURN_S = 1.0
ASKED = 64  # exit code of an interpreter that was asked for packages and has all of them


def measure(patterns, rounds, against, device, precision, residual, preset, recompute, python,
            variants="best"):
    """Iterator of Rows: for every size tokens/s, memory and start.

    patterns: comma-separated sizes such as 16x1024, or globs of STEP_CASES
    against: "none", "torch" or "eager";  python: interpreter that has PyTorch
    variants: comma-separated names of variants.py for "torch"; the fastest of them is the peer
    Errors: UsageError, MissingPackageError before anything is measured.
    """
    require(device, "cpu", "cuda")
    sizes = sizes_of(patterns)
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset!r}: need one of {', '.join(PRESETS)}")
    if precision == "auto":
        precision = usual_precision(device)
    names = {"none": [], "eager": ["eager"], "torch": [v.strip() for v in variants.split(",")]}
    if variants != "best" and against != "torch":
        raise UsageError(f"--torch-variant {variants}: --against {against} measures none of them; "
                         "use --against torch")
    settings = {"device": device, "precision": precision, "preset": preset,
                "residual": precision if residual == "auto" else residual,
                "recompute": recompute}
    runs = [settings | batch_and_length(size) for size in sizes]
    found = [variants_of(names[against], run) for run in runs]
    if against != "none":
        require_torch(python)
    return (row for size, run, own in zip(sizes, runs, found)
            for row in _rows(size, run, own, rounds, python))


def sizes_of(patterns):
    """Sizes of comma-separated words, each a size of its own or a glob of STEP_CASES.

    Errors: UsageError for a word that is neither, and for one that stands twice.
    """
    words = [word.strip() for word in patterns.split(",")]
    twice = next((word for i, word in enumerate(words) if word in words[:i]), None)
    if twice is not None:
        raise UsageError(f"--cases {patterns}: {twice!r} stands twice; leave one out")
    standard = dict.fromkeys(STEP_CASES)
    return list(dict.fromkeys(size for word in words for size in (
        [word] if SIZE.fullmatch(word) else select(standard, word))))


def batch_and_length(size):
    """Settings of a size."""
    return dict(zip(("batch", "length"), map(int, SIZE.fullmatch(size).groups())))


def require_torch(python):
    """Errors: MissingPackageError if this interpreter has no PyTorch or no transformers, UsageError
    if it is none.  It answers by its exit code: what else it prints is no answer."""
    names = ("torch", "transformers")
    found = subprocess.run(
        [python, "-c", "import importlib.util as u, sys; sys.exit("
         f"{ASKED} + sum(1 << i for i, n in enumerate({names}) if not u.find_spec(n)))"],
        stdin=subprocess.DEVNULL, capture_output=True)
    absent = found.returncode - ASKED
    if not 0 <= absent < 1 << len(names):
        said = found.stderr.decode(errors="replace").split("\n")
        how = (f"exit code {found.returncode}" if found.returncode >= 0
               else signal_name(-found.returncode))
        raise UsageError(f"--torch-python {python}: asked for its packages it ended with {how}: "
                         f"{' | '.join(filter(None, said[-4:])) or 'no word'}; need a Python "
                         "interpreter")
    if absent:
        which = " and ".join(name for i, name in enumerate(names) if absent >> i & 1)
        raise MissingPackageError(f"--against: {which} not installed for {python}; try `pip "
                                  "install torch transformers`, or give --torch-python")


def _rows(size, settings, variants, rounds, python):
    """All sides on one size: three rows."""
    name, device = "/".join([size, *_departures(settings)]), settings["device"]
    sides, used = {}, used_bytes(device)
    with ExitStack() as stack:
        worker = stack.enter_context(started("ours", "step_ours", settings))
        sides["ours"] = _Side(worker, device, used)
        for variant in variants:
            worker = stack.enter_context(started(f"torch {variant.name}", "step_torch",
                                                 settings | {"variant": variant.name}, python))
            last = list(sides.values())[-1]
            sides[variant.name] = _Side(worker, device, last.used)
        _take_turns(sides, rounds)
        for side in sides.values():  # last: a profiler may slow what comes behind it
            side.seen = side.worker.look()
    tokens = settings["batch"] * settings["length"]
    yield from _as_rows(name, sides, tokens, {v.name: _peer_name(v, settings) for v in variants})


def _departures(settings):
    """Words for a case's name: what is not as in the row that everybody compares."""
    if settings["preset"] != STANDARD:
        yield settings["preset"]
    if settings["precision"] != usual_precision(settings["device"]):
        yield settings["precision"]
    if settings["residual"] != settings["precision"]:
        yield f"residual-{settings['residual']}"
    if settings["recompute"] != "none":
        yield f"recompute-{settings['recompute']}"


def usual_precision(device):
    return "fp32" if device == "cpu" else "bf16"


def _peer_name(variant, settings):
    """What the rows call PyTorch, whatever variant was the fastest: how it computes."""
    how = "torch.compile" if variant.compiled else "torch eager"
    numbers = "amp" if settings["precision"] == "bf16" else "fp32"
    return f"{how} {'bf16 + master weights' if variant.master else numbers}"


class _Side:
    """What one worker showed."""

    def __init__(self, worker, device, used_before):
        self.worker = worker
        worker.answer()
        self.start_s = worker.elapsed()
        worker.steps(WARM_UP)
        answer = worker.steps(WARM_UP)
        self.turn = max(2, round(TURN_S * WARM_UP / answer["seconds"]))
        self.used = used_bytes(device)
        self.footprint = None if self.used is None else self.used - used_before
        self.seconds = []

    def take_turn(self):
        self.last = self.worker.steps(self.turn)
        self.seconds.append(self.last["seconds"] / self.turn)


def _take_turns(sides, rounds):
    order = list(sides.values())
    for number in range(rounds):
        for i in rotated(len(order), number):
            order[i].take_turn()


def _as_rows(name, sides, tokens, peer_names):
    """Three rows with ours beside the fastest variant; notes tell about all.

    peer_names: variant -> what the rows call it
    """
    ours = sides["ours"]
    best = min(peer_names, key=lambda v: median(sides[v].seconds), default=None)

    def row(case, unit, figures_of, more="", **notes):
        peers = {peer_names[best]: figures_of(sides[best])} if best else {}
        how = {peer: _how(sides[best]) + more for peer in peers}
        return Row("step", case, unit, ours.last["device"], figures_of(ours), peers, how, notes)

    about = {who: {"how": side.last["how"], "loss": side.last["loss"], "steps_a_turn": side.turn,
                   "ms_a_step": 1e3 * median(side.seconds),
                   "tokens_per_sec": tokens / median(side.seconds), "start_s": side.start_s,
                   "memory_peak": side.last["memory_peak"],
                   "versions": side.last.get("versions"), **side.seen}
             for who, side in sides.items()}
    yield row(name, "tokens/s", lambda side: [tokens / s for s in side.seconds], sides=about)
    yield row(f"{name}/memory", "GiB", lambda side: [side.last["memory_peak"] / 2**30],
              nvidia_smi_bytes={who: side.footprint for who, side in sides.items()})
    cache = sides[best].last["compile_cache"] if best else None
    yield row(f"{name}/start", "s", lambda side: [side.start_s],
              f"; compile cache {cache}" if cache else "", compile_cache=cache)


def _how(side):
    """Variant, attention that ran and versions, in one line."""
    return "; ".join([side.last["variant"], f"{side.seen['attention']} attention",
                      *(f"{name} {version}" for name, version in side.last["versions"].items())])


def used_bytes(device):
    """Memory in use on the whole GPU as the driver counts it; None where it cannot be asked."""
    if device == "cpu":
        return None
    index = device.partition(":")[2] or "0"
    try:
        answer = subprocess.run(["nvidia-smi", "-i", index, "--query-gpu=memory.used",
                                 "--format=csv,noheader,nounits"], capture_output=True, text=True)
        return int(answer.stdout) << 20
    except (OSError, ValueError):
        return None
