"""Which keys a contract may have where, and what stands under them: one table.

Keys are those of the reference's schema, plus our map `aprnb` in a falsification test. The
reference tolerates keys that it does not know and never reads them; here they are errors, so that
no promise goes unread. Every kind has `judge(node, where)`, which yields (line, rule, message).
"""
import difflib
import math
import re
from dataclasses import dataclass

from .document import Ambiguous, quoted

UNITS = ("nats", "bits", "relative", "absolute", "seconds", "count", "fraction", "bytes", "cosine")
ALIASES = {"description": "rule", "expected": "prediction", "command": "test",
           "fails_if": "if_fails"}
"""Second names of a falsification test's keys, which the reference reads too."""


class Anything:
    """Not judged: free text of people, or a part of the schema that is not used here."""

    def judge(self, node, where):
        return ()


@dataclass(frozen=True)
class Scalar:
    """A single value that `fits`."""

    name: str
    fits: object

    def judge(self, node, where):
        value = node.value
        if isinstance(value, Ambiguous):
            yield node.line, "APRNB-004", (
                f"{where}: {value} is a number to some readers of YAML and text to others; write "
                f"{_clear(value)}, or quote it where text is meant")
        elif not self.fits(value):
            yield node.line, "APRNB-004", f"{where}: need {self.name}, got {_described(value)}"


@dataclass(frozen=True)
class Words:
    """One of a few words."""

    known: tuple

    def judge(self, node, where):
        if not isinstance(node.value, str):
            yield from TEXT.judge(node, where)
        elif node.value not in self.known:
            yield node.line, "APRNB-007", (f"{where}: {quoted(node.value)} is none of "
                                           f"{', '.join(self.known)}")


@dataclass(frozen=True)
class ListOf:
    """A list of values of one kind."""

    kind: object

    def judge(self, node, where):
        if not isinstance(node.value, list):
            yield node.line, "APRNB-004", f"{where}: need a list, got {_described(node.value)}"
            return
        for i, item in enumerate(node.value):
            yield from self.kind.judge(item, f"{where}[{i}]")


@dataclass(frozen=True)
class Named:
    """A map from free names to values of one kind."""

    kind: object

    def judge(self, node, where):
        if not isinstance(node.value, dict):
            yield node.line, "APRNB-004", f"{where}: need a map, got {_described(node.value)}"
            return
        for name, item in node.value.items():
            yield from self.kind.judge(item, f"{where}.{quoted(name)[1:-1]}")


@dataclass(frozen=True)
class Map:
    """A map of known keys; those in `needs` must be there, and texts not blank.

    A key without a value counts as absent.
    """

    keys: dict
    needs: tuple = ()

    def judge(self, node, where):
        if not isinstance(node.value, dict):
            yield node.line, "APRNB-004", f"{where}: need a map, got {_described(node.value)}"
            return
        for key, item in node.value.items():
            if key not in self.keys:
                yield item.line, *_unknown(key, self.keys, where)
            elif item.value is not None:
                yield from self.keys[key].judge(item, f"{where}.{key}".lstrip("."))
        for key in self.needs:
            found = node.get(key)
            if found is None or isinstance(found.value, str) and not found.value.strip():
                at = f"{where}: " if where else ""
                yield node.line_of(key), "APRNB-006", f"{at}`{key}` is missing"


def judge_shape(root):
    """(line, rule, message) of every key and value of a contract that cannot stand where it does.
    """
    yield from CONTRACT.judge(root, "")


def _described(value):
    if isinstance(value, str):
        return f"the text {quoted(value)}"
    names = {dict: "a map", list: "a list", type(None): "nothing"}
    return names.get(type(value)) or f"{str(value).lower()} (quote it where text is meant)"


def _clear(exponential):
    """The same number as every reader of YAML reads it: 1e-4 -> 1.0e-4."""
    digits, _, exponent = exponential.lower().partition("e")
    point = "" if "." in digits else ".0"
    sign = "" if exponent[0] in "+-" else "+"
    return f"{digits}{point}e{sign}{exponent}"


def _unknown(key, known, where):
    """(rule, message) of a key that a map does not know."""
    if where:
        near = difflib.get_close_matches(key[:60], known, 1)
        meant = f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}"
        return "APRNB-005", f"{where}: no such key: {quoted(key)}{meant}"
    if key == "kind":
        return "SCHEMA-018", "`kind` at the top is never read; it belongs into metadata"
    near = next((name for name in known if _forms(key) & _forms(name)), None)
    if near:
        return "SCHEMA-019", f"{quoted(key)} at the top is never read; did you mean `{near}`?"
    return "APRNB-005", f"no such key at the top: {quoted(key)}; known are {', '.join(known)}"


def _forms(key):
    """What a key could be a variant of: letters alone, in singular and plural."""
    letters = re.sub("[^a-z0-9]", "", key[:60].lower())
    return {letters} | {letters.removesuffix(end) for end in ("s", "es")}


def _is_number(value):
    return type(value) in (int, float) and math.isfinite(value)


TEXT = Scalar("text", lambda value: isinstance(value, str))
FLAG = Scalar("true or false", lambda value: isinstance(value, bool))
NUMBER = Scalar("a finite decimal number", _is_number)
COUNT = Scalar("a whole number from 0", lambda value: type(value) is int and value >= 0)
TEXTS, ANYTHING = ListOf(TEXT), Anything()

METADATA = Map({
    "version": TEXT, "description": TEXT, "created": TEXT, "author": TEXT, "references": TEXTS,
    "depends_on": TEXTS, "registry": FLAG,
    "kind": Words(("kernel", "registry", "model-family", "model-family-variant", "tokenizer",
                   "training-loop", "pretraining-corpus", "training-precondition-gate",
                   "corpus-assembly", "pattern", "schema", "beat-benchmark", "kaizen")),
    "enforcement_level": Words(("basic", "standard", "strict", "proven")), "locked_level": TEXT,
    "id": TEXT, "status": TEXT, "changelog": ANYTHING, "updated": TEXT}, ("description",))

EQUATION = Map({
    "formula": TEXT, "domain": TEXT, "codomain": TEXT, "invariants": TEXTS,
    "preconditions": TEXTS, "postconditions": TEXTS, "lean_theorem": TEXT})

LEAN = Map({
    "theorem": TEXT, "status": Words(("proved", "sorry", "wip", "not-applicable")),
    "na_reason": TEXT, "na_owner": TEXT}, ("theorem",))

OBLIGATION = Map({
    "type": Words((
        "invariant", "equivalence", "bound", "monotonicity", "idempotency", "linearity", "symmetry",
        "associativity", "conservation", "ordering", "completeness", "soundness", "involution",
        "determinism", "roundtrip", "state_machine", "classification", "independence",
        "termination", "precondition", "postcondition", "frame", "loop_invariant", "loop_variant",
        "old_state", "subcontract")),
    "property": TEXT, "formal": TEXT, "tolerance": NUMBER,
    "applies_to": Words(("all", "scalar", "simd", "converter", "other", "not_applicable")),
    "requires": TEXT, "applies_to_phase": TEXT, "parent_contract": TEXT, "lean": LEAN,
    "na_reason": TEXT, "na_owner": TEXT}, ("type",))

VALUE = Map({  # its unit and bounds are judged by rules_aprnb
    "quantity": TEXT, "unit": TEXT, "lower": NUMBER, "upper": NUMBER, "plausible": ListOf(NUMBER)},
    ("quantity",))

BINDING = Map({  # its hardware is judged by rules_aprnb
    "tests": TEXTS, "faults": TEXTS, "hardware": TEXT, "value": VALUE, "run": TEXT})

FALSIFIER = Map({
    "id": TEXT, "rule": TEXT, "prediction": TEXT, "test": TEXT, "if_fails": TEXT,
    **dict.fromkeys(ALIASES, TEXT), "ship_blocking": FLAG, "counter_example_classes": ANYTHING,
    "discharge_status": TEXT, "evidence_discharged_by": ANYTHING,
    "full_discharge_blocks_on": ANYTHING, "aprnb": BINDING}, ("id",))

HARNESS = Map({
    "id": TEXT, "obligation": TEXT, "property": TEXT, "bound": COUNT,
    "strategy": Words(("exhaustive", "stub_float", "compositional", "bounded_int")),
    "solver": TEXT, "harness": TEXT}, ("id",))

CONTRACT = Map({
    "metadata": METADATA,
    "equations": Named(EQUATION),
    "proof_obligations": ListOf(OBLIGATION),
    "kernel_structure": Map({"phases": ListOf(Map(
        {"name": TEXT, "description": TEXT, "invariant": TEXT}, ("name", "description")))},
        ("phases",)),
    "simd_dispatch": Named(Named(TEXT)),
    "enforcement": Named(Map({"description": TEXT, "check": TEXT, "severity": TEXT,
                              "reference": TEXT}, ("description",))),
    "falsification_tests": ListOf(FALSIFIER),
    "kani_harnesses": ListOf(HARNESS),
    "qa_gate": Map({"id": TEXT, "name": TEXT, "description": TEXT, "checks": TEXTS,
                    "pass_criteria": TEXT, "falsification": TEXT}, ("id", "name")),
    "verification_summary": Map(dict.fromkeys(
        ("total_obligations", "l2_property_tested", "l3_kani_proved", "l4_lean_proved",
         "l4_sorry_count", "l4_not_applicable"), COUNT), ("total_obligations",)),
    "type_invariants": ListOf(Map({"name": TEXT, "type": TEXT, "predicate": TEXT,
                                   "description": TEXT}, ("name", "type", "predicate"))),
    "coq_spec": ANYTHING, "beat": ANYTHING, "stories": ANYTHING}, ("metadata",))
