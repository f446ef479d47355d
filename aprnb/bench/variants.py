"""Ways to train with PyTorch, by name: what `bench step` measures ours against, and why that.

A variant is words joined by "+", each of which changes one thing of the plain way: torch.compile,
autocast, attention by cuDNN first, K and V grouped, fused AdamW. "plain" changes nothing. "best" is
the fastest that was found for a case, see SETTLED; `tools/try_peers` measures others.
"""
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from ..errors import UsageError


@dataclass(frozen=True)
class Variant:
    """What each word may change."""

    name: str = "plain"
    attention: str = "cudnn"
    """What SDPA tries first: "cudnn", "own" (PyTorch's choice); "flash" alone; "fa4" in its place.
    """
    grouped: bool = True
    """K and V keep their own heads; False: they are expanded to the query heads."""
    residual: str = "fp32"
    """The residual stream: "fp32" as autocast leaves it, or "bf16" as ours is."""
    master: bool = False
    """bfloat16 weights beside float32 ones for the optimiser, instead of autocast."""
    launch: str = "kernels"
    """"kernels" one by one, "trees" Inductor's CUDA graphs, "step" all of a step in one graph."""
    one_update: bool = False
    """Clip and AdamW compiled into one, instead of PyTorch's fused AdamW after a clip."""
    compiled: bool = True
    tf32: bool = False
    segments: bool = False
    """The allocator grows its segments instead of taking new ones."""
    inductor: tuple = ()
    """(option of torch._inductor.config, value) of the model's graph."""


WORDS = {
    "flash": {"attention": "flash"},
    "own": {"attention": "own"},
    "fa4": {"attention": "fa4"},
    "expanded": {"grouped": False},
    "bf16-residual": {"residual": "bf16"},
    "master": {"master": True, "residual": "bf16"},
    "trees": {"launch": "trees", "inductor": (("triton.cudagraphs", True),)},
    "step-graph": {"launch": "step"},
    "one-update": {"one_update": True},
    "eager": {"compiled": False},
    "tf32": {"tf32": True},
    "segments": {"segments": True},
    "autotune": {"inductor": (("max_autotune", True), ("coordinate_descent_tuning", True))},
    "descent": {"inductor": (("coordinate_descent_tuning", True),)},
    "combo": {"inductor": (("combo_kernels", True),)},
    "chunked": {"inductor": (("auto_chunker.enable", True),)},
}
TIMED_CHOICE = {"autotune", "descent"}  # words whose kernels are chosen by timing them


@dataclass(frozen=True)
class Settled:
    """The fastest variant found for some cases."""

    cases: str
    """Glob of PRESET/BATCHxLENGTH."""
    tokens_below: float
    """Only batches of fewer target tokens."""
    variant: str
    why: str


SETTLED = (  # the first row that fits a case on a GPU in bf16; evidence/log.md has those that lost
    Settled("*", 4096, "master+one-update+step-graph", "launched one by one, kernels wait for the "
            "host; 102,811 tokens/s at qwen2.5-0.5b/4x512, own+trees 88,175"),
    Settled("*", float("inf"), "master+one-update", "autocast writes every weight once more as "
            "bfloat16; 139,122 tokens/s at qwen2.5-0.5b/16x1024, plain 134,247"),
)


def variant_of(name, settings):
    """The Variant called `name`, which may be "best", for a worker's settings.

    settings: preset, batch, length, device, precision
    Errors: UsageError for a word that there is none, for two words about one thing, and for what
    this device or precision cannot do.
    """
    if name == "best":
        name = _best(settings)
    found, changed = Variant(name), {}
    for word in name.split("+"):
        if word == "plain":
            continue
        if word not in WORDS:
            raise UsageError(f"--torch-variant {name!r}: no word {word!r}; need best, plain or "
                             f"words of {', '.join(WORDS)}, joined by +")
        own = dict(WORDS[word])
        options = own.pop("inductor", ())
        for field in own:
            if changed.setdefault(field, word) != word:
                raise UsageError(f"--torch-variant {name!r}: {changed[field]} and {word} are about "
                                 "the same thing; leave one out")
        found = replace(found, **own, inductor=found.inductor + options)
    _refuse_misfit(found, settings)
    return found


def variants_of(names, settings):
    """The Variants of these names, each once: "best" may be one that is named too.

    Errors: UsageError as of variant_of, and for one that is named twice, in whatever order of
    words.
    """
    found = {}  # what it does -> its name as asked for, Variant
    for name in names:
        variant = variant_of(name, settings)
        does = replace(variant, name="", inductor=tuple(sorted(variant.inductor)))
        twin, _ = found.setdefault(does, (name, variant))
        if twin != name and "best" in (twin, name):
            continue
        if found[does][1] is not variant:
            raise UsageError(f"--torch-variant {name} and {twin} are one variant; leave one out")
    return [variant for _, variant in found.values()]


def _best(settings):
    if settings["device"] == "cpu" or settings["precision"] == "fp32":
        return "own"
    tokens = settings["batch"] * settings["length"]
    case = "{preset}/{batch}x{length}".format(**settings)
    return next(row.variant for row in SETTLED
                if fnmatchcase(case, row.cases) and tokens < row.tokens_below)


def _refuse_misfit(variant, settings):
    if settings["device"] == "cpu" and (variant.launch != "kernels" or variant.attention == "fa4"):
        misfit = "CUDA graphs and FlashAttention-4 need a GPU; use another --device"
    elif settings["precision"] == "fp32" and (variant.residual == "bf16"
                                              or variant.attention == "fa4"):
        misfit = "it computes in bfloat16; use --precision bf16"
    elif variant.launch == "trees" and not variant.compiled:
        misfit = "trees are graphs of Inductor, which eager does without; use step-graph"
    else:
        return
    raise UsageError(f"--torch-variant {variant.name}: {misfit}, or leave that word out")
