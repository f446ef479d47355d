"""The rules of contracts: each on a contract that breaks it alone, and 1,000 damaged files."""
import os
import sys
from pathlib import Path

import processes
import pytest
from campaign import TIMES

from aprnb.proof.contracts.document import MOST_BYTES, MOST_DEPTH, MOST_NODES, parse_document
from aprnb.proof.contracts.finding import RULES
from aprnb.proof.contracts.rules import MOST_FINDINGS, check
from aprnb.proof.faults.fault import fault

ROOT = Path(__file__).parents[1]
FAULTS = {"a-fault": fault("a-fault", "", "", cpu=[("a", "b", "c")])}

SOUND = """\
metadata:
  version: 1.0.0
  description: A contract without a fault
  kind: pattern
  references: [A paper]
  depends_on: [parent-v1]
equations:
  forward:
    formula: y = x
proof_obligations:
  - type: invariant
    property: y is x
    formal: y = x
  - type: subcontract
    property: y is what the parent says
    parent_contract: parent-v1
falsification_tests:
  - id: FALSIFY-X-001
    rule: y is x
    prediction: y equals x
    if_fails: y is something else
    aprnb:
      tests: [tests/test_rope.py::test_golden_vector_of_the_oracle]
      faults: [a-fault]
      hardware: cpu
      value:
        quantity: first_loss
        unit: nats
        lower: 0.05
        upper: 8.35
        plausible: [1.5, 4.0]
      run: summary.json:best_val_loss_nats
  - id: FALSIFY-X-002
    description: the second names of keys
    expected: "1e-4 in a text is no number"
    command: pytest tests/test_rope.py
    fails_if: they are not read
    aprnb:
      tests: ["tests/test_rope.py::test_rotation[rope_forward-x-f32-sim-1x1x1x1x2]"]
      faults: [a-fault]
      hardware: cpu
"""
KERNEL = SOUND.replace("kind: pattern", "kind: kernel") + """\
kani_harnesses:
  - id: KANI-X-001
    obligation: X-INV-001
    bound: 4
    strategy: stub_float
  - id: KANI-X-002
    obligation: X-INV-002
    bound: 4
qa_gate:
  id: QA-X-001
  name: A gate
"""


def found(text):
    """(rule, line) of each finding in a contract."""
    data = text if isinstance(text, bytes) else text.encode()
    return [(f.rule, f.line) for f in check(parse_document(data, "x.yaml"), ROOT, FAULTS)]


def test_a_sound_contract_has_no_finding():
    assert found(SOUND) == found(KERNEL) == []
    for old, new in (("        plausible: [1.5, 4.0]\n", ""), ("plausible: [1.5, 4.0]",
                     "plausible: [0.05, 8.35]"), ("bound: 4", "bound: 0"),
                     ("lower: 0.05", "lower: 5.0e-2"), ("lower: 0.05", "lower: 1")):
        assert found(KERNEL.replace(old, new)) == []


JUDGED_END = SOUND.index("  - id: FALSIFY-X-002")
JUDGED = SOUND[SOUND.index("quantity: "):JUDGED_END]
# rule, text of the sound contract, what stands there instead, and what the line found begins with
BREACHES = [
    ("SCHEMA-001", "references: [A paper]", "references: []", "  references"),
    ("SCHEMA-001", "  references: [A paper]\n", "", "metadata"),
    ("SCHEMA-001", "[A paper]", "[' ']", "  references"),
    ("SCHEMA-002", "version: 1.0.0", "version: ''", "  version"),
    ("SCHEMA-002", "  version: 1.0.0\n", "", "metadata"),
    ("SCHEMA-004", "formula: y = x", "formula: ' '", "    formula"),
    ("SCHEMA-004", "formula: y = x", "domain: x", "  forward"),
    ("SCHEMA-005", "property: y is x", "property:", "    property:"),
    ("SCHEMA-006", "    property: y is what", "    formal: y = x\n    property: y is what",
     "    formal: y = x\n    property: y is what"),
    ("SCHEMA-007", "FALSIFY-X-002", "FALSIFY-X-001", "  - id: FALSIFY-X-001\n    description"),
    ("SCHEMA-008", "prediction: y equals x", "prediction: ''", "    prediction"),
    ("SCHEMA-008", "    prediction: y equals x\n", "", "  - id: FALSIFY-X-001"),
    ("SCHEMA-008", '"1e-4 in a text is no number"', "''", "    expected"),
    ("SCHEMA-009", "if_fails: y is something else", "if_fails: ''", "    if_fails"),
    ("SCHEMA-014", "property: y is x", "requires: X-PRE\n    property: y is x", "    requires"),
    ("SCHEMA-015", "property: y is x", "applies_to_phase: p\n    property: y is x",
     "    applies_to_phase"),
    ("SCHEMA-016", "property: y is x", "parent_contract: parent-v1\n    property: y is x",
     "    parent_contract: parent-v1\n    property"),
    ("SCHEMA-017", "depends_on: [parent-v1]", "depends_on: [other-v1]", "    parent_contract"),
    ("SCHEMA-017", "    parent_contract: parent-v1\n", "", "  - type: subcontract"),
    ("SCHEMA-018", "equations:", "kind: pattern\nequations:", "kind"),
    ("SCHEMA-019", "equations:", "qa_gates: []\nequations:", "qa_gates"),
    ("SCHEMA-019", "equations:", "kani_harness: []\nequations:", "kani_harness"),
    ("SCHEMA-019", "falsification_tests:", "falsificationTest: []\nfalsification_tests:",
     "falsificationTest"),
    ("SCHEMA-020", "  kind: pattern", "  kind: pattern\n  kind: registry", "  kind: registry"),
    ("SCHEMA-020", "equations:", "equations: {}\nequations:", "equations:\n"),
    ("SCHEMA-020", "    description: the", "    rule: another\n    description: the",
     "    description"),
    ("SCHEMA-021", "property: y is x", "applies_to: not_applicable\n    na_owner: a bench\n"
     "    property: y is x", "    applies_to"),
    ("SCHEMA-022", "property: y is x", "applies_to: not_applicable\n    na_reason: hardware\n"
     "    property: y is x", "    applies_to"),
    ("SCHEMA-022", "property: y is x", "lean: {theorem: T, status: not-applicable, na_reason: r}\n"
     "    property: y is x", "    lean"),
    ("SCHEMA-023", "property: y is x", "na_owner: a bench\n    property: y is x", "    na_owner"),
    ("APRNB-001", "equations:", "equations: ]", "equations"),
    ("APRNB-001", "equations:", "\tequations:", "\tequations"),
    ("APRNB-001", "y equals x", "y \x07 x", "    prediction"),
    ("APRNB-001", "y equals x", '"\\ud800"', "    prediction"),
    ("APRNB-001", "y equals x", '"\\Uffffffff"', "    prediction"),
    ("APRNB-001", "  forward:", "  ? [a, list]\n  : {formula: z}\n  forward:", "  ? [a"),
    ("APRNB-001", "equations:", "---\nequations:", "---"),
    ("APRNB-002", "y = x", "[" * MOST_DEPTH + "]" * MOST_DEPTH, "    formula"),
    ("APRNB-002", "A paper", ", ".join(["A paper"] * MOST_NODES), "  references"),
    ("APRNB-002", "metadata:", "# " + "a" * MOST_BYTES + "\nmetadata:", "#"),
    ("APRNB-003", "references: [A paper]", "references: &r [A paper]", "  references"),
    ("APRNB-003", "references: [A paper]", "references: *r", "  references"),
    ("APRNB-003", "version: 1.0.0", "version: !!str 1.0.0", "  version"),
    ("APRNB-003", "version: 1.0.0", "version: !!python/object/apply:os.getcwd []", "  version"),
    ("APRNB-004", "version: 1.0.0", "version: 1.0", "  version"),
    ("APRNB-004", "version: 1.0.0", "version: 1e4", "  version"),
    ("APRNB-004", "references: [A paper]", "references: A paper", "  references"),
    ("APRNB-004", "[A paper]", "[A paper, ~]", "  references"),
    ("APRNB-004", "kind: pattern", "kind: pattern\n  registry: yes", "  registry"),
    ("APRNB-004", "    formula: y = x", "    - y = x", "  forward"),
    ("APRNB-004", "property: y is x", "tolerance: 1e-4\n    property: y is x", "    tolerance"),
    ("APRNB-004", "lower: 0.05", "lower: 5e-2", "        lower"),
    ("APRNB-004", "lower: 0.05", "lower: '0.05'", "        lower"),
    ("APRNB-004", "upper: 8.35", "upper: .inf", "        upper"),
    ("APRNB-004", "upper: 8.35", "upper: 1.0e+999", "        upper"),
    ("APRNB-004", "upper: 8.35", "upper: 0x10", "        upper"),
    ("APRNB-004", "upper: 8.35", f"upper: {'9' * 5000}", "        upper"),
    ("APRNB-004", "kind: pattern", "kind: 5", "  kind"),
    ("APRNB-004", "equations:\n  forward:\n    formula: y = x", "equations: [y]", "equations"),
    ("APRNB-004", "faults: [a-fault]\n      hardware: cpu\n      value",
     "faults: [a-fault, 5]\n      hardware: cpu\n      value", "      faults"),
    ("APRNB-004", "test_golden_vector_of_the_oracle]", "test_golden_vector_of_the_oracle, 5]",
     "      tests"),
    ("APRNB-004", "unit: nats", "unit: 5", "        unit"),
    ("APRNB-005", "  kind: pattern", "  kind: pattern\n  lisence: MIT", "  lisence"),
    ("APRNB-005", "equations:", "summary: short\nequations:", "summary"),
    ("APRNB-005", "    formula: y = x", "    formula: y = x\n    formulae: y", "    formulae"),
    ("APRNB-005", "    property: y is x", "    property: y is x\n    proprety: y", "    proprety"),
    ("APRNB-005", "    rule: y is x", "    rule: y is x\n    rules: y", "    rules"),
    ("APRNB-005", "      hardware: cpu\n      value", "      hardware: cpu\n      fault: a\n"
     "      value", "      fault:"),
    ("APRNB-005", "        unit: nats", "        unit: nats\n        uper: 9.0", "        uper"),
    ("APRNB-006", "  description: A contract without a fault\n", "", "metadata"),
    ("APRNB-006", "  - id: FALSIFY-X-001\n    rule", "  - rule", "  - rule"),
    ("APRNB-006", "id: FALSIFY-X-001", "id: ' '", "  - id: ' '"),
    ("APRNB-006", "  - type: invariant\n    property", "  - property", "  - property"),
    ("APRNB-006", "        quantity: first_loss\n", "", "      value"),
    ("APRNB-006", SOUND[:SOUND.index("equations")], "", "equations"),
    ("APRNB-007", "kind: pattern", "kind: patern", "  kind"),
    ("APRNB-007", "type: invariant", "type: safety", "  - type"),
    ("APRNB-007", "kind: pattern", "kind: pattern\n  enforcement_level: loose",
     "  enforcement_level"),
    ("APRNB-008", SOUND[SOUND.index("falsification"):], "", "metadata"),
    ("APRNB-009", SOUND[SOUND.index("    aprnb"):SOUND.index("  - id: FALSIFY-X-002")], "",
     "  - id: FALSIFY-X-001"),
    ("APRNB-010", "faults: [a-fault]\n      hardware: cpu\n      value",
     "faults: []\n      hardware: cpu\n      value", "      faults"),
    ("APRNB-010", "      faults: [a-fault]\n      hardware: cpu\n      value",
     "      hardware: cpu\n      value", "    aprnb"),
    ("APRNB-011", "faults: [a-fault]\n      hardware: cpu\n      value",
     "faults: [b-fault]\n      hardware: cpu\n      value", "      faults"),
    ("APRNB-011", "hardware: cpu\n      value", "hardware: gpu\n      value", "      faults"),
    ("APRNB-012", "test_rope.py::test_golden", "test_rpoe.py::test_golden", "      tests"),
    ("APRNB-012", "test_golden_vector_of_the_oracle", "test_golden", "      tests"),
    ("APRNB-012", "test_rotation[", "test_rotations[", "      tests: [\"tests"),
    ("APRNB-012", "tests/test_rope.py::test_golden", "../tests/test_rope.py::test_golden",
     "      tests"),
    ("APRNB-012", "[tests/test_rope.py::test_golden_vector_of_the_oracle]", "[]", "      tests"),
    ("APRNB-012", "      tests: [tests/test_rope.py::test_golden_vector_of_the_oracle]\n", "",
     "    aprnb"),
    ("APRNB-012", "command: pytest tests/test_rope.py", "command: pytest tests/test_rpoe.py",
     "    command"),
    ("APRNB-012", "command: pytest tests/test_rope.py", "command: pytest tests/test_rope.py::test_",
     "    command"),
    ("APRNB-013", "hardware: cpu\n      value", "hardware: tpu\n      value", "      hardware"),
    ("APRNB-013", "      hardware: cpu\n      value", "      value", "    aprnb"),
    ("APRNB-014", "unit: nats", "unit: nat", "        unit"),
    ("APRNB-014", "        unit: nats\n", "", "      value"),
    ("APRNB-015", "        lower: 0.05\n", "", "        upper"),
    ("APRNB-015", "        upper: 8.35\n", "", "        lower"),
    ("APRNB-015", "upper: 8.35", "upper:", "        lower"),
    ("APRNB-016", "lower: 0.05", "lower: 8.35", "        lower"),
    ("APRNB-017", "plausible: [1.5, 4.0]", "plausible: [0.0, 4.0]", "        plausible"),
    ("APRNB-017", "plausible: [1.5, 4.0]", "plausible: [4.0, 1.5]", "        plausible"),
    ("APRNB-017", "plausible: [1.5, 4.0]", "plausible: [4.0, 4.0]", "        plausible"),
    ("APRNB-017", "plausible: [1.5, 4.0]", "plausible: [1.5, 8.36]", "        plausible"),
    ("APRNB-017", "plausible: [1.5, 4.0]", "plausible: [1.5]", "        plausible"),
    ("APRNB-018", "unit: nats", "unit: bits", "        unit"),
    ("APRNB-018", "quantity: first_loss\n        unit: nats",
     "quantity: first\n        unit: bits", "        unit"),
    *[("APRNB-018", JUDGED, JUDGED.replace("first_loss", name).replace("nats", "bits", 1).replace(
        "best_val_loss_nats", "best"), "        unit")
      for name in ("cross_entropy", "heldout Cross-Entropy", "nll_of_the_last_token")],
    ("APRNB-019", "run: summary.json:best_val_loss_nats", "run: best_val_loss_nats", "      run"),
    ("APRNB-019", "run: summary", "run: ../other/summary", "      run"),
    ("APRNB-019", SOUND[SOUND.index("      value:"):SOUND.index("      run:")], "", "      run"),
    ("APRNB-021", "lower: 0.05", "lower: -1.0e+308", "        lower"),
    ("APRNB-021", "lower: 0.05", "lower: 0", "        lower"),
    ("APRNB-021", "upper: 8.35", "upper: 1.0e+308", "        upper"),
    ("APRNB-022", SOUND[SOUND.index("      value:"):JUDGED_END], "      value:\n",
     "      value"),
    ("APRNB-022", "      run: summary.json:best_val_loss_nats", "      run:", "      run"),
    ("APRNB-022", "plausible: [1.5, 4.0]", "plausible:", "        plausible"),
    ("APRNB-020", "kind: pattern", "kind: pattern\n  status: ACTIVE_RUNTIME", "  status"),
    ("APRNB-020", "    rule: y is x", "    rule: y is x\n    discharge_status: DISCHARGED",
     "    discharge_status"),
]
KERNEL_BREACHES = [
    ("SCHEMA-003", KERNEL[KERNEL.index("equations"):KERNEL.index("proof_obl")], "", "metadata"),
    ("SCHEMA-003", "equations:\n  forward:\n    formula: y = x", "equations: {}", "equations"),
    ("SCHEMA-010", "KANI-X-002", "KANI-X-001", "  - id: KANI-X-001\n    obligation: X-INV-002"),
    ("SCHEMA-011", "obligation: X-INV-001", "obligation: ''", "    obligation"),
    ("SCHEMA-012", "    bound: 4\n    strategy", "    strategy", "  - id: KANI-X-001"),
    ("SCHEMA-013", KERNEL[KERNEL.index("qa_gate"):], "", "metadata"),
    ("PROVABILITY-001", KERNEL[KERNEL.index("kani"):KERNEL.index("qa_gate")], "", "metadata"),
    ("PROVABILITY-001", KERNEL[KERNEL.index("  - id: FALSIFY-X-002"):KERNEL.index("kani")], "",
     "falsification_tests"),
    ("APRNB-007", "stub_float", "stub_floats", "    strategy"),
    ("APRNB-004", "    bound: 4\n    strategy", "    bound: -1\n    strategy", "    bound"),
    ("APRNB-004", "    bound: 4\n    strategy", "    bound: 4.5\n    strategy", "    bound"),
]


def cases():
    for base, breaches in ((SOUND, BREACHES), (KERNEL, KERNEL_BREACHES)):
        for i, (rule, old, new, at) in enumerate(breaches):
            yield pytest.param(base, rule, old, new, at, id=f"{rule}-{i}")


@pytest.mark.parametrize("base, rule, old, new, at", list(cases()))
def test_a_breach_is_named_with_its_line_and_nothing_else(base, rule, old, new, at):
    assert base.count(old) >= 1
    text = "\n" + base.replace(old, new, 1)
    line = text[:text.index(f"\n{at}") + 1].count("\n")
    assert found(text[1:]) == [(rule, line)]
    [finding] = check(parse_document(text[1:].encode(), "x.yaml"), ROOT, FAULTS)
    assert finding.severity == RULES[rule][0]
    assert str(finding).startswith(f"x.yaml:{finding.line}: {finding.severity} {rule}: ")
    assert str(finding).isprintable() and len(str(finding)) < 600


def bounded(unit, lower, upper):
    """A sound contract whose value is in this unit, and no loss."""
    text = SOUND.replace("first_loss", "share").replace("        plausible: [1.5, 4.0]\n", "")
    for old, new in (("nats", unit), ("0.05", lower), ("8.35", upper), ("best_val_loss", "best")):
        text = text.replace(old, new, 1)
    return text


@pytest.mark.parametrize("unit, lower, upper, sides", [
    ("cosine", "-1", "1", ["lower"]), ("cosine", "-1.01", "1.0001", ["lower"]),
    ("cosine", "0.9", "1.1", ["upper"]), ("cosine", "-2", "0.9", ["lower"]),
    ("fraction", "0", "1", ["lower"]), ("fraction", "-0.001", "1.0", ["lower"]),
    ("relative", "-1.0e+308", "1.0e+308", ["lower", "upper"]),
    ("absolute", "-0.1", "1.0e+30", ["upper"]), ("absolute", "-1.0e+308", "5", ["lower"]),
    ("bits", "-3", "9", ["lower"]), ("nats", "0.5", "1.0e+4", ["upper"]),
    ("nats", "0", "100", ["lower"]), ("seconds", "0", "1.0e+30", ["upper"]),
    ("seconds", "-60", "3600", ["lower"]), ("count", "-100", "100", ["lower"]),
    ("bytes", "0", "1.0e+100", ["upper"])])
def test_a_bound_that_nothing_can_cross_is_refused_where_it_stands(unit, lower, upper, sides):
    text = bounded(unit, lower, upper)
    lines = text.splitlines()
    said = found(text)
    assert [rule for rule, _ in said] == ["APRNB-021"] * len(sides)
    assert [lines[line - 1].split(":")[0].strip() for _, line in said] == sides


@pytest.mark.parametrize("unit, lower, upper", [
    ("cosine", "0.999", "1.000001"), ("cosine", "-1", "0.5"), ("fraction", "0.00001", "1.0"),
    ("fraction", "0", "0.5"), ("relative", "-0.00001", "0.00001"), ("absolute", "0", "1.0e-6"),
    ("count", "-0.5", "0.5"), ("count", "494032767.5", "494032768.5"), ("nats", "-0.01", "0.01"),
    ("seconds", "0", "3600"), ("bytes", "1", "1.0e+12")])
def test_a_bound_at_the_end_of_what_can_be_is_sound_if_the_other_is_not(unit, lower, upper):
    assert found(bounded(unit, lower, upper)) == []


def test_an_empty_value_is_refused():
    text = SOUND.replace(JUDGED[:JUDGED.index("      run:")], "{}\n").replace(
        "value:\n        {}", "value: {}")
    line = text[:text.index("      value: {}") + 1].count("\n") + 1
    assert {("APRNB-006", line), ("APRNB-014", line), ("APRNB-015", line)} == set(found(text))


def test_every_rule_has_a_breach():
    assert {case[0] for case in BREACHES + KERNEL_BREACHES} == set(RULES)


def deep(levels):
    """A sound contract, nested as deep as `levels`: changelog stands on the third of them."""
    depth = levels - 2
    return SOUND.replace("kind:", f"changelog: {'[' * depth}{']' * depth}\n  kind:")


def full(nodes):
    """`nodes` keys and values: the map, its key and its list hold the rest. Not a sound contract.
    """
    return f"a: [{', '.join('x' * (nodes - 3))}]"


def long(size):
    return SOUND + "#" * (size - len(SOUND))


@pytest.mark.parametrize("make, cap", [(deep, MOST_DEPTH), (full, MOST_NODES), (long, MOST_BYTES)])
def test_caps_hold_exactly(make, cap):
    assert "APRNB-002" not in [rule for rule, _ in found(make(cap))]
    assert found(make(cap + 1)) == [("APRNB-002", 4 if make is deep else 1)]


@pytest.mark.parametrize("text", ["", "# nothing\n", "a word", "- metadata", "[]", "~"])
def test_a_file_that_holds_no_map_is_no_contract(text):
    assert found(text) == [("APRNB-001", 1)]


def test_bytes_that_are_no_text_are_refused_where_they_stand():
    assert found(SOUND.replace("y equals x", "y \xff x").encode("latin-1")) == [("APRNB-001", 20)]


@pytest.mark.parametrize("flag, rules", [("true", set()), ("True", set()), ("false", {
    "SCHEMA-013", "PROVABILITY-001"})])
def test_a_registry_needs_no_proofs_and_a_kernel_is_the_default(flag, rules):
    text = SOUND.replace("kind: pattern", f"registry: {flag}")
    assert {rule for rule, _ in found(text)} == rules


@pytest.mark.parametrize("key, meant", [
    ("falsification-tests", "falsification_tests"), ("Falsification_Tests", "falsification_tests"),
    ("proofObligations", "proof_obligations"), ("equation", "equations"), ("meta_data", "metadata"),
    ("kani_harness", "kani_harnesses"), ("beats", "beat"), ("type_invariant", "type_invariants")])
def test_a_near_miss_at_the_top_names_the_key_that_was_meant(key, meant):
    [finding] = check(parse_document(f"{SOUND}{key}: []\n".encode(), "x"), ROOT, FAULTS)
    assert finding.rule == "SCHEMA-019" and f"did you mean `{meant}`" in finding.message


@pytest.mark.parametrize("key", ["invariants", "gates", "spec", "references", "summary", "name"])
def test_other_unknown_keys_at_the_top_are_no_near_miss(key):
    assert found(f"{SOUND}{key}: []\n")[0][0] == "APRNB-005"


def test_a_number_with_two_readings_is_told_how_to_be_written():
    text = SOUND.replace("lower: 0.05", "lower: 5e-2")
    [finding] = check(parse_document(text.encode(), "x"), ROOT, FAULTS)
    assert finding.message.startswith("falsification_tests[0].aprnb.value.lower: 5e-2 is a number")
    assert "write 5.0e-2" in finding.message


def test_a_finding_names_the_place_below_free_names():
    text = SOUND.replace("formula: y = x", "formula: 5")
    [finding] = check(parse_document(text.encode(), "x"), ROOT, FAULTS)
    assert finding.message.startswith("equations.forward.formula: need text, got 5 ")


def test_statuses_that_claim_nothing_may_be_typed():
    for status in ("DRAFT", "DRAFT_RED", "PROPOSED"):
        assert found(SOUND.replace("kind:", f"status: {status}\n  kind:")) == []


def test_findings_are_cut_but_never_lost():
    """A hundred warnings must not hide the error behind them."""
    silent = "".join(f"  - {{id: K{i}, obligation: o}}\n" for i in range(2 * MOST_FINDINGS))
    text = f"kani_harnesses:\n{silent}{SOUND}".replace("hardware: cpu", "hardware: tpu")
    findings = check(parse_document(text.encode(), "x"), ROOT, FAULTS)
    assert len(findings) == MOST_FINDINGS + 1
    assert [f.rule for f in findings if f.severity == "error"] == ["APRNB-002"]


def test_a_thousand_damaged_files_give_findings_quickly_in_little_memory(tmp_path):
    """No traceback; none takes longer, for its size, than some sound ones; judging all of them adds
    less than 64 MiB."""
    sources = []
    for i, text in enumerate((SOUND, KERNEL)):
        sources.append(tmp_path / f"{i}.yaml")
        sources[-1].write_text(text)
    done = processes.run(
        [sys.executable, ROOT / "tests/yaml_mutants.py", *sources,
         ROOT / "contracts/rope-v1.yaml", ROOT / "contracts/rmsnorm-v1.yaml"],
        env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    count, slowest, added, broken = map(int, done.stdout.split())
    assert count == 1000 * TIMES and slowest < 20 and added < 64
    assert broken > 850 * TIMES  # a damaged comment or sentence is sound
