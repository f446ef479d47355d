"""aprnb contracts run and status: what falsifiers say now, and what evidence says."""
import json
import sys

import click

from ..proof.hardware import SIDES
from ..words import counted
from .options import FORCE, JSON

RUN = """\b
Examples:
  aprnb contracts run contracts/rope-v1.yaml
  aprnb contracts run --hardware gpu --run-dir runs/half --output evidence --name gpu-half

\b
Exit codes: 0 nothing is red; 2 usage, or no commit is known; 3 no such file, or not in a checkout;
5 a falsifier is red, nothing could be run, a contract is not valid, or the evidence exists; 7 I/O;
14 a GPU was asked for and none is usable."""

STATUS = """\b
Examples:
  aprnb contracts status
  aprnb contracts status contracts/rope-v1.yaml --json

\b
Exit codes: 0 nothing is red; 2 usage; 3 no such file, or not in a checkout; 5 a falsifier is red,
evidence was tampered with, or a contract is not valid."""

PATHS = click.argument("paths", nargs=-1, metavar="[PATH]...")


def sides(ctx, parameter, value):
    """Names from a list with commas; None for all."""
    names = value.split(",") if value else None
    if names and set(names) - set(SIDES):
        raise click.BadParameter(f"{value!r}: need some of {','.join(SIDES)}")
    return names


@click.command(epilog=RUN)
@PATHS
@click.option("--hardware", callback=sides, metavar="LIST",
              help="Some of cpu,simulator,gpu  [default: all that is usable here].")
@click.option("--run-dir", metavar="RUN",
              help="Folder of a training run, for falsifiers that are about one.")
@click.option("--output", metavar="FOLDER", help="Record evidence as this folder; with --name "
              "as FOLDER/<date>-NAME  [default: print only].")
@click.option("--name", metavar="NAME", help="Of the evidence, after its date.")
@click.option("--commit", metavar="HASH", help="Commit of the code, where there is no git.")
@click.option("--note", "notes", multiple=True, metavar="TEXT",
              help="A sentence for the evidence's README; may be given again.")
@FORCE
@JSON
def run(paths, hardware, run_dir, output, name, commit, notes, force, as_json):
    """Run the tests that contracts are bound to, and say the verdict of every falsifier.

    PATH is a .yaml file or a folder of them  [default: contracts/ of the checkout]. DISCHARGED: its
    tests pass and its value is where it should be. SUSPECT: the value is within its gate but not
    plausible. RED: a test fails, or the value is outside its gate or missing. NOT-RUN: the reason.
    """
    from ..errors import CheckError, UsageError
    from ..proof.evidence.folder import dated
    from ..proof.verdicts.recording import record_contracts, run_contracts
    argv = ["aprnb", *sys.argv[1:]]
    if not output and (name is not None or notes or force):
        raise UsageError("contracts run: --name, --note and --force are about --output")
    if output:
        folder = output if name is None else dated(output, name)
        told = record_contracts(folder, paths, hardware, run_dir, argv, commit, notes, force)
    else:
        told = run_contracts(paths, hardware, run_dir, argv, commit)
    click.echo(json.dumps(told, indent=1) if as_json else "\n".join(_verdicts(told)))
    red = [row for row in told["verdicts"] if row["verdict"] == "RED"]
    if red:
        raise CheckError(f"contracts: {len(red)} of {len(told['verdicts'])} falsifiers are red, "
                         f"first: {red[0]['falsifier']}: {red[0]['reason']}")


def _verdicts(told):
    for row in told["verdicts"]:
        value = "" if row["value"] is None or row["reason"] else f": {_value(row)}"
        say = value or (f": {row['reason']}" if row["reason"] else "")
        yield f"{row['verdict']:<10} {row['hardware']:<9} {row['falsifier']}{say}"
    yield _counted(told["counts"])


def _value(row):
    from ..proof.verdicts.verdict import digits
    bounds = row["bounds"]
    value = digits(row["value"], (bounds["lower"], bounds["upper"]))
    return (f"{bounds['quantity']} {value} {bounds['unit']}, gate {bounds['lower']} to "
            f"{bounds['upper']}")


def _counted(counts):
    return ", ".join(f"{n} {word}" for word, n in counts.items() if n) or "no falsifier"


@click.command(epilog=STATUS)
@PATHS
@JSON
def status(paths, as_json):
    """What is proven, where, and how old the evidence is.

    Reads evidence/ anew: digests of its files, and every verdict from the outcomes and numbers
    beside it. TAMPERED: one of them does not fit. NOT-RUN too: a contract or a test file changed
    since. Pending: a planted fault that nobody saw turn the falsifier red as both stand now; run
    `aprnb faults run --record` where its hardware is. A contract's status follows from the
    verdicts.
    """
    from ..errors import CheckError
    from ..proof.verdicts.report import report
    told = report(paths)
    click.echo(json.dumps(told, indent=1) if as_json else "\n".join(_table(told)))
    bad = [f"{folder['name']}: {problem}" for folder in told["evidence"]
           for problem in folder["problems"]]
    bad += [f"{f['falsifier']}: RED: {f['reason']}" for c in told["contracts"]
            for f in c["falsifiers"] if f["verdict"] == "RED"]
    if bad:
        raise CheckError(f"contracts status: {bad[0]}"
                         + (f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""))


def _table(told):
    for contract in told["contracts"]:
        proven = ", ".join(f"{side} {n['discharged']} of {n['bound']}"
                           for side, n in contract["proven"].items())
        yield f"{contract['name']}  {contract['status']}  {proven}"
        for f in contract["falsifiers"]:
            say = "; ".join(part for part in (f["reason"], _age(f), _pending(f)) if part)
            yield f"  {f['verdict']:<10} {f['hardware']:<9} {f['falsifier']}: {say}"
    for folder in told["evidence"]:
        yield from (f"TAMPERED {folder['name']}: {problem}" for problem in folder["problems"])
    waiting = sum(len(f["pending"]) for c in told["contracts"] for f in c["falsifiers"])
    folders = counted(len(told["evidence"]), "folder")
    yield (f"{_counted(told['counts'])}; {folders} of evidence; "
           f"{counted(waiting, 'planted fault')} pending")


def _pending(f):
    """Of each reason the faults that wait to be seen red, and where that can be."""
    faults = {}
    for fault, why in f["pending"].items():
        faults.setdefault(why, []).append(fault)
    return "; ".join(f"pending on {f['hardware']}: {', '.join(own)} {why}"
                     for why, own in faults.items())


def _age(f):
    if not f["evidence"]:
        return ""
    dirty = "+" if f["tree_clean"] is False else ""
    return f"{f['days']} d, {(f['commit'] or 'no commit')[:9]}{dirty}, {f['evidence']}"
