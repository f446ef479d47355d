"""Rules about the number that a falsifier reports: its unit, and bounds that can be crossed.

A bound beyond all that its unit can be judges nothing, though it has two sides: +-1e308, a cosine
from -1 to 1, a loss from 0. Each function yields (line, rule, message).
"""
import math
import re

from .document import quoted
from .schema import UNITS

LOSS = re.compile(r"loss|cross.?entropy|nll", re.I)
REACH = {  # unit -> what it can be, or what anything that this engine does can come to
    "nats": (0, 100), "bits": (0, 150), "relative": (-1e6, 1e6), "absolute": (-1e12, 1e12),
    "seconds": (0, 1e9), "count": (0, 1e15), "fraction": (0, 1), "bytes": (0, 1e18),
    "cosine": (-1, 1)}


def judge_value(value, where, run):
    """Every breach in the map `value` of a binding. run: what the binding says of a run, or None"""
    unit = value.text("unit")
    if unit is not None and unit not in UNITS:
        got = f"got {quoted(unit)}" if unit else "there is none"
        yield (value.line_of("unit"), "APRNB-014",
               f"{where}.unit: need one of {', '.join(UNITS)}; {got}")
    elif unit and unit != "nats" and _is_loss(value, run):
        yield (value.line_of("unit"), "APRNB-018",
               f"{where}.unit: this is a loss, and a loss is in nats, not {unit}")
    yield from unfilled(value, where, "plausible")
    yield from _bounds(value, where)
    yield from _crossable(value, where, run)


def unfilled(node, where, *keys):
    """Keys that stand there without a value: half a thought, and nothing would be judged by it."""
    for key in keys:
        if key in node.value and node.get(key) is None:
            yield (node.line_of(key), "APRNB-022",
                   f"{where}.{key}: nothing stands there; fill it in or leave the key out")


def _is_loss(value, run):
    """Whether a value is a loss, by its name or by that of the key which it is read from."""
    return any(LOSS.search(name or "") for name in (value.text("quantity"), run))


def _bounds(value, where):
    for side, other in (("lower", "upper"), ("upper", "lower")):
        if value.get(side) is None:
            yield (value.line_of(other), "APRNB-015",
                   f"{where}: no `{side}` bound: a value that is absurd on that side would pass")
    lower, upper = (_number(value.get(side)) for side in ("lower", "upper"))
    if lower is None or upper is None:
        return
    if lower >= upper:
        yield (value.line_of("lower"), "APRNB-016",
               f"{where}: lower {lower} is not below upper {upper}")
        return
    if value.get("plausible") is None:
        return
    band = [_number(node) for node in value.list("plausible")]
    if None not in band and not (len(band) == 2 and lower <= band[0] < band[1] <= upper):
        yield (value.line_of("plausible"), "APRNB-017",
               f"{where}.plausible: need two rising numbers within {lower} to {upper}, "
               f"got {str(band):.60}")


def _crossable(value, where, run):
    """A bound may stand at the end of what its unit can be, or within rounding of it, if the other
    does not: a cosine of 1 is what is hoped for."""
    lower, upper = (_number(value.get(side)) for side in ("lower", "upper"))
    if value.text("unit") not in REACH or None in (lower, upper) or lower >= upper:
        return
    unit, (least, most) = value.text("unit"), REACH[value.text("unit")]
    rounding = min(0.5, (most - least) / 100)
    if lower < least - rounding:
        yield (value.line_of("lower"), "APRNB-021",
               f"{where}.lower: {lower:g} {unit}: nothing is below {least:g}, so nothing fails it")
    elif lower <= 0 and _is_loss(value, run):
        yield (value.line_of("lower"), "APRNB-021",
               f"{where}.lower: no loss is below 0, and one of 0, of targets that are given away, "
               "would pass")
    elif lower <= least and most <= upper <= most + rounding:
        yield (value.line_of("lower"), "APRNB-021",
               f"{where}: {lower:g} to {upper:g} {unit} is all that there can be, so nothing fails "
               "it")
    if upper > most + rounding:
        yield (value.line_of("upper"), "APRNB-021",
               f"{where}.upper: {upper:g} {unit}: nothing is above {most:g}, so nothing fails it")


def _number(node):
    """The finite number of a node; None where it is something else."""
    known = node is not None and type(node.value) in (int, float) and math.isfinite(node.value)
    return node.value if known else None
