"""Settings of a training run: every number resolved and checked before anything is opened.

`resolve` merges what was given with the defaults and remembers where each value came from.
On --resume the values of the run stand and only those in MAY_CHANGE can be given anew: all others
change the numbers that the rest of the run would produce, so they need a run of their own.
"""
import os
from dataclasses import asdict, dataclass, fields

from ..backend import DEVICE, KERNELS
from ..config import PRESETS
from ..data.batches import ORDERS
from ..dtypes import PRECISIONS
from ..errors import CheckError, UsageError
from ..model.activations import RECOMPUTED
from .gates import LOSS_FLOOR_NATS
from .schedule import SHAPES
from .step import OptimiserSettings

MODES = ("finetune", "from-scratch")
MODE_LR = {"finetune": 5e-5, "from-scratch": 3e-4}
MODE_WARMUP = {"finetune": 100, "from-scratch": 1000}  # steps
WARMUP_SHARE = 10  # a default warm-up takes at most 1/10 of the steps
LOWEST_LR_SHARE = 10  # default --min-lr: a tenth of the peak (Chinchilla, GPT-3, Llama)

MAY_CHANGE = {"num_steps", "schedule_steps", "checkpoint_every", "keep", "keep_best",
              "target_val_loss", "patience", "max_epoch0_loss", "on_nonfinite", "max_minutes",
              "preflight", "dataset", "val_shard", "run_dir"}
"""Settings that a resumed run may be given anew. The data are compared by content, not by place;
with another --num-steps the schedule stays as it is laid out, unless --schedule-steps says more."""


@dataclass(frozen=True)
class Settings:
    """All settings of a run; see `aprnb pretrain --help` for the same list by flags."""

    dataset: str
    """Folder of token shards, or one .bin file."""
    run_dir: str
    """Folder that the run writes."""
    tokenizer: str | None = None
    """tokenizer.json or its folder; None: the model's own, else the dataset's."""
    init: str | None = None
    """Model file or Hugging Face folder to continue from."""
    arch: str | None = None
    """Preset name or config.json of a model to start from random weights."""

    device: str = "auto"
    precision: str = "auto"
    residual: str = "auto"
    """Precision of the residual stream and its gradient; auto: that of everything else."""
    kernels: str = "auto"
    """Which kernels of a GPU; a name that cannot serve is an error."""

    num_steps: int = 1000
    batch_size: int = 16
    """Sequences per optimiser step."""
    micro_batch: int | None = None
    """Sequences per pass; None: chosen by memory."""
    recompute: str = "none"
    """What of a layer the backward pass computes anew, to save memory."""
    seq_length: int = 1024
    """Target tokens of a window."""
    steps_per_epoch: int = 100
    """Steps between evaluations; an epoch is not a pass over the data."""

    mode: str = "from-scratch"
    """Sets the defaults of lr, min_lr and warmup_steps together."""
    lr: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 1000
    schedule: str = "cosine"
    schedule_steps: int | None = None
    """Horizon: the steps that the schedule is laid out for; None: num_steps."""
    min_lr: float = 3e-5
    """Rate of the horizon's last step, and of all after it."""
    beta1: float = OptimiserSettings.beta1
    beta2: float = OptimiserSettings.beta2
    eps: float = OptimiserSettings.eps
    weight_decay: float = OptimiserSettings.weight_decay
    decay_on: str = OptimiserSettings.decay_on
    grad_clip: float = OptimiserSettings.grad_clip

    order: str = "shuffled"
    seed: int = 42
    """Of the random weights and of the order of the windows."""
    val_shard: str | None = None
    """Dataset to validate on; None: windows of the training data, never trained on."""
    val_windows: int | None = 256
    """Windows per evaluation; None: val_batches decides."""
    val_batches: int | None = None
    """Windows per evaluation in batches, so that the set depends on batch_size; None: it does
    not."""
    val_order: str = "shuffled"
    """shuffled: validation windows are drawn over all by seed; sequential: they are the last of
    the training data, or the first of val_shard."""

    preflight: str = "auto"
    target_val_loss: float | None = None
    """Nats; None: no target."""
    patience: int = 5
    """Epochs without a better validation loss before the run stops."""
    max_epoch0_loss: float | None = None
    """Nats; None until the model is known, then 10.0 with init and 2 ln V without."""
    on_nonfinite: str = "skip"
    max_minutes: float | None = None
    """Minutes after which a process saves a state and stops; None: no limit."""

    checkpoint_every: int | None = None
    """Steps between saved states, besides those at epoch ends."""
    keep: int | None = None
    """Newest checkpoints that stay besides that of the best epoch; None: all of the epochs."""
    keep_best: bool = False
    """Keep the best and the newest epoch, and one state."""

    def __post_init__(self):
        for names, low, need in (
                (("num_steps", "schedule_steps", "batch_size", "micro_batch", "seq_length",
                  "steps_per_epoch", "val_windows", "val_batches", "patience",
                  "checkpoint_every", "keep"), 1, "at least 1"),
                (("warmup_steps", "seed"), 0, "0 or more")):
            for name in names:
                value = getattr(self, name)
                self._require(value is None or value >= low, name, need)
        for name, (low, high) in BOUNDS.items():
            value = getattr(self, name)
            self._require(value is None or low <= value <= high or value == 0 and name in OFF_AT_0,
                          name, f"{low:g} to {high:g}{', or 0' * (name in OFF_AT_0)}")
        if self.keep and self.keep_best:
            raise UsageError(f"--keep {self.keep} and --keep-best: need one of them; the best "
                             "epoch is kept by both")
        if bool(self.val_windows) == bool(self.val_batches):
            raise UsageError("--val-windows and --val-batches: need one of them")
        for name in ("beta1", "beta2"):
            self._require(0 <= getattr(self, name) < 1, name, "0 or more and less than 1")
        for name, choices in CHOICES.items():
            self._require(getattr(self, name) in choices, name, " or ".join(choices))
        self._require(DEVICE.fullmatch(self.device), "device", "auto, cpu, cuda or cuda:N, N 0..15")
        self._require(0 <= self.min_lr <= self.lr, "min_lr", f"0 to the peak, --lr {self.lr:g}")
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise UsageError(f"--micro-batch {self.micro_batch} does not divide --batch-size "
                             f"{self.batch_size}; use a divisor, or auto")
        if self.init and self.arch:
            raise UsageError("--init and --arch: need one of them, --init to go on from a model, "
                             "--arch to start from random weights")
        if not (self.init or self.arch):
            raise UsageError("no model: give --init MODEL.apr to go on from one, or --arch NAME "
                             "or config.json to start from random weights")

    def wanted_val_windows(self):
        """How many windows an evaluation asks for."""
        return self.val_windows or self.val_batches * self.batch_size

    def inputs(self):
        """Paths that the run reads."""
        arch = None if self.arch in PRESETS else self.arch
        return [p for p in (self.dataset, self.val_shard, self.tokenizer, self.init, arch) if p]

    def without_paths(self):
        """A dict of the settings that shape the numbers; where files lay says nothing elsewhere."""
        return {name: value for name, value in asdict(self).items()
                if name not in PLACES and not (name == "arch" and value not in PRESETS)}

    def _require(self, holds, name, need):
        if not holds:
            raise UsageError(f"{flag(name)} {getattr(self, name)}: need {need}")


# Every number of the optimiser and its product with a rate must be a float32 (1e-38 to 3e38):
# beyond these bounds it would become 0 or infinite on the way to the device.
BOUNDS = {"lr": (1e-30, 1e30), "eps": (1e-30, 1.0), "weight_decay": (1e-12, 1e3),
          "grad_clip": (1e-12, 1e6), "target_val_loss": (LOSS_FLOOR_NATS, 1e6),
          "max_epoch0_loss": (LOSS_FLOOR_NATS, 1e6),
          "max_minutes": (1e-3, 1e6)}
OFF_AT_0 = ("weight_decay", "grad_clip")
AUTOMATIC = ("device", "precision", "residual")
PATHS = ("init", "arch", "tokenizer")
PLACES = ("dataset", "val_shard", "run_dir", "init", "tokenizer")
FIXED = ("arch", "order", "seed", "seq_length", "val_windows", "val_batches", "val_order")
"""What model and place in the data of a state depend on: not even --override changes these."""
CHOICES = {"mode": MODES, "precision": ("auto", *PRECISIONS),
           "residual": ("auto", *PRECISIONS), "kernels": KERNELS, "recompute": tuple(RECOMPUTED),
           "schedule": SHAPES, "decay_on": ("matrices", "all"), "order": ORDERS,
           "val_order": ORDERS,
           "preflight": ("auto", "off"), "on_nonfinite": ("skip", "stop")}
LATER = {"kernels": Settings.kernels, "recompute": Settings.recompute,
         "residual": Settings.residual, "val_windows": None, "val_order": "sequential",
         "schedule_steps": None, "keep_best": False,
         "max_minutes": None}
"""What runs begun before these settings existed did, and go on doing when they are resumed."""
ORIGINS = ("flag", "default", "mode default", "chosen", "state")
"""Where a value came from: the user, the default, the one of --mode, what auto stood for on this
machine, or the state from which --override config.json wrote the file anew."""
EDITED = ("it was edited or is of another version: put it back, or have it written anew from the "
          "state with --override config.json")


def flag(name):
    """Command-line spelling of a setting."""
    return "--" + name.replace("_", "-")


def resolve(given):
    """(Settings, {name: where its value came from}) of a new run.

    given: {name: value} of the flags that were used. Origins: "flag", "default",
    "mode default". Errors: UsageError.
    """
    for needed in ("dataset", "run_dir"):
        if not given.get(needed):
            raise UsageError(f"{flag(needed)} is needed")
    given = {name: value for name, value in given.items() if value is not None}
    values = {f.name: f.default for f in fields(Settings)} | given
    origins = {name: "flag" if name in given else "default" for name in values}
    mode = given.get("mode") or ("finetune" if given.get("init") else "from-scratch")
    if mode not in MODES:
        raise UsageError(f"--mode {mode}: need {' or '.join(MODES)}")
    if "val_batches" in given and "val_windows" not in given:
        values["val_windows"] = None
    lr = given.get("lr", MODE_LR[mode])
    if values["schedule_steps"] is None:
        values["schedule_steps"] = values["num_steps"]
    longest = values["schedule_steps"] // WARMUP_SHARE
    derived = {"mode": mode, "lr": lr, "min_lr": lr / LOWEST_LR_SHARE,
               "warmup_steps": min(MODE_WARMUP[mode], longest)}
    for name, value in derived.items():
        if name not in given:
            values[name], origins[name] = value, "mode default"
    return Settings(**values), origins


def resolve_resumed(given, stored, origins, overridden=()):
    """(Settings, origins) of a run that goes on.

    given: flags used now;  stored, origins: those of the run;  overridden: settings that may
    differ. Errors: CheckError naming a setting that differs and may not; UsageError.
    """
    values, may_change = dict(stored), MAY_CHANGE.union(overridden)
    for name, other in (("keep", "keep_best"), ("keep_best", "keep")):
        if name in given and other not in given:  # the newer wish takes the place of the older
            values[other] = getattr(Settings, other)
    for name, value in given.items():
        if value is None or name in AUTOMATIC and value == "auto":
            continue  # asks for nothing: what was chosen stands
        if name not in may_change and not _same(name, value, values.get(name)):
            anyway = ("" if name in FIXED or name in PATHS else
                      f", take it all the same with --override {name}")
            raise CheckError(f"--resume: {flag(name)} was {values.get(name)}, now it is {value}; "
                             f"that would change the numbers of the run. Leave it out{anyway}, or "
                             "start a new run with --init and the checkpoint")
        if name in may_change:
            values[name], origins = value, origins | {name: "flag"}
    return Settings(**values), origins


def stored_settings(config, where, saved=()):
    """(values, origins) of the settings in a config.json, whose value was read from `where`.

    saved: names that its state holds; of those that came later a file may lack the others alone.
    Each has the type that it must have; whether they fit together is not judged here.
    Errors: CheckError naming the first part that no run of this version has written.
    """
    rows = config.get("settings") if isinstance(config, dict) else None
    if not isinstance(rows, dict):
        raise CheckError(f"{where}: holds no object \"settings\"; {EDITED}")
    known = {f.name: f.type for f in fields(Settings)}
    rows = {name: {"value": value, "from": "default"} for name, value in LATER.items()
            if name not in saved} | rows
    for name in [*known, *rows]:
        row = rows.get(name)
        if name not in known:
            raise CheckError(f"{where}: unknown setting {name}; {EDITED}")
        if not isinstance(row, dict) or not {"value", "from"} <= row.keys():
            raise CheckError(f"{where}: settings.{name} needs \"value\" and \"from\"; {EDITED}")
        if not _fits(row["value"], known[name]):
            raise CheckError(f"{where}: settings.{name} is {row['value']!r}, need "
                             f"{_in_words(known[name])}; {EDITED}")
        if row["from"] not in ORIGINS:
            raise CheckError(f"{where}: settings.{name} is from {row['from']!r}, need "
                             f"{', '.join(ORIGINS)}; {EDITED}")
        if name in (*PATHS, *PLACES) and not row["value"] and (
                row["value"] is not None or row["from"] == "flag"):
            raise CheckError(f"{where}: settings.{name} is empty, need the path that was given; "
                             f"{EDITED}")
    values = {name: row["value"] for name, row in rows.items()}
    return values, {name: row["from"] for name, row in rows.items()}


def _fits(value, kind):
    """Whether a value of JSON is of this type, or one of this union; 3 is a float too."""
    whole = (int,) if float in _parts(kind) else ()
    return isinstance(value, (*_parts(kind), *whole)) and isinstance(value, bool) == (kind is bool)


def _in_words(kind):
    words = {int: "a whole number", float: "a number", str: "a text", type(None): "null",
             bool: "true or false"}
    return " or ".join(words[part] for part in _parts(kind))


def _parts(kind):
    return getattr(kind, "__args__", (kind,))


def _same(name, now, then):
    if name in PATHS and now and then:
        return os.path.abspath(now) == os.path.abspath(then)
    if name == "device":
        return now.removesuffix(":0") == then.removesuffix(":0")  # cuda is cuda:0
    return now == then
