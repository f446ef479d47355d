"""aprnb contracts: promises with falsifiers."""
import json

import click

from ..words import counted
from .contracts_run import run, status
from .options import JSON

VALIDATE = """\b
Examples:
  aprnb contracts validate
  aprnb contracts validate contracts/rope-v1.yaml --json

\b
Exit codes: 0 valid, perhaps with warnings; 2 usage; 3 no such file, or not in a checkout;
5 a contract breaks a rule; 7 not readable."""


@click.group(epilog="""\b
Examples:
  aprnb contracts validate
  aprnb contracts run contracts/rope-v1.yaml --hardware cpu

\b
Exit codes: 0 success; 2 usage; 3 file not found, or not in a checkout; 5 a contract is not sound,
a falsifier is red, or evidence was changed.""")
def contracts():
    """Promises with falsifiers: are they sound, do their tests hold, what is proven where?

    Works in a checkout, with its tests and contracts.
    """


contracts.add_command(run)
contracts.add_command(status)


@contracts.command(epilog=VALIDATE)
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@JSON
def validate(paths, as_json):
    """Judge the form of contract files: one line a finding, with its line and rule.

    PATH is a .yaml file or a folder of them  [default: contracts/ of the checkout].
    """
    from ..errors import CheckError
    from ..proof.contracts.contract import contract_files
    from ..proof.contracts.document import read_document
    from ..proof.contracts.rules import check_all, count
    files = contract_files(paths)
    findings = check_all([read_document(file) for file in files])
    errors, warnings = count(findings)
    if as_json:
        click.echo(json.dumps({
            "schema": "aprnb-contracts-v1", "files": [str(f) for f in files], "errors": errors,
            "warnings": warnings, "findings": [vars(f) for f in findings], "ok": not errors}))
    else:
        for finding in findings:
            click.echo(finding)
        click.echo(f"{errors} error(s), {warnings} warning(s)")
    if errors:
        raise CheckError(f"contracts: {counted(errors, 'error')} in {counted(len(files), 'file')}, "
                         f"first: {_first_error(findings)}")
    if not as_json:
        click.echo("Contract is valid." if len(files) == 1 else
                   f"{len(files)} contracts are valid.")


def _first_error(findings):
    return next(f"{f.path}:{f.line}: {f.rule}" for f in findings if f.severity == "error")
