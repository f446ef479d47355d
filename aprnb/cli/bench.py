"""`aprnb bench`: speed, beside that of strong libraries on the same device in the same run."""
import json
import sys

import click

from .options import JSON, precision

CODES = """
\b
Exit codes: 0 success; 2 usage; 5 --record FILE is no table of benches; 7 I/O; 9 PyTorch is missing;
12 out of device memory; 14 no usable GPU; 130 interrupted (rows measured before are recorded)."""


def epilog(*examples):
    return "\b\nExamples:\n" + "\n".join(f"  aprnb bench {e}" for e in examples) + "\n" + CODES


ROUNDS = click.option("--rounds", default=5, show_default=True, type=click.IntRange(1),
                      help="Turns that every contestant takes, after one to warm up.")
RECORD = click.option("--record", metavar="FILE.csv",
                      help="Put the rows into this table, in place of older ones of the same case.")
COMMIT = click.option("--commit", metavar="NAME",
                      help="Commit that the rows name  [default: that of the git checkout].")
GPU = click.option("--device", default="cuda", show_default=True, metavar="NAME",
                   help="cuda or cuda:N.")
AGAINST = click.option("--against", default="none", show_default=True,
                       type=click.Choice(["none", "torch"]),
                       help="What to compare with, in the same turns; PyTorch must be installed.")
KERNELS = click.option("--kernels", default="auto", show_default=True,
                       type=click.Choice(["auto", "sm_90", "sm_80", "portable"]),
                       help="Which of our kernels; auto: the first of these that the GPU runs.")


def reports(example):
    """Options that every bench has; --cases with an example."""
    cases = click.option("--cases", default="*", show_default=True, metavar="GLOB,...",
                         help=f"Which, such as {example}; what matches nothing lists all names.")

    def add(command):
        for option in (JSON, COMMIT, RECORD, ROUNDS, cases):
            command = option(command)
        return command
    return add


@click.group(epilog=epilog("gemm --against torch --record evidence/bench.csv",
                           "step --cases 4x512 --against torch"))
def bench():
    """Measure products, attention, memory-bound ops and whole training steps."""


@bench.command(short_help="Products of a model's layers in TFLOP/s, beside cuBLAS.",
               epilog=epilog("gemm --against torch --record evidence/bench.csv",
                             "gemm --cases '*/dgrad/2048,cube/*' --kernels sm_80 --json"))
@AGAINST
@KERNELS
@GPU
@reports("'gate_up/*/16384'")
def gemm(against, kernels, device, cases, rounds, **output):
    """bfloat16 products of the Qwen2.5-0.5B layers in TFLOP/s, against cuBLAS, and QuACK if it
    is installed."""
    from ..bench.gemm import measure
    publish("gemm", output, lambda: measure(cases, rounds, against, device, kernels))


@bench.command(short_help="Attention in TFLOP/s, beside cuDNN and flash kernels.",
               epilog=epilog("attention --against torch --record evidence/bench.csv",
                             "attention --cases 'bwd/128/*' --json"))
@AGAINST
@KERNELS
@GPU
@reports("'fwd/64/*'")
def attention(against, kernels, device, cases, rounds, **output):
    """Causal grouped-query attention in TFLOP/s, against SDPA's flash and cuDNN kernels, and
    FlashAttention-4 if it is installed."""
    from ..bench.attention import measure
    publish("attention", output, lambda: measure(cases, rounds, against, device, kernels))


@bench.command(short_help="Memory-bound ops in GB/s, beside a copy.",
               epilog=epilog("memory --record evidence/bench.csv",
                             "memory --cases 'swiglu*,adamw/all' --json"))
@AGAINST
@KERNELS
@GPU
@reports("'swiglu*'")
def memory(against, kernels, device, cases, rounds, **output):
    """Norms, element-wise ops, embedding, loss and AdamW in GB/s, against a copy; with --against
    torch the norms also against QuACK's, if it is installed."""
    from ..bench.memory import measure
    publish("memory", output, lambda: measure(cases, rounds, against, device, kernels))


@bench.command(short_help="Training steps in tokens/s, beside PyTorch.",
               epilog=epilog("step --against torch --record evidence/bench.csv",
                             "step --cases 2x64 --preset tiny --device cpu --json"))
@click.option("--against", default="none", show_default=True,
              type=click.Choice(["none", "torch", "eager"]),
              help="transformers with AdamW and autocast: torch.compile, or eager.")
@click.option("--torch-variant", "variants", default="best", show_default=True,
              metavar="NAME,...", help="How PyTorch runs; of several the fastest is the peer. "
              "Words joined by +, such as flash+step-graph; an unknown one lists them all.")
@click.option("--preset", default="qwen2.5-0.5b", show_default=True, metavar="NAME",
              help="Shape of the model; its weights are random.")
@click.option("--recompute", default="none", show_default=True,
              type=click.Choice(["none", "ffn", "block"]),
              help="What our backward pass computes anew, to save memory.")
@click.option("--residual", default="auto", show_default=True,
              type=click.Choice(["auto", "fp32", "bf16"]),
              help="Precision of our residual stream; auto: as --precision.")
@click.option("--torch-python", default=sys.executable, metavar="FILE",
              help="Interpreter that has torch and transformers  [default: this one].")
@click.option("--device", default="cuda", show_default=True, metavar="NAME",
              help="cpu, cuda or cuda:N; never chosen for you, since rows are named after it.")
@precision()
@reports("8x2048,4x512 (sequences x tokens)")
def step(against, variants, preset, recompute, residual, torch_python, device, precision, cases,
         rounds, **output):
    """Training steps in tokens/s, peak memory and seconds to the first step; --cases also takes
    sizes that are no standard ones."""
    from ..bench.step import measure
    publish("step", output, lambda: measure(cases, rounds, against, device, precision,
                                            residual, preset, recompute, torch_python, variants))


def publish(name, output, measure):
    """Show rows as they are measured and put them on record; with --json one document at the end.

    measure() makes the iterator of rows: after the record was found usable.
    """
    from ..bench.record import PACKAGES, Record
    from ..bench.rows import summary
    from ..provenance import versions
    record = Record(output["record"], output["commit"]) if output["record"] else None
    rows, said = [], set()
    for row in measure():
        rows.append(row)
        click.echo(row.line(), err=output["as_json"])
        for peer, why in sorted(set(row.notes.get("absent", {}).items()) - said):
            click.echo(f"without {peer}: {why}", err=True)
            said.add((peer, why))
        if record:
            record.add(row)
    whole = summary(rows)
    if output["as_json"]:
        click.echo(json.dumps({"schema": "aprnb-bench-v1", "bench": name,
                               "device": rows[0].device, "versions": versions(PACKAGES),
                               "rows": [r.as_json() for r in rows], "summary": whole},
                              allow_nan=False))
    elif whole:
        click.echo(f"geometric mean {whole['geometric_mean']:.3f} over {whole['cases']} cases, "
                   f"lowest {whole['worst']:.3f} ({whole['worst_case']})")
