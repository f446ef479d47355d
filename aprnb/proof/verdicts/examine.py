"""Runs the tests that contracts are bound to, and draws the verdict of each falsifier."""
from ...errors import CheckError
from ..evidence.origin import digests, hardware, now, shown
from ..faults.fault import SIDES, faults
from ..faults.ledger import read_ledger
from ..observe import run_tests
from .rows import SCHEMA, row
from .verdict import BAD, NOT_RUN, Verdict, belongs, judge, run_file

TIMEOUT = 3600  # seconds, for all bound tests of one hardware


def examine(contracts, root, unusable, run_dir=None, log=None):
    """A row (rows.py) for every falsifier, in the order of the contracts.

    root: the checkout;  unusable: hardware -> why nothing is run on it;  run_dir: folder of a
    training run, for falsifiers that are about one;  log: file for what pytest prints.
    One test process for each hardware, one after the other: nothing disturbs what they time.
    Errors: CheckError if there is nothing that can be run.
    """
    todo = [(contract, f) for contract in contracts for f in contract.falsifiers]
    if all(f.binding.hardware in unusable for _, f in todo):
        why = "; ".join(f"{side}: {reason}" for side, reason in unusable.items())
        raise CheckError(f"contracts run: there is nothing to run ({why or 'no falsifier'})")
    seen = {side: _observe(root, side, [f.binding for _, f in todo], log)
            for side in SIDES if side not in unusable}
    seen_red, rows = read_ledger(root), []
    for contract, falsifier in todo:
        binding = falsifier.binding
        around = seen.get(binding.hardware, [])
        mine = [o for o in around if any(belongs(o, node) for node in binding.tests)]
        verdict = (Verdict(NOT_RUN, unusable[binding.hardware]) if binding.hardware in unusable
                   else judge(binding, around, run_dir))
        red = seen_red.get(falsifier.id, {}).get("red", {})
        rows.append(row(contract, falsifier, verdict, mine, root) | {
            "inputs": _inputs(contract, binding, root, run_dir),
            "seen_red": sorted(set(red) & set(binding.faults))})
    return rows


def _observe(root, side, bindings, log):
    """Observations of all that is bound on one hardware."""
    nodes = sorted({node for b in bindings if b.hardware == side for node in b.tests})
    return run_tests(root, nodes, side, TIMEOUT, log) if nodes else []


def _inputs(contract, binding, root, run_dir):
    """Digests of what a verdict depends on beside the package: contract, tests, the run's file."""
    files = {root / node.partition("::")[0] for node in binding.tests}
    if binding.run and run_dir:
        files.add(run_file(run_dir, binding.run))
    return digests([contract.path, *sorted(files)], root)


def document(rows, where, argv, run, known):
    """The whole of verdicts.json.

    where: origin();  run: {"folder", "device"} of a training run or None;  known: status.proven(),
    what stood until now.
    """
    machine, registry = hardware(), faults()
    devices = {"cpu": machine["cpu"], "simulator": f"simulated on {machine['cpu']}",
               "gpu": machine["gpus"][0] if machine["gpus"] else None}
    for one in rows:
        before = known[one["falsifier"]]
        one |= {"device": run["device"] if one["run"] and run else devices[one["hardware"]],
                "commit": where["commit"],
                "before": {"verdict": before.verdict,
                           "evidence": before.evidence.name if before.evidence else None}}
    named = sorted({id for one in rows for id in one["faults"]} & set(registry))
    words = [one["verdict"] for one in rows]
    return {"schema": SCHEMA, "date_utc": now(), **where, "argv": argv, "run": run,
            "counts": {word: words.count(word) for word in (*reversed(BAD), NOT_RUN)},
            "faults": {id: registry[id].title for id in named}, "verdicts": rows}
