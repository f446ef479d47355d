"""The rules of the reference's `pv validate`, on a tree whose shape schema.py judges.

Each function yields (line, rule, message). A value of the wrong type is schema.py's matter and
passes here. Blanks alone count as empty, which the reference lets pass.
"""
from .document import quoted
from .schema import ALIASES


def judge_pv(root):
    """Every breach in a contract."""
    for part in (_metadata, _equations, _obligations, _falsifiers, _harnesses, _provability):
        yield from part(root)


def _metadata(root):
    metadata = root.get("metadata")
    if metadata is None or not isinstance(metadata.value, dict):
        return
    sources = metadata.get("references")
    if sources is None or isinstance(sources.value, list) and not any(
            not isinstance(s.value, str) or s.value.strip() for s in sources.value):
        yield (metadata.line_of("references"), "SCHEMA-001",
               "metadata.references is empty: name the paper, file or measurement it rests on")
    if metadata.text("version") == "":
        yield metadata.line_of("version"), "SCHEMA-002", "metadata.version is empty"


def _is_kernel(root):
    """Whether all parts are demanded: kind kernel, the default, and no registry."""
    metadata = root.get("metadata")
    if metadata is None or not isinstance(metadata.value, dict):
        return False
    registry = metadata.get("registry")
    return (metadata.text("kind") in ("", "kernel")
            and not (registry is not None and registry.value is True))


def _equations(root):
    equations = root.get("equations")
    entries = equations.value if equations is not None else {}
    if not entries and _is_kernel(root):
        yield root.line_of("equations"), "SCHEMA-003", "a contract of kind kernel needs an equation"
    for name, equation in entries.items() if isinstance(entries, dict) else ():
        if isinstance(equation.value, dict) and equation.text("formula") == "":
            yield (equation.line_of("formula"), "SCHEMA-004",
                   f"equation {quoted(name)} has no formula")


def _obligations(root):
    formals = {}
    for i, obligation in enumerate(root.maps("proof_obligations")):
        where = f"proof_obligations[{i}]"
        if obligation.text("property") == "":
            yield (obligation.line_of("property"), "SCHEMA-005",
                   f"{where}: no property: say what must hold")
        formal = obligation.text("formal")
        if formal and formal in formals:
            yield (obligation.line_of("formal"), "SCHEMA-006",
                   f"{where}: the same formal predicate as in line {formals[formal]}")
        elif formal:
            formals[formal] = obligation.line_of("formal")
        yield from _placed(obligation, where)
        yield from _subcontract(root, obligation, where)
        yield from _not_applicable(obligation, where, "applies_to", "not_applicable")
        lean = obligation.get("lean")
        if lean is not None and isinstance(lean.value, dict):
            yield from _not_applicable(lean, f"{where}.lean", "status", "not-applicable")


def _placed(obligation, where):
    """Keys that only some types of obligation have."""
    kind = obligation.text("type")
    for key, rule, types in (
            ("requires", "SCHEMA-014", ("postcondition",)),
            ("applies_to_phase", "SCHEMA-015", ("loop_invariant", "loop_variant")),
            ("parent_contract", "SCHEMA-016", ("subcontract",))):
        if obligation.get(key) is not None and kind not in types:
            yield (obligation.line_of(key), rule,
                   f"{where}: `{key}` stands only on a {' or '.join(types)}")


def _subcontract(root, obligation, where):
    if obligation.text("type") != "subcontract":
        return
    parent, metadata = obligation.text("parent_contract"), root.get("metadata")
    if metadata and parent not in [node.value for node in metadata.list("depends_on")]:
        yield (obligation.line_of("parent_contract"), "SCHEMA-017",
               f"{where}: a subcontract names a parent_contract that metadata.depends_on lists")


def _not_applicable(node, where, key, word):
    """A claim that is set aside says why, and who verifies it instead."""
    aside = node.text(key) == word
    for name, rule in (("na_reason", "SCHEMA-021"), ("na_owner", "SCHEMA-022")):
        if aside and node.text(name) == "":
            yield node.line_of(key), rule, f"{where}: {word} needs a {name}"
        elif not aside and node.get(name) is not None:
            yield (node.line_of(name), "SCHEMA-023",
                   f"{where}: `{name}` means nothing without `{key}: {word}`")


def _falsifiers(root):
    tests = root.maps("falsification_tests")
    yield from _unique(tests, "SCHEMA-007", "falsification test")
    for i, test in enumerate(tests):
        where = f"falsification_tests[{i}]"
        for key, rule, what in (("prediction", "SCHEMA-008", "say what the test will find"),
                                ("if_fails", "SCHEMA-009", "say what a failure would mean")):
            name = name_of(test, key)
            if test.text(name) == "":
                yield test.line_of(name), rule, f"{where}: `{key}` is empty: {what}"
        for alias, key in ALIASES.items():
            if alias in test.value and key in test.value:
                yield (test.line_of(alias), "SCHEMA-020",
                       f"{where}: `{alias}` is another name of `{key}`; keep one of them")


def name_of(test, key):
    """The name under which a falsification test has `key`."""
    return next((alias for alias, meant in ALIASES.items()
                 if meant == key and alias in test.value and key not in test.value), key)


def _harnesses(root):
    harnesses = root.maps("kani_harnesses")
    yield from _unique(harnesses, "SCHEMA-010", "kani harness")
    for i, harness in enumerate(harnesses):
        where = f"kani_harnesses[{i}]"
        if harness.text("obligation") == "":
            yield (harness.line_of("obligation"), "SCHEMA-011",
                   f"{where}: name the obligation that it verifies")
        if harness.get("bound") is None:
            yield (harness.line_of("bound"), "SCHEMA-012",
                   f"{where}: no bound for the unwinding of loops")


def _unique(nodes, rule, what):
    """No two of `nodes` have one id."""
    seen = {}
    for node in nodes:
        id = node.text("id")
        if id and id in seen:
            yield (node.line_of("id"), rule,
                   f"{what} {quoted(id)} stands in line {seen[id]} already")
        elif id:
            seen[id] = node.line_of("id")


def _provability(root):
    if not _is_kernel(root):
        return
    if root.get("qa_gate") is None:
        yield root.line_of("qa_gate"), "SCHEMA-013", "a contract of kind kernel has a qa_gate"
    for key in ("proof_obligations", "falsification_tests", "kani_harnesses"):
        if root.get(key) is None or root.get(key).value == []:
            yield (root.line_of(key), "PROVABILITY-001",
                   f"a contract of kind kernel needs {key}; `metadata.kind: pattern` does not")
    claims, tests = (len(root.list(key)) for key in ("proof_obligations", "falsification_tests"))
    if tests < claims:
        yield (root.line_of("falsification_tests"), "PROVABILITY-001",
               f"{claims} obligations and only {tests} falsification tests: some claim is untested")
