"""What a falsifier's tests, and the number that it bounds, amount to.

    DISCHARGED   every bound test passed, and the number lies where it is expected
    SUSPECT      inside its gate, outside its plausible band: true, or too good to be true
    RED          a test failed, or the number is outside its gate, not finite, or was not reported
    NOT-RUN      with the reason; nothing is claimed

A verdict is a function of what was observed, so that it can be drawn again from a record.
"""
import json
import sys
from dataclasses import dataclass
from pathlib import Path

DISCHARGED, SUSPECT, RED, NOT_RUN = "DISCHARGED", "SUSPECT", "RED", "NOT-RUN"
BAD = RED, SUSPECT, DISCHARGED  # of several numbers the worst counts


@dataclass(frozen=True)
class Verdict:
    """One word of the table above, and why."""

    word: str
    reason: str = ""
    value: object = None
    """The number that was judged: of several, one of the worst."""


def judge(binding, observations, run_dir=None):
    """The verdict of a falsifier.

    binding: contract.Binding;  observations: of one process that ran its tests, and others maybe;
    run_dir: folder with the files of a training run, or of the evidence that keeps copies of them.
    """
    for node in binding.tests:
        mine = [o for o in observations if o.belongs_to(node)]
        bad = next((o for o in mine if o.outcome in ("failed", "error")), None)
        if bad:
            return Verdict(RED, f"{bad.where} {bad.reason}".strip())
        if not mine:
            return Verdict(RED, _nothing(binding, node, observations))
    for node in binding.tests:
        mine = [o for o in observations if o.belongs_to(node)]
        if all(o.outcome == "skipped" for o in mine):
            return Verdict(NOT_RUN, mine[0].reason)
    return _measured(binding, observations, run_dir)


def _nothing(binding, node, observations):
    """Why nothing is known of a node: what went wrong outside any test, or nobody asked for it."""
    around = [o for o in observations if o.outcome == "error" and not o.where]
    own = [o for o in around if o.node == node.partition("::")[0]]  # its file cannot be read
    ended = [o for o in around if "::" in o.node]  # the process did, before it came to this test
    return next((o.reason for o in own + ended),
                f"{node}: no such test ran on {binding.hardware}")


def _measured(binding, observations, run_dir):
    """The verdict of the numbers, after every test has passed."""
    if binding.value is None:
        return Verdict(DISCHARGED)
    if binding.run:
        return _of_a_run(binding, run_dir)
    quantity = binding.value.quantity
    values = [o.properties[quantity] for node in binding.tests for o in observations
              if o.belongs_to(node) and quantity in o.properties]
    if not values:
        return Verdict(RED, f"no test reported {quantity} (record_property)")
    return min((grade(binding.value, value) for value in values), key=lambda v: BAD.index(v.word))


def _of_a_run(binding, run_dir):
    """The verdict of the number that a training run left."""
    if run_dir is None:
        return Verdict(NOT_RUN, f"needs a training run for {binding.run}: --run-dir")
    try:
        device = read_value(run_dir, "summary.json:device")
        if binding.hardware == "gpu" and device.startswith("cpu"):
            return Verdict(NOT_RUN, f"needs a training run on a GPU, this one was on {device}")
        return grade(binding.value, read_value(run_dir, binding.run))
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return Verdict(RED, f"the run says no {binding.run}: {_word(error)}")


def grade(value, number):
    """The verdict of one number. value: contract.Value, the gate and the plausible band."""
    if isinstance(number, bool) or not isinstance(number, int | float):
        return Verdict(RED, f"{value.quantity} is {number!r}, not a number", number)
    if not finite(number):
        return Verdict(RED, f"{value.quantity} is {number}, not finite", number)
    bounds = value.lower, value.upper, *(value.plausible or ())
    say = f"{value.quantity} {digits(number, bounds)} {value.unit}"
    if not value.lower <= number <= value.upper:
        return Verdict(RED, f"{say} is outside its gate {value.lower} to {value.upper}", number)
    if value.plausible and not value.plausible[0] <= number <= value.plausible[1]:
        low, high = value.plausible
        return Verdict(SUSPECT, f"{say} is inside its gate but not plausible, which is {low} to "
                                f"{high}", number)
    return Verdict(DISCHARGED, "", number)


def digits(number, bounds):
    """A number in six digits, or in as many as tell it from its bounds."""
    if isinstance(number, int):
        return str(number)
    texts = (f"{number:.{n}g}" for n in range(6, 18))
    return next(t for t in texts if all((float(t) == b) == (number == b) for b in bounds))


def finite(number):
    """Whether it is a number that a float can hold: not NaN, and no infinity."""
    return abs(number) <= sys.float_info.max


def read_value(folder, address):
    """What stands at FILE:KEY in a run's folder, such as summary.json:per_step_metrics.0.loss_nats.

    A key leads inward, part by part; a number counts items from 0.
    Errors: OSError, ValueError, LookupError, TypeError.
    """
    found = json.loads(run_file(folder, address).read_text())
    for part in address.partition(":")[2].split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    return found


def run_file(folder, address):
    """The file of FILE:KEY. Copies in a folder of evidence lie beside each other, whatever folder
    of the run they were in."""
    file = Path(folder) / address.partition(":")[0]
    return file if file.is_file() else Path(folder) / file.name


def _word(error):
    """An exception in a few words."""
    if isinstance(error, OSError):
        return f"{Path(error.filename).name}: {error.strerror}"
    return f"{type(error).__name__} {error}"
