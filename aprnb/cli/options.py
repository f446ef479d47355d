"""Options and words that several verbs share, so that they read the same everywhere."""
import click

JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
FORCE = click.option("--force", is_flag=True,
                     help="Replace an older output of this verb  [default: refuse].")
DEVICE = click.option("--device", default="auto", show_default=True, metavar="NAME",
                      help="auto, cpu, cuda or cuda:N.")


def precision(default="auto"):
    """--precision with the default that suits a verb."""
    return click.option("--precision", default=default, show_default=True,
                        type=click.Choice(["auto", "fp32", "bf16"]),
                        help="Of weights and activations.")


def counted(n, noun):
    """A number with its noun: 1 file, 1,024 files."""
    if n == 1:
        return f"1 {noun}"
    return f"{n:,} {noun[:-1]}ies" if noun.endswith("y") else f"{n:,} {noun}s"
