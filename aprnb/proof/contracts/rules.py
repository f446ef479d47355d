"""Everything that is wrong with contract files."""
from itertools import islice

from ..checkout import checkout as find_checkout
from ..faults.fault import registry
from .document import quoted
from .finding import ERROR, RULES, Finding
from .rules_aprnb import judge_aprnb
from .rules_pv import judge_pv
from .schema import judge_shape

MOST_FINDINGS = 100  # of one file


def check_all(documents):
    """Findings of Documents, each alone and all together, by path and line.

    Errors: NotFoundError outside a checkout.
    """
    checkout, faults = find_checkout(), registry()
    return sorted([f for document in documents for f in check(document, checkout, faults)]
                  + list(_shared_ids(documents)))


def check(document, checkout, faults):
    """Findings of one Document, by line; at most MOST_FINDINGS, and then one that says so.

    checkout: the folder that holds tests/;  faults: the registry, id -> Fault.
    """
    found = list(islice(_breaches(document, checkout, faults), MOST_FINDINGS + 1))
    if len(found) > MOST_FINDINGS:
        found[-1] = (1, "APRNB-002", f"more than {MOST_FINDINGS} findings; the rest is not shown")
    return sorted(_finding(document, *breach) for breach in found)


def _breaches(document, checkout, faults):
    yield from document.problems
    if document.root is not None:
        yield from judge_shape(document.root)
        yield from judge_pv(document.root)
        yield from judge_aprnb(document.root, checkout, faults)


def _finding(document, line, rule, message):
    return Finding(str(document.path), line, rule, RULES[rule][0], message)


def _shared_ids(documents):
    """An id names one falsification test, whatever the contract: evidence is kept by it."""
    seen = {}
    for document in documents:
        for test in document.root.maps("falsification_tests") if document.root else ():
            id = test.text("id")
            if id and seen.setdefault(id, document) is not document:
                yield _finding(document, test.line_of("id"), "SCHEMA-007",
                               f"falsification test {quoted(id)} stands in {seen[id].path} already")


def count(findings):
    """(errors, warnings)."""
    errors = sum(finding.severity == ERROR for finding in findings)
    return errors, len(findings) - errors
