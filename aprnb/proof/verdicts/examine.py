"""Runs the tests that contracts are bound to, and draws the verdict of each falsifier."""
from dataclasses import dataclass

from ...errors import CheckError
from ..hardware import SIDES
from ..observe import run_tests
from .verdict import NOT_RUN, Verdict, judge

TIMEOUT = 3600  # seconds, for all bound tests of one hardware


@dataclass(frozen=True)
class Examined:
    """A falsifier, its verdict, and what its tests did."""

    contract: object
    falsifier: object
    verdict: Verdict
    observations: tuple


def examine(contracts, root, unusable, run_dir=None, log=None):
    """Every falsifier Examined, in the order of the contracts.

    root: the checkout;  unusable: hardware -> why nothing is run on it;  run_dir: folder of a
    training run, for falsifiers that are about one;  log: file for what pytest prints.
    One test process for each hardware, one after the other: nothing disturbs what they time.
    Errors: CheckError if there is nothing that can be run.
    """
    todo = [(contract, f) for contract in contracts for f in contract.falsifiers]
    if all(f.binding.hardware in unusable for _, f in todo):
        why = "; ".join(f"{side}: {reason}" for side, reason in unusable.items())
        raise CheckError(f"contracts run: there is nothing to run ({why or 'no falsifier'})")
    seen = {side: _observe(root, side, [f.binding for _, f in todo], log)
            for side in SIDES if side not in unusable}
    return [_examined(contract, f, unusable, seen, run_dir) for contract, f in todo]


def _observe(root, side, bindings, log):
    """Observations of all that is bound on one hardware."""
    nodes = sorted({node for b in bindings if b.hardware == side for node in b.tests})
    return run_tests(root, nodes, side, TIMEOUT, log) if nodes else []


def _examined(contract, falsifier, unusable, seen, run_dir):
    binding = falsifier.binding
    if binding.hardware in unusable:
        return Examined(contract, falsifier, Verdict(NOT_RUN, unusable[binding.hardware]), ())
    around = seen[binding.hardware]
    mine = tuple(o for o in around if any(o.belongs_to(node) for node in binding.tests))
    return Examined(contract, falsifier, judge(binding, around, run_dir), mine)
