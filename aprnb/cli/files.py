"""Verbs on model files: import, export, inspect, tensor-stats, validate, diff."""
import json
import re

import click

from ..errors import CheckError, FormatError
from .options import FORCE, JSON

DTYPES = click.Choice(["keep", "F32", "F16", "BF16"], case_sensitive=False)


class Size(click.ParamType):
    """Bytes, with an optional unit: 5GB, 512MiB, 1000000."""

    name = "size"

    def convert(self, value, param, ctx):
        """Bytes as an integer."""
        match = re.fullmatch(r"(\d+)\s*([KMG]?)(i?)B?", str(value), re.IGNORECASE)
        if not match or not int(match[1]):
            self.fail(f"{value!r} is no size; write 5GB, 512MiB or a number of bytes", param, ctx)
        power = " KMG".index(match[2].upper() or " ")
        return int(match[1]) * (1024 if match[3] else 1000) ** power


def _print(report, as_json, lines):
    """One JSON document, or lines for people."""
    for line in [json.dumps(report, allow_nan=False)] if as_json else lines:
        click.echo(line)


def _warn(report, as_json):
    """What a user must not miss, on stderr; with --json it stands in the document."""
    for line in [] if as_json else report["warnings"]:
        click.echo(f"warning: {line}", err=True)


@click.command("import", epilog="""\b
Examples:
  aprnb import Qwen2.5-0.5B -o qwen.apr
  aprnb import weights/model.safetensors -o m.apr --tokenizer tokenizer.json
  aprnb import compiled/ -o m.apr --strip-prefix _orig_mod.
\b
Exit codes: 0 imported; 2 usage; 3 source missing; 4 source damaged; 5 output exists;
6 configuration, tensors or tokenizer do not fit; 7 disk full or not writable.""")
@click.argument("source")
@click.option("-o", "--output", required=True, metavar="MODEL.apr", help="File to write.")
@click.option("--tokenizer", metavar="FILE",
              help="tokenizer.json to embed, or a folder with one or with vocab.json and "
                   "merges.txt (default: the one beside the weights, if any).")
@click.option("--strip-prefix", default="", metavar="PREFIX",
              help="Taken off the names of tensors that begin with it, as module. or _orig_mod.")
@FORCE
@JSON
def import_(source, output, tokenizer, strip_prefix, force, as_json):
    """Turn a Hugging Face folder, or one .safetensors beside its config.json, into an .apr file.

    Payload bytes and dtypes stay those of the source.
    """
    from ..formats.convert import import_model
    report = import_model(source, output, tokenizer, force, strip_prefix)
    _warn(report, as_json)
    words = report["tokenizer"]
    _print(report, as_json, [
        f"{report['output']}: {report['tensors']} tensors, {report['bytes']:,} bytes, "
        + ", ".join(f"{n} {dtype}" for dtype, n in report["dtypes"].items()),
        f"tokenizer: {words['tokens']} tokens, {words['merges']} merges" if words
        else "tokenizer: none", *(f"note: {n}" for n in report["notes"])])


@click.command("export", epilog="""\b
Examples:
  aprnb export qwen.apr -o qwen-folder
  aprnb export run/ckpt/epoch-003.apr -o folder --dtype BF16 --shard-size 2GB
\b
Exit codes: 0 exported; 2 usage; 3 model missing; 4 model damaged; 5 output exists, or holds
foreign files; 6 no hyper-parameters in the model; 7 disk full; 8 value beyond the dtype.""")
@click.argument("model")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder to write.")
@click.option("--dtype", type=DTYPES, default="keep", show_default=True,
              help="Storage type of the weights; others than keep round to nearest even.")
@click.option("--shard-size", type=Size(), metavar="BYTES",
              help="Most bytes of weights in a file, as in 5GB "
                   "(default: the files of the model's source, else 5GB).")
@FORCE
@JSON
def export(model, output, dtype, shard_size, force, as_json):
    """Turn a model into a folder that transformers loads."""
    from ..formats.convert import export_model
    report = export_model(model, output, dtype, shard_size, force)
    _warn(report, as_json)
    _print(report, as_json, [
        f"{report['output']}: {report['tensors']} tensors, {report['bytes']:,} bytes in "
        f"{len(report['files'])} files: {', '.join(report['files'])}",
        *(f"note: {n}" for n in report["notes"])])


@click.command(epilog="""\b
Examples:
  aprnb inspect qwen.apr
  aprnb inspect Qwen2.5-0.5B --json
\b
Exit codes: 0; 2 usage; 3 not found; 4 not a valid model file.""")
@click.argument("model")
@JSON
def inspect(model, as_json):
    """Show header, flags, checksums, metadata and tensor table of a model; reads headers only."""
    from ..formats.inspect import inspect_model
    report = inspect_model(model)
    lines = [f"{report['model']}: {report['format']}, {len(report['tensors'])} tensors, "
             f"{report['parameters']:,} parameters"]
    for part in ("header", "flags", "checksums", "files", "config", "metadata", "warnings"):
        value = report.get(part)
        if isinstance(value, dict):
            lines += [f"{part}:", *(f"  {k}: {json.dumps(v, ensure_ascii=False)}"
                                    for k, v in value.items())]
        elif value:
            lines.append(f"{part}: {', '.join(value)}")
    lines += [f"  {t['name']:<52} {t['dtype']:<6} {str(t['shape']):<18} {t['bytes']:>14,} bytes "
              f"at {t['offset']:,}" for t in report["tensors"]]
    _print(report, as_json, lines)


@click.command("tensor-stats", epilog="""\b
Examples:
  aprnb tensor-stats qwen.apr --filter '*norm*'
  aprnb tensor-stats qwen.apr --against Qwen2.5-0.5B --json
\b
Exit codes: 0 (flags never change it); 2 usage; 3 not found; 4 not a valid model file;
5 with --against: a tensor differs, is missing or extra.""")
@click.argument("model")
@click.option("--filter", "pattern", default="*", show_default=True, metavar="GLOB",
              help="Names of the tensors to look at.")
@click.option("--first", default=5, show_default=True, type=click.IntRange(0), metavar="N",
              help="Leading values to list.")
@click.option("--against", metavar="SOURCE", help="Model whose bytes have to be equal.")
@JSON
def tensor_stats(model, pattern, first, against, as_json):
    """Moments, digests and plausibility of every tensor, and byte comparison with a source."""
    from ..formats.stats import tensor_stats as stats
    report = stats(model, pattern, first, against)
    _print(report, as_json, _stats_lines(report))
    compared = report["against"]
    if compared and not compared["clean"]:
        raise CheckError(f"{model}: {len(compared['mismatched'])} tensors differ from {against}, "
                         f"{len(compared['missing'])} are missing, {len(compared['extra'])} extra; "
                         "import the model again")


def _stats_lines(report):
    """A line a tensor, then what stands out."""
    for r in report["tensors"]:
        figures = "  ".join(f"{k} {'-' if r[k] is None else format(r[k], '.4g')}"
                            for k in ("mean", "std", "min", "max"))
        match = {True: "  = source", False: "  DIFFERS"}.get(r.get("matches"), "")
        flags = f"  [{'; '.join(r['flags'])}]" if r["flags"] else ""
        yield f"{r['name']:<52} {r['dtype']:<5} {str(r['shape']):<16} {figures}{match}{flags}"
    if report["suspect"]:
        yield f"suspect: {report['suspect']}"
    compared = report["against"]
    if compared:
        yield from (f"mismatched: {m['name']}: {m['reason']}" for m in compared["mismatched"])
        for kind in ("missing", "extra", "synthesised", "left_out", "passed_over"):
            if compared[kind]:
                yield f"{kind}: {', '.join(compared[kind])}"
        yield f"{compared['matched']} tensors equal {compared['source']}"


@click.command(epilog="""\b
Examples:
  aprnb validate qwen.apr
  aprnb validate run/ckpt/epoch-003.apr --json
\b
Exit codes: 0 valid, perhaps with warnings; 2 usage; 3 not found; 4 the container breaks a rule;
5 the content cannot be right (NaN, shapes against hyper-parameters, bytes against digests).""")
@click.argument("model")
@JSON
def validate(model, as_json):
    """Judge every rule of the container and of the content, one line a finding."""
    from ..formats.validate import validate as judge
    report = judge(model)
    _print(report, as_json, [f"{f['level']}: {f['rule']}: {f['message']}"
                             for f in report["findings"]]
           + [f"{model}: {report['tensors']} tensors, {report['errors']} errors, "
              f"{report['warnings']} warnings"])
    if not report["ok"]:
        error = FormatError if report["exit_code"] == FormatError.exit_code else CheckError
        first = next(f for f in report["findings"] if f["level"] == "error")
        raise error(f"{model}: not valid: {first['message']}")


@click.command(epilog="""\b
Examples:
  aprnb diff before.apr after.apr
  aprnb diff model.apr source-folder --json
\b
Exit codes: 0 compared, whatever the result; 2 usage; 3 not found; 4 not a valid model file.""")
@click.argument("a")
@click.argument("b")
@JSON
def diff(a, b, as_json):
    """Compare metadata and tensors of two models: names, dtypes, shapes, values."""
    from ..formats.diff import diff_models
    report = diff_models(a, b)
    lines = []
    for part in ("metadata", "tensors"):
        lines += [f"{part}: only in {model}: {', '.join(report[part][key])}"
                  for key, model in (("only_in_a", a), ("only_in_b", b)) if report[part][key]]
    lines += [f"metadata: {d['key']}: {str(d['a'])[:60]} | {str(d['b'])[:60]}"
              for d in report["metadata"]["different"]]
    lines += [f"{t['name']}: {', '.join(t['differs'])} differ: {t['dtype'][0]} {t['shape'][0]} | "
              f"{t['dtype'][1]} {t['shape'][1]}, cosine {t['cosine']}, max error {t['max_error']}"
              for t in report["tensors"]["different"]]
    lines.append(f"{report['tensors']['equal']} tensors equal, "
                 f"{len(report['tensors']['different'])} different")
    _print(report, as_json, lines)
