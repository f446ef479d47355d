"""Options and words that several verbs share, so that they read the same everywhere."""
import json
from pathlib import Path

import click

MOST_IDS = 1 << 32  # what a shard's unsigned 32-bit numbers can tell apart
MOST_COUNT = 10 ** 15  # of anything that is counted in a corpus


class NamedPath(click.Path):
    """A path that is not empty: '' would silently mean the current folder."""

    def __init__(self):
        super().__init__(path_type=Path)

    def convert(self, value, param, ctx):
        return super().convert(value, param, ctx) if value else self.fail(
            "an empty path; write . for the current folder", param, ctx)


JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
FORCE = click.option("--force", is_flag=True,
                     help="Replace an older output of this verb  [default: refuse].")
DEVICE = click.option("--device", default="auto", show_default=True, metavar="NAME",
                      help="auto, cpu, cuda or cuda:N.")


OUTPUT = click.option("--output", required=True, metavar="DIR", type=NamedPath(),
                      help="New folder; appears whole or not at all.")


def precision(default="auto"):
    """--precision with the default that suits a verb."""
    return click.option("--precision", default=default, show_default=True,
                        type=click.Choice(["auto", "fp32", "bf16"]),
                        help="Of weights and activations.")


def report(summary, as_json, line):
    """One JSON document, or one line of the same facts.

    ASCII: names of files that are no UTF-8 have no other spelling.
    """
    print(json.dumps(summary) if as_json else line)
