"""The report of `aprnb contracts status`."""
import datetime

from ..checkout import checkout
from ..contracts.contract import load_contracts
from .status import proven, read_evidence, supported_status, where


def report(paths=None):
    """All contracts that `paths` name (default: of the checkout), against evidence/.

    Errors: those of load_contracts.
    """
    root, contracts = checkout(), load_contracts(paths)
    evidence = read_evidence(root / "evidence")
    known = proven(contracts, evidence, root)
    today = datetime.datetime.now(datetime.timezone.utc).date()
    words = [p.verdict for p in known.values()]
    return {
        "schema": "aprnb-contracts-status-v1",
        "counts": {word: words.count(word) for word in dict.fromkeys(words)},
        "contracts": [{
            "name": contract.name, "status": supported_status(contract, known),
            "proven": {side: {"discharged": done, "bound": bound}
                       for side, (done, bound) in where(contract, known).items()},
            "falsifiers": [_falsifier(known[f.id], today) for f in contract.falsifiers],
        } for contract in contracts],
        "evidence": [{"name": e.name, "date_utc": e.date, "commit": e.commit,
                      "problems": list(e.problems), "falsifiers": len(e.rows)} for e in evidence]}


def _falsifier(known, today):
    row, evidence = known.row, known.evidence
    return {"falsifier": known.falsifier.id, "hardware": known.hardware, "verdict": known.verdict,
            "reason": known.reason, "value": row.get("value"), "bounds": row.get("bounds"),
            "device": row.get("device"), "evidence": evidence.name if evidence else None,
            "days": known.days(today), "commit": evidence.commit if evidence else None,
            "tree_clean": evidence.tree_clean if evidence else None}
