"""Token ids of any number type -> shards: .npy, and headerless files of other width or byte order.

nanoGPT writes 16-bit ids, llm.c the same behind 1,024 bytes of header, NumPy 64-bit ones in a .npy,
some write floats. A file becomes a shard; ids are checked before anything is kept.
"""
from pathlib import Path

import numpy as np

from ..errors import CheckError, NotFoundError, UsageError
from ..formats.atomic import replace_folder, write_json
from .maps import DTYPE
from .shards import BLOCK_TOKENS, MANIFEST, OURS, SCHEMA, ShardWriter, totals

DTYPES = {name + end: np.dtype(name).newbyteorder(order)
          for name in ("uint16", "uint32", "uint64", "int16", "int32", "int64", "float32",
                       "float64", "uint8")
          for end, order in (("", "<"), ("-be", ">"))}
"""Number types by name; -be: big-endian, most significant byte first."""
MOST = 1 << 32  # ids


def import_tokens(files, output, dtype=None, header_bytes=0, tokenizer=None, vocab_size=None,
                  force=False):
    """Write the ids of `files` as shards into the new folder `output`; returns the manifest.

    dtype: of the headerless files, one of DTYPES; a .npy names its own. `vocab_size` (default: that
    of the tokenizer) bounds the ids. Nothing is left behind on failure.
    Errors: NotFoundError, UsageError (no dtype), CheckError (no ids, or no whole number of them).
    """
    limit = vocab_size or (tokenizer.size if tokenizer else MOST)
    arrays = [open_array(Path(file), dtype, header_bytes) for file in files]
    with replace_folder(output, OURS, force) as folder:
        writer = ShardWriter(folder, MOST)
        for file, array in zip(files, arrays):
            for start in range(0, len(array), BLOCK_TOKENS):
                writer.add(ids_of(array[start:start + BLOCK_TOKENS], start, file, limit), 0, 0)
            writer.close()
        shards = [entry | {"documents": None, "bytes": None} for entry in writer.shards]
        if tokenizer:
            (folder / "tokenizer.json").write_bytes(tokenizer.text.encode())
        manifest = {"schema": SCHEMA, "dtype": DTYPE.name, **totals(shards),
                    "vocab_size": limit if limit < MOST else None,
                    "eos_token_id": tokenizer.eos_id if tokenizer else None,
                    "tokenizer_digest": tokenizer.digest if tokenizer else None,
                    "input_files": [str(file) for file in files],
                    "input_dtype": [str(array.dtype) for array in arrays], "shards": shards}
        write_json(folder / MANIFEST, manifest)
    return manifest


def open_array(file, dtype, header_bytes):
    """(n,) array of the numbers in a file, mapped."""
    if not file.is_file():
        raise NotFoundError(f"{file}: no such file of token ids")
    with open(file, "rb") as begin:
        if begin.read(6) == b"\x93NUMPY":
            return npy_array(file, dtype)
    if dtype is None:
        raise UsageError(f"{file}: has no header that says what its numbers are; name them with "
                         f"--dtype, one of {', '.join(DTYPES)}")
    if dtype not in DTYPES:
        raise UsageError(f"--dtype {dtype}: need one of {', '.join(DTYPES)}")
    kind, size = DTYPES[dtype], file.stat().st_size - header_bytes
    if size <= 0 or size % kind.itemsize:
        raise CheckError(f"{file}: {size} bytes{' behind the header' * bool(header_bytes)} are no "
                         f"whole number of {dtype} ids; it is cut or of another type")
    return np.memmap(file, kind, "r", header_bytes)


def npy_array(file, dtype):
    """The numbers of a .npy, row after row."""
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise CheckError(f"{file}: not a readable .npy: {error}") from error
    if array.dtype.kind not in "uif" or not array.size or not array.flags.c_contiguous:
        raise CheckError(f"{file}: a .npy of {array.dtype} {array.shape}, need token ids: numbers, "
                         "row after row, at least one")
    if dtype and DTYPES.get(dtype) != array.dtype:
        raise UsageError(f"{file}: --dtype {dtype}, but its header says {array.dtype}; leave "
                         "--dtype out for a .npy")
    return array.reshape(-1)


def ids_of(block, start, file, limit):
    """(n,) u32 of a block of numbers. CheckError names the first that is no id."""
    with np.errstate(invalid="ignore"):
        good = (block >= 0) & (block < limit)
        if block.dtype.kind == "f":
            good &= block == np.floor(block)
    if not good.all():
        i = int(np.argmin(good))
        raise CheckError(f"{file}: number {start + i} is {block[i]}, need a token id from 0 to "
                         f"{limit - 1}; another --dtype, or ids of another vocabulary")
    return block.astype(DTYPE)
