"""The report of `aprnb contracts status`."""
import datetime

from ..checkout import checkout
from ..contracts.contract import load_contracts
from ..faults.fault import registry
from ..faults.ledger import pending, read_ledger
from ..faults.reach import Reach
from .status import proven, read_evidence, supported_status, where


def report(paths=None):
    """All contracts that `paths` name (default: of the checkout), against evidence/ and against the
    ledger of what was seen red.

    Errors: those of load_contracts; CheckError if the ledger is damaged.
    """
    root, contracts = checkout(), load_contracts(paths)
    evidence = read_evidence(root / "evidence")
    known = proven(contracts, evidence, root)
    today = datetime.datetime.now(datetime.timezone.utc).date()
    words, ledger, reach = [p.verdict for p in known.values()], read_ledger(root), Reach(root)
    faults = registry()
    return {
        "schema": "aprnb-contracts-status-v1",
        "counts": {word: words.count(word) for word in dict.fromkeys(words)},
        "contracts": [{
            "name": contract.name, "status": supported_status(contract, known),
            "proven": {side: {"discharged": done, "bound": bound}
                       for side, (done, bound) in where(contract, known).items()},
            "falsifiers": [_falsifier(known[f.id], today)
                           | {"pending": _pending(reach, f, faults, ledger)}
                           for f in contract.falsifiers],
        } for contract in contracts],
        "evidence": [{"name": e.name, "date_utc": e.date, "commit": e.commit,
                      "problems": list(e.problems), "falsifiers": len(e.rows)} for e in evidence]}


def _pending(reach, falsifier, faults, ledger):
    """Fault -> why nobody knows that it turns the falsifier red as both stand now."""
    entry = ledger.get(falsifier.id)
    found = {fault: pending(reach, falsifier, faults[fault], entry)
             for fault in falsifier.binding.faults}
    return {fault: why for fault, why in found.items() if why}


def _falsifier(known, today):
    row, evidence = known.row, known.evidence
    return {"falsifier": known.falsifier.id, "hardware": known.hardware, "verdict": known.verdict,
            "reason": known.reason, "value": row.get("value"), "bounds": row.get("bounds"),
            "device": row.get("device"), "evidence": evidence.name if evidence else None,
            "days": known.days(today), "commit": evidence.commit if evidence else None,
            "tree_clean": evidence.tree_clean if evidence else None}
