"""`aprnb tokenize import-tokens`: shards of token ids that other programs wrote."""
import click

from ..words import counted
from .options import FORCE, JSON, MOST_COUNT, MOST_IDS, OUTPUT, NamedPath, report


@click.command("import-tokens", epilog="""\b
Examples:
  aprnb tokenize import-tokens --input train.bin --dtype uint16 --tokenizer tok/ --output shards/
  aprnb tokenize import-tokens --input a.npy --input b.npy --output shards/ --json

\b
Exit codes: 0 success; 2 usage, or no --dtype; 3 file or tokenizer not found; 4 not a tokenizer;
5 output exists, or a number that is no id; 7 I/O.""")
@click.option("--input", "files", multiple=True, required=True, metavar="FILE", type=NamedPath(),
              help="A .npy, or a headerless file of numbers; each becomes a shard; repeat it for "
                   "more.")
@click.option("--dtype", metavar="TYPE",
              help="Of a headerless file: uint8 to uint64, int16 to int64, float32 or float64; "
                   "with -be behind it for big-endian  [default: what a .npy says]")
@click.option("--header-bytes", default=0, show_default=True, metavar="N",
              type=click.IntRange(0, MOST_COUNT),
              help="Bytes to leave out in front; llm.c writes 1024.")
@click.option("--tokenizer", "tokenizer_path", metavar="DIR-or-FILE", type=NamedPath(),
              help="That made the ids: it bounds them and goes beside the shards.")
@click.option("--vocab-size", type=click.IntRange(1, MOST_IDS), metavar="N",
              help="Ids must be below it  [default: that of the tokenizer].")
@OUTPUT
@FORCE
@JSON
def import_tokens(files, dtype, header_bytes, tokenizer_path, vocab_size, output, force, as_json):
    """Make shards of token ids that other programs wrote, of any width and byte order."""
    from ..data.import_tokens import import_tokens as convert
    from ..data.tokenizer import load_tokenizer
    tokenizer = load_tokenizer(tokenizer_path) if tokenizer_path else None
    manifest = convert(files, output, dtype, header_bytes, tokenizer, vocab_size, force)
    summary = {"schema": "aprnb-import-tokens-v1", "output": str(output), "manifest": manifest}
    report(summary, as_json, f"{output}: {counted(manifest['total_tokens'], 'token')} in "
                             f"{counted(manifest['shard_count'], 'shard')}; look at them with "
                             f"`aprnb tokenize audit {output}`")
