"""Full training steps, forward to AdamW, of ours and of PyTorch: tokens/s, memory, start.

Both sides are processes of their own on one device and take turns (turns.py). Time is the host's
around several steps with one synchronisation at the end. Memory is the peak that each side's own
allocator reports; what nvidia-smi saw the process take stands in the JSON document. Start is the
time from a process's start to the end of its first step.
"""
import re
import subprocess

from ..config import PRESETS
from ..errors import MissingPackageError, UsageError
from .cases import STEP_CASES, select
from .rows import Row
from .timing import median, rotated
from .turns import started

SIZE = re.compile(r"([1-9]\d*)x([1-9]\d*)")  # sequences x target tokens of each
STANDARD = "qwen2.5-0.5b"
WARM_UP = 4  # steps: what records graphs or compiles again has done so by then
TURN_S = 1.0


def measure(patterns, rounds, against, device, precision, residual, preset, recompute, python):
    """Iterator of Rows: for every size tokens/s, memory and start.

    patterns: comma-separated sizes such as 16x1024, or globs of STEP_CASES
    against: "none", "torch" (compiled) or "eager";  python: interpreter that has PyTorch
    Errors: UsageError, MissingPackageError before anything is measured.
    """
    sizes = [p.strip() for p in patterns.split(",")]
    if not all(SIZE.fullmatch(size) for size in sizes):
        sizes = list(select({name: name for name in STEP_CASES}, patterns))
    if preset not in PRESETS:
        raise UsageError(f"--preset {preset!r}: need one of {', '.join(PRESETS)}")
    if precision == "auto":
        precision = usual_precision(device)
    if against != "none":
        _require_torch(python)
    settings = {"device": device, "precision": precision, "preset": preset,
                "residual": precision if residual == "auto" else residual,
                "recompute": recompute, "against": against}
    return (row for size in sizes for row in _rows(size, settings, rounds, python))


def _require_torch(python):
    found = subprocess.run([python, "-c", "import importlib.util as u; "
                            "print(*(n for n in ('torch', 'transformers') if not u.find_spec(n)))"],
                           capture_output=True, text=True)
    if found.returncode or found.stdout.strip():
        absent = " and ".join(found.stdout.split()) or "torch and transformers"
        raise MissingPackageError(f"--against: {absent} not installed for {python}; try `pip "
                                  "install torch transformers`, or give --torch-python")


def _rows(size, settings, rounds, python):
    """Both sides on one size: three rows."""
    batch, length = map(int, SIZE.fullmatch(size).groups())
    settings = settings | {"batch": batch, "length": length}
    name, device = "/".join([size, *_departures(settings)]), settings["device"]
    empty = used_bytes(device)
    with started("ours", "step_ours", settings) as worker:
        sides = {"ours": _Side(worker, device, empty)}
        if settings["against"] == "none":
            _take_turns(sides, rounds)
        else:
            with started("torch", "step_torch", settings, python) as peer:
                sides[_peer_name(settings)] = _Side(peer, device, sides["ours"].used)
                _take_turns(sides, rounds)
    return _as_rows(name, sides, batch * length)


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


def _peer_name(settings):
    how = {"torch": "torch.compile", "eager": "torch eager"}[settings["against"]]
    return f"{how} {'amp' if settings['precision'] == 'bf16' else 'fp32'}"


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


def _as_rows(name, sides, tokens):
    def row(case, unit, figures_of, **notes):
        figures = {who: figures_of(side) for who, side in sides.items()}
        return Row("step", case, unit, sides["ours"].last["device"], figures.pop("ours"), figures,
                   notes)

    about = {who: {"how": side.last["how"], "loss": side.last["loss"], "steps_a_turn": side.turn,
                   "ms_a_step": 1e3 * median(side.seconds)} for who, side in sides.items()}
    yield row(name, "tokens/s", lambda side: [tokens / s for s in side.seconds], sides=about)
    yield row(f"{name}/memory", "GiB", lambda side: [side.last["memory_peak"] / 2**30],
              nvidia_smi_bytes={who: side.footprint for who, side in sides.items()})
    yield row(f"{name}/start", "s", lambda side: [side.start_s])


def used_bytes(device):
    """Memory in use on the whole GPU as the driver counts it; None where it cannot be asked."""
    if device == "cpu":
        return None
    index = device.partition(":")[2] or "0"
    try:
        answer = subprocess.run(["nvidia-smi", "-i", index, "--query-gpu=memory.used",
                                 "--format=csv,noheader,nounits"], capture_output=True, text=True)
        return int(answer.stdout) << 20
    except (FileNotFoundError, ValueError):
        return None
