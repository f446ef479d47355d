"""A verdict with all that it was drawn from, as it stands in verdicts.json.

What is read from a row is enough to draw the verdict again: what the falsifier asked for, and what
every test of it did.
"""
import shlex
from dataclasses import asdict

from ..contracts.contract import Binding, Value
from ..evidence.origin import short
from ..observe import SELECTION, Observation
from .verdict import NOT_RUN, Verdict, finite, judge

SCHEMA, FILE = "aprnb-verdicts-v1", "verdicts.json"
BOUND = ("tests", "faults", "hardware", "bounds", "run")  # keys that say what was asked for


def row(contract, falsifier, verdict, observations, root):
    """One falsifier's row; the caller adds what it knows of the place and the time."""
    return {"falsifier": falsifier.id, "contract": contract.name, "rule": falsifier.rule,
            "verdict": verdict.word, "reason": short(verdict.reason, root),
            "value": _number(verdict.value), **bound(falsifier.binding),
            "command": command(falsifier.binding),
            "seconds": round(sum(o.seconds for o in observations), 3),
            "observations": [_said(o, root) for o in observations]}


def bound(binding):
    """A binding in plain values."""
    value = asdict(binding.value) if binding.value else None
    if value and value["plausible"]:
        value["plausible"] = list(value["plausible"])
    return {"tests": list(binding.tests), "faults": list(binding.faults),
            "hardware": binding.hardware, "bounds": value, "run": binding.run}


def command(binding):
    """How a person runs the tests."""
    words = ["python", "-m", "pytest", "-m", SELECTION[binding.hardware], *binding.tests]
    return "NUMBA_ENABLE_CUDASIM=1 " * (binding.hardware == "simulator") + shlex.join(words)


def judged_again(row, run_dir):
    """The verdict of what the row says was observed; that nothing was run stays so.

    run_dir: the folder of evidence, where it keeps copies of a training run; None if it has none.
    Errors: KeyError, TypeError, ValueError, AttributeError if it is no row.
    """
    observations = [Observation(**said) for said in row["observations"]]
    if row["verdict"] == NOT_RUN and not observations:
        return Verdict(NOT_RUN, row["reason"])
    value = Value(**row["bounds"]) if row["bounds"] else None
    binding = Binding(tuple(row["tests"]), tuple(row["faults"]), row["hardware"], value, row["run"])
    return judge(binding, observations, run_dir)


def _said(observation, root):
    """What an observation says, apart from what is empty."""
    said = {k: v for k, v in asdict(observation).items() if v not in ("", {}, False)}
    said["seconds"] = round(observation.seconds, 3)
    if observation.reason:
        said["reason"] = short(observation.reason, root)
    if observation.properties:
        said["properties"] = {k: _number(v) for k, v in observation.properties.items()}
    return said


def _number(x):
    """JSON has no word for NaN and infinity: their names, which no gate takes for numbers."""
    return str(x) if isinstance(x, int | float) and not finite(x) else x
