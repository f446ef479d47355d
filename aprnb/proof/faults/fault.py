"""Planted faults: mistakes that real systems made, each a change of a few characters.

A fault is text that takes the place of other text in one file of the package. It is planted in a
copy of the checkout (planting.py) and never in the shipped tree, so nothing of it costs a cycle
there. Where an op has kernels beside its oracle, the fault has a plant for each side.

`seen_in` says where it was made before: `reference`, the trainer in Rust whose file format this
project reads (H1A to H4D are the hypotheses of its search for a wrong loss, ALB-NNN its tickets,
0.72.3 a release of November 2026); `HF #NNNNN`, an issue of transformers; `common`, in many places;
`ours`, thought of here.
"""
import importlib
from dataclasses import dataclass

from ...errors import CheckError

ROOMS = ("forward", "kernels", "building", "training", "files", "data", "tokenizers", "gates",
         "generation", "limits", "bench", "inputs", "stopping", "runs")
"""Modules of planted/, by what they spoil."""


@dataclass(frozen=True)
class Plant:
    """`old`, which occurs exactly once in `file`, becomes `new`."""

    file: str
    """Below the checkout, such as "aprnb/oracle/rope.py"."""
    old: str
    new: str


@dataclass(frozen=True)
class Fault:
    """One mistake, on every side where it can be made."""

    id: str
    title: str
    """What is wrong while it is planted."""
    seen_in: str
    plants: dict
    """Side ("cpu", "simulator", "gpu") -> tuple of Plants, planted together."""


def fault(id, title, seen_in, cpu=(), simulator=(), gpu=()):
    """A Fault; each side takes plants as (file, old, new)."""
    sides = {"cpu": cpu, "simulator": simulator, "gpu": gpu}
    return Fault(id, title, seen_in, {side: tuple(Plant(*plant) for plant in plants)
                                      for side, plants in sides.items() if plants})


def registry():
    """Every planted fault by its id. Errors: CheckError if two have the same id."""
    known = {}
    for room in ROOMS:
        for entry in importlib.import_module(f".planted.{room}", __package__).FAULTS:
            if entry.id in known:
                raise CheckError(f"planted fault {entry.id}: stands in the registry twice")
            known[entry.id] = entry
    return known
