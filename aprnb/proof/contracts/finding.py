"""What is wrong with a contract file, and the rules by which it is.

SCHEMA and PROVABILITY are rules of the reference's `pv validate`, with its ids and severities;
APRNB rules are ours.
"""
from dataclasses import dataclass

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True, order=True)
class Finding:
    """One breach of one rule. `line` counts from 1."""

    path: str
    line: int
    rule: str
    severity: str
    message: str

    def __str__(self):
        return f"{self.path}:{self.line}: {self.severity} {self.rule}: {self.message}"


RULES = {  # id: (severity, what it demands)
    "SCHEMA-001": (ERROR, "metadata.references names at least one source"),
    "SCHEMA-002": (ERROR, "metadata.version is not empty"),
    "SCHEMA-003": (ERROR, "a contract of kind kernel has an equation"),
    "SCHEMA-004": (ERROR, "an equation has a formula"),
    "SCHEMA-005": (ERROR, "a proof obligation states its property"),
    "SCHEMA-006": (WARNING, "no two obligations have the same formal predicate"),
    "SCHEMA-007": (ERROR, "no two falsification tests have the same id"),
    "SCHEMA-008": (ERROR, "a falsification test predicts something"),
    "SCHEMA-009": (WARNING, "a falsification test says what a failure means"),
    "SCHEMA-010": (ERROR, "no two kani harnesses have the same id"),
    "SCHEMA-011": (ERROR, "a kani harness names its obligation"),
    "SCHEMA-012": (WARNING, "a kani harness has an unwinding bound"),
    "SCHEMA-013": (WARNING, "a contract of kind kernel has a qa_gate"),
    "SCHEMA-014": (ERROR, "`requires` stands on postconditions only"),
    "SCHEMA-015": (ERROR, "`applies_to_phase` stands on loop invariants and variants only"),
    "SCHEMA-016": (ERROR, "`parent_contract` stands on subcontracts only"),
    "SCHEMA-017": (ERROR, "a subcontract's parent is listed in metadata.depends_on"),
    "SCHEMA-018": (ERROR, "`kind` stands in metadata, not at the top"),
    "SCHEMA-019": (ERROR, "no top-level key is nearly one of the known"),
    "SCHEMA-020": (ERROR, "no key occurs twice in a map, under another of its names included"),
    "SCHEMA-021": (ERROR, "a not-applicable obligation has a na_reason"),
    "SCHEMA-022": (ERROR, "a not-applicable obligation has a na_owner"),
    "SCHEMA-023": (ERROR, "na_reason and na_owner stand on not-applicable obligations only"),
    "PROVABILITY-001": (ERROR, "a contract of kind kernel has obligations, harnesses, and at least "
                               "as many falsification tests as obligations"),
    "APRNB-001": (ERROR, "the file is one YAML map in UTF-8"),
    "APRNB-002": (ERROR, "size, depth and number of values stay within what anyone can read"),
    "APRNB-003": (ERROR, "no anchors, aliases or tags"),
    "APRNB-004": (ERROR, "a value has the type of its key"),
    "APRNB-005": (ERROR, "every key is known where it stands"),
    "APRNB-006": (ERROR, "required keys are there"),
    "APRNB-007": (ERROR, "a word is one of those that its key knows"),
    "APRNB-008": (ERROR, "a contract has a falsification test"),
    "APRNB-009": (ERROR, "a falsification test is bound by an `aprnb` map"),
    "APRNB-010": (ERROR, "a binding names a planted fault that turns its tests red"),
    "APRNB-011": (ERROR, "the registry knows each fault, on the hardware of the binding"),
    "APRNB-012": (ERROR, "tests that a binding or a command names exist"),
    "APRNB-013": (ERROR, "a binding's hardware is cpu, simulator or gpu"),
    "APRNB-014": (ERROR, "a value has a known unit"),
    "APRNB-015": (ERROR, "a value has a lower and an upper bound"),
    "APRNB-016": (ERROR, "the lower bound is below the upper"),
    "APRNB-017": (ERROR, "the plausible band lies within the bounds"),
    "APRNB-018": (ERROR, "a loss is in nats"),
    "APRNB-019": (ERROR, "`run` is FILE.json:KEY within a run folder, and has a value to judge"),
    "APRNB-020": (ERROR, "a status is derived from evidence, never typed"),
    "APRNB-021": (ERROR, "a value can be beyond its bounds: they are no ends of all that can be"),
    "APRNB-022": (ERROR, "a key of a binding has a value where it stands"),
}
