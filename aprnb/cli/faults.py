"""aprnb faults: mistakes planted on purpose, and whether the falsifiers see them."""
import json
import os

import click

from .options import JSON

RUN = """\b
Examples:
  aprnb faults run --all
  aprnb faults run rope-adjacent-pairs --json
  aprnb faults run --all --hardware gpu --record

\b
What cannot be run here is skipped, and pending if nobody saw it red as it stands: never red, or its
tests, what they reach in the package, or the fault changed since. It waits for a machine with its
hardware.

\b
Exit codes: 0 every fault red with and green without; 2 usage or unknown fault; 3 not in a
checkout; 5 a fault that is not seen, a test that is red without it, or one that changed; 9 pytest
is missing; 14 --hardware that is not here."""

LIST = """\b
Examples:
  aprnb faults list
  aprnb faults list --json

\b
Exit codes: 0 listed; 3 not in a checkout; 5 a contract or the registry is not sound."""


@click.group(epilog="""\b
Examples:
  aprnb faults list
  aprnb faults run --all

\b
Exit codes: 0 success; 2 usage; 3 not in a checkout; 5 a fault is not seen.""")
def faults():
    """Mistakes planted on purpose: does each turn its falsifier red?

    Works in a checkout, with its tests and contracts. A fault is planted in a temporary copy.
    """


@faults.command("list", epilog=LIST)
@JSON
def list_(as_json):
    """Every planted fault, what it spoils, and the falsifiers that are bound to it."""
    from ..proof.contracts.contract import load_contracts
    from ..proof.faults.fault import registry
    bound = {id: [] for id in registry()}
    for contract in load_contracts():
        for falsifier in contract.falsifiers:
            for id in falsifier.binding.faults:
                bound[id].append(falsifier.id)
    rows = [{"id": f.id, "title": f.title, "seen_in": f.seen_in, "sides": list(f.plants),
             "falsifiers": bound[f.id]} for f in registry().values()]
    if as_json:
        click.echo(json.dumps({"schema": "aprnb-faults-v1", "faults": rows}, indent=1))
        return
    for row in rows:
        click.echo(f"{row['id']:<34} {', '.join(row['sides']):<22} {row['title']}")
        click.echo(f"{'':<34} {', '.join(row['falsifiers']) or 'nobody looks for it'}")


@faults.command(epilog=RUN)
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "every", is_flag=True, help="All faults of the registry.")
@click.option("--record", is_flag=True,
              help="Write what was seen red into contracts/seen-red.json.")
@click.option("--hardware", multiple=True, type=click.Choice(("cpu", "simulator", "gpu")),
              help="Only trials on this; may be given again  [default: all that is usable here].")
@click.option("--known-green", is_flag=True,
              help="The tests have just passed without faults: do not run them so again.")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count(), show_default=True,
              help="Test processes at a time.")
@JSON
def run(ids, every, record, hardware, known_green, workers, as_json):
    """Prove for each fault: its falsifier is green without it and red with it."""
    from ..errors import CheckError, UsageError
    from ..proof.faults import trials as trial
    from ..proof.checkout import checkout
    from ..proof.contracts.contract import load_contracts
    from ..proof.faults.fault import registry
    from ..proof.hardware import idle
    from ..proof.faults.ledger import read_ledger
    if every == bool(ids):
        raise UsageError("faults run: name faults, or give --all")
    if record and known_green:
        raise UsageError("--known-green: what is recorded is seen green first; leave one of them "
                         "out")
    root, results = checkout(), []
    ledger = None if record else read_ledger(root)
    todo = trial.all_trials(load_contracts(), registry(), ids, ledger)
    away = idle("faults run", hardware, {one.hardware for one in todo})
    for result in trial.run_trials(root, todo, away, workers, ledger, known_green):
        results.append(result)
        click.echo(_line(result), err=as_json)
    if record:
        trial.record(root, todo, results, every)
    bad = [r for r in results if r.problem]
    click.echo(_counted(results, bad), err=as_json)
    if as_json:
        click.echo(json.dumps({"schema": "aprnb-faults-v1", "faults": [vars(r) for r in results]},
                              indent=1))
    if bad:
        raise CheckError(f"faults: {len(bad)} of {len(results)} trials do not hold, first: "
                         f"{bad[0].id} against {bad[0].falsifier}: {bad[0].problem}")


def _line(r):
    word, say = (("BAD ", r.problem) if r.problem else ("pend", f"{r.pending}; {r.skipped}")
                 if r.pending else ("skip", r.skipped) if r.skipped else ("red ", r.red_with))
    return f"{word} {r.id:<34} {r.hardware:<9} {r.falsifier}: {say}"


def _counted(results, bad):
    skipped = [r for r in results if r.skipped and not r.problem]
    held, waiting = len(results) - len(bad) - len(skipped), sum(bool(r.pending) for r in skipped)
    return (f"{len(results)} trials: {held} red with the fault and green without, {len(bad)} bad, "
            f"{len(skipped)} skipped, of which {waiting} pending")
