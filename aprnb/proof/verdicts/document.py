"""verdicts.json: every verdict with all that it was drawn from.

What is read from a row is enough to draw its verdict again: what the falsifier asked for, and what
every test of it did.
"""
import shlex
from dataclasses import asdict

from ..contracts.contract import Binding, Value
from ..evidence.folder import VERDICTS
from ..evidence.origin import digests, machine, now
from ..faults.fault import registry
from ..faults.ledger import read_ledger, seen_red
from ..faults.reach import Reach
from ..observe import SELECTION, Observation
from .verdict import BAD, NOT_RUN, Verdict, finite, judge, run_file

SCHEMA, FILE = "aprnb-verdicts-v1", VERDICTS


def document(examined, root, where, argv, run_dir, run, known):
    """The whole of it.

    examined: of examine();  where: origin();  run_dir, run: folder of a training run, and its
    {"folder", "device"}, or None;  known: status.proven(), what stood until now.
    """
    ledger, reach, devices = read_ledger(root), Reach(root), _devices(run)
    titles = registry()
    rows = [_row(one) | {
        "inputs": _inputs(one, root, run_dir),
        "seen_red": sorted(seen_red(reach, one.falsifier, ledger)),
        "device": devices["run" if one.falsifier.binding.run and run else
                          one.falsifier.binding.hardware],
        "commit": where["commit"], "before": _before(known[one.falsifier.id])} for one in examined]
    named = sorted({id for row in rows for id in row["faults"]} & set(titles))
    words = [row["verdict"] for row in rows]
    return {"schema": SCHEMA, "date_utc": now(), **where, "argv": argv, "run": run,
            "counts": {word: words.count(word) for word in (*reversed(BAD), NOT_RUN)},
            "faults": {id: titles[id].title for id in named}, "verdicts": rows}


def bound(binding):
    """What a falsifier asks for, in plain values."""
    value = asdict(binding.value) if binding.value else None
    if value and value["plausible"]:
        value["plausible"] = list(value["plausible"])
    return {"tests": list(binding.tests), "faults": list(binding.faults),
            "hardware": binding.hardware, "bounds": value, "run": binding.run}


def judging(contract, falsifier, root):
    """Files of the checkout that decide about a falsifier: its contract and those of its tests.
    What the tests import is not among them."""
    tests = {root / node.partition("::")[0] for node in falsifier.binding.tests}
    return [contract.path.resolve(), *sorted(tests)]


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


def _row(one):
    """What was asked for, what was observed, and the verdict."""
    verdict, binding = one.verdict, one.falsifier.binding
    return {"falsifier": one.falsifier.id, "contract": one.contract.name,
            "rule": one.falsifier.rule, "verdict": verdict.word, "reason": verdict.reason,
            "value": _number(verdict.value), **bound(binding), "command": _command(binding),
            "seconds": round(sum(o.seconds for o in one.observations), 3),
            "observations": [_said(o) for o in one.observations]}


def _command(binding):
    """How a person runs the tests."""
    words = ["python", "-m", "pytest", "-m", SELECTION[binding.hardware], *binding.tests]
    return "NUMBA_ENABLE_CUDASIM=1 " * (binding.hardware == "simulator") + shlex.join(words)


def _said(observation):
    """What an observation says, apart from what is empty."""
    said = {k: v for k, v in asdict(observation).items() if v not in ("", {}, False)}
    said["seconds"] = round(observation.seconds, 3)
    if observation.properties:
        said["properties"] = {k: _number(v) for k, v in observation.properties.items()}
    return said


def _number(x):
    """JSON has no word for NaN and infinity: their names, which no gate takes for numbers."""
    return str(x) if isinstance(x, int | float) and not finite(x) else x


def _inputs(one, root, run_dir):
    """Digests of what a verdict depends on beside the package: contract, tests, the run's file."""
    run = one.falsifier.binding.run
    return digests([*judging(one.contract, one.falsifier, root),
                    *([run_file(run_dir, run)] if run and run_dir else ())], root)


def _devices(run):
    """Hardware, or "run" for a number of a training run -> what it was in this place."""
    here = machine()
    return {"cpu": here["cpu"], "simulator": f"simulated on {here['cpu']}",
            "gpu": here["gpus"][0] if here["gpus"] else None, "run": run and run["device"]}


def _before(proven):
    return {"verdict": proven.verdict,
            "evidence": proven.evidence.name if proven.evidence else None}
