"""aprnb bisect: two forward passes of one model differ; where first, and by which mistake?"""
import json
import math

import click

from .options import DEVICE, JSON, precision

EPILOG = """\b
Examples:
  aprnb bisect model.apr --reference reference.npz
  aprnb bisect model.apr --between cpu,cuda:bf16 --tokens 128 --json

\b
Exit codes: 0 every stage agrees; 2 usage; 3 file not found; 4 not a model file; 5 a stage departs
(the message says which, and the likely fault); 6 model does not fit; 14 no usable GPU."""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.option("--reference", metavar="FILE.npz",
              help="Stages written by another framework (tools/make_reference.py --stages), or "
                   "the samples that parity reads; every key is optional.")
@click.option("--between", metavar="A,B",
              help="Two backends, each cpu, cuda or cuda:N with :fp32 or :bf16 behind it if not "
                   "fp32; random tokens.")
@click.option("--tokens", type=click.IntRange(32, 1024), metavar="N",
              help="Positions of each of the three sequences of --between; a reference brings its "
                   "own  [default: 77].")
@DEVICE
@precision("fp32")
@JSON
def bisect(model, reference, between, tokens, device, precision, as_json):
    """Say where two forward passes of MODEL part first, and which known mistake explains it.

    Compares the tensors with the file's, then embedding, norms, q, k, v before and after bias and
    RoPE, attention, residual stream, MLP, head and losses. --device and --precision are those of
    the side that is held against a reference.
    """
    from ..errors import CheckError
    from ..formats.model_file import open_model
    from ..proof.bisect.walk import bisect_between, bisect_reference
    open_sides = _sides(reference, between, tokens, device, precision)
    with open_model(model) as source:
        if between:
            report = bisect_between(source, *open_sides(), tokens or 77)
        else:
            from .parity import read_reference
            report = bisect_reference(source, *open_sides(), read_reference(reference))
    click.echo(json.dumps(as_dict(model, report), indent=1, allow_nan=False) if as_json
               else "\n".join(lines(report)))
    if report.sentence:
        raise CheckError(f"bisect: {report.sentence}")


def _sides(reference, between, tokens, device, precision):
    """() -> the backends that the options name. Errors: UsageError."""
    from ..backend import open_backend
    from ..errors import UsageError
    if (reference is None) == (between is None):
        raise UsageError("bisect: give either --reference FILE.npz or --between A,B")
    if reference and tokens:
        raise UsageError("bisect: --tokens goes with --between; a reference brings its own tokens")
    if reference:
        return lambda: (open_backend(device, precision),)
    names = between.split(",")
    if len(names) != 2:
        raise UsageError(f"--between {between!r}: need two backends, such as cpu,cuda:bf16")
    return lambda: tuple(open_backend(*_split(name)) for name in names)


def _split(name):
    """("cuda:0", "bf16") of cuda:0:bf16; fp32 where no precision is named."""
    from ..dtypes import PRECISIONS
    device, _, last = name.rpartition(":")
    return (device, last) if last in PRECISIONS else (name, "fp32")


def lines(report):
    """The report for people."""
    sequences, positions = report.tokens
    yield f"{report.sides[0]} against {report.sides[1]}, {sequences} x {positions} tokens"
    good = report.tensors - len({difference.name for difference in report.differences})
    yield f"{good} of {report.tensors} tensors are what the file says"
    for difference in report.differences:
        yield f"BAD {difference.sentence}"
    for row in report.rows:
        mark = "ok " if row.ok else "BAD"
        yield (f"{mark} {row.departure:<8.1e} limit {row.limit:<8.1e} cosine {row.cosine:.7f}  "
               f"{row.stage.name}")
    yield f"{sum(row.ok for row in report.rows)} of {len(report.rows)} stages agree"


def as_dict(model, report):
    """The report as one JSON document."""
    finding = report.finding
    return {"schema": "aprnb-bisect-v1", "model": model, "sides": list(report.sides),
            "sequences": report.tokens[0], "positions": report.tokens[1],
            "ok": report.sentence is None, "sentence": report.sentence,
            "first_departure": first_departure(report),
            "upload": {"tensors": report.tensors,
                       "differing": [vars(d) for d in report.differences]},
            "stages": [{"name": row.stage.name, "path": row.stage.path, "against": row.against,
                        "cosine": finite(row.cosine), "largest": finite(row.largest),
                        "error": finite(row.departure), "limit": row.limit, "ok": row.ok}
                       for row in report.rows],
            "hypothesis": finding and {"name": finding.hypothesis, "words": finding.words,
                                       "side": finding.side, "error": finite(finding.error)},
            "tried": [{"name": name, "words": words, "error": finite(error)}
                      for name, words, error in (finding.tried if finding else ())]}


def first_departure(report):
    """Name of the tensor, or of the stage, at which the sides part; None if they do not."""
    if report.differences:
        return f"upload of {report.differences[0].name}"
    return report.finding.stages[0].name if report.finding else None


def finite(value):
    """JSON has no word for NaN and infinity: null."""
    return value if value is not None and math.isfinite(value) else None
