"""aprnb parity: is this the same model as the other framework's, or the other backend's?"""
import json
import math

import click

from .options import DEVICE, JSON, precision

EPILOG = """\b
Examples:
  aprnb parity model.apr --reference reference.npz
  aprnb parity model.apr --between cpu,cuda --json

\b
Exit codes: 0 all equal within limits; 2 usage; 3 file not found; 4 not a model file;
5 something departs (the first is named); 6 model does not fit; 14 no usable GPU."""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.option("--reference", metavar="FILE.npz",
              help="Activations, logits, losses, gradients, AdamW steps and greedy text written by "
                   "another framework (tools/make_reference.py); every key is optional.")
@click.option("--between", metavar="A,B",
              help="Two devices, such as cpu,cuda: every gradient tensor of one random batch.")
@DEVICE
@precision("fp32")
@JSON
def parity(model, reference, between, device, precision, as_json):
    """Compare MODEL with a reference, or two backends with each other, number by number."""
    from ..backend import open_backend
    from ..errors import CheckError, UsageError
    from ..formats.model_file import open_model
    from ..train import parity as compare
    if (reference is None) == (between is None):
        raise UsageError("parity: give either --reference FILE.npz or --between A,B")
    with open_model(model) as source:
        if reference:
            backend = open_backend(device, precision)
            click.echo(backend.reason, err=True)
            rows = compare.compare_with_reference(source, backend, read_reference(reference))
        else:
            first, second = _pair(between)
            rows = compare.compare_backends(source, open_backend(first, precision),
                                            open_backend(second, precision))
    departs = next((row["name"] for row in rows if not row["ok"]), None)
    report = {"schema": "aprnb-parity-v1", "model": model, "ok": departs is None,
              "first_departure": departs, "checks": [row | {"value": _finite(row["value"])}
                                                     for row in rows]}
    click.echo(json.dumps(report, indent=1, allow_nan=False) if as_json
               else "\n".join(_lines(rows)))
    if departs:
        failed = sum(not row["ok"] for row in rows)
        raise CheckError(f"parity: {failed} of {len(rows)} checks depart, first: {departs}")


def read_reference(path):
    """The arrays of an .npz, by key. Errors: NotFoundError, FormatError, CheckError."""
    import zipfile
    import zlib
    from pathlib import Path

    import numpy as np

    from ..errors import CheckError, FormatError, NotFoundError
    if not Path(path).is_file():
        raise NotFoundError(f"{path}: no such reference file")
    arrays, key = {}, None
    try:
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as archive:
            for key in archive.files:
                arrays[key] = archive[key]
    except (zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise FormatError(f"{path}: not a readable .npz archive ({error})") from error
    except ValueError as error:  # such as an array of objects
        raise CheckError(f"{path}: reference key {key}: need an array of numbers "
                         f"({error})") from error
    return arrays


def _pair(between):
    from ..errors import UsageError
    parts = between.split(",")
    if len(parts) != 2:
        raise UsageError(f"--between {between!r}: need two devices, such as cpu,cuda")
    return parts


def _finite(value):
    """JSON has no word for NaN and infinity: null, in a row that is never ok."""
    return value if math.isfinite(value) else None


def _lines(rows):
    for row in rows:
        mark = "ok " if row["ok"] else "BAD"
        yield f"{mark} {row['value']:<10.3g} limit {row['limit']:<8.3g} {row['name']}"
    yield f"{sum(row['ok'] for row in rows)} of {len(rows)} checks hold"
