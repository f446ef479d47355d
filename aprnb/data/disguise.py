"""Files that are not the little-endian 32-bit token ids that their name promises.

Ids of another width or byte order are numbers too, and a loss on them is a number that means
nothing: 64-bit ids read as 32-bit ones, every second of them 0, gave 6.118 nats for 6.415. Nothing
in a headerless file says what it holds, but its numbers do. Each rule below needs evidence that ids
of any vocabulary up to MAX_ID cannot give but for ids made for the purpose; a manifest that names
"dtype": "uint32", as encode-corpus and import-tokens write, ends the question.
"""
import numpy as np

from .maps import ShardError

MAX_ID = 1 << 22  # no vocabulary is larger: above it a file does not hold 32-bit token ids
SAMPLE_TOKENS = 1 << 16  # from the start, the middle and the end of a file
FEWEST = 8  # ids below which nothing is judged
FEWEST_PAIRS = 64  # 16-bit ids are known by how their two halves are spread
FEWEST_FLOATS = 32  # different big-endian ones: the ids 64 to 79 are such floats too
HALVES = 8  # more different upper halves than this need a vocabulary above 524,288
MAGIC = {b"\x93NUMPY": "a NumPy file", b"\x1f\x8b": "a .gz file", b"PK\x03\x04": "a .zip file",
         b"\x28\xb5\x2f\xfd": "a .zst file", b"PAR1": "a Parquet file", b"APR": "an .apr model",
         b"MMIDIDX": "an index of Megatron", b"\x89HDF": "an HDF5 file",
         b"GGUF": "a GGUF model", np.uint32(20240520).tobytes(): "a file of llm.c"}
IMPORT = {"a NumPy file": "", "a file of llm.c": " --dtype uint16 --header-bytes 1024"}
"""Options of import-tokens that read a file of this kind."""


def refuse_disguised(shards, manifest):
    """ShardError naming the first shard that holds something else, and the way to read it."""
    if manifest and manifest.get("dtype") == "uint32":
        return
    for shard in shards:
        what = disguise(shard)
        if what:
            raise ShardError(f"{shard.file}: {what}")


def disguise(shard):
    """What a shard holds in place of 32-bit ids, and what to do, in words; None for ids."""
    head = np.asarray(shard[:SAMPLE_TOKENS])
    data = head.tobytes()
    for magic, kind in MAGIC.items():
        if data.startswith(magic):
            return f"is {kind}, not a headerless file of 32-bit token ids; " + (
                imported(shard.file, IMPORT[kind]) if kind in IMPORT else
                "give the folder of shards that `aprnb tokenize encode-corpus` wrote")
    if len(shard) < FEWEST:
        return None
    dtype = dtype_of(shard)
    if dtype is None:
        return None
    if dtype == "other text":
        return ("holds text in an encoding that is not UTF-8, not token ids; convert it to UTF-8 "
                "and encode it with `aprnb tokenize encode-corpus` (as a .txt file)")
    if dtype == "text":
        return ("holds text, not token ids; encode it with `aprnb tokenize encode-corpus` (as a "
                ".txt file)")
    if dtype == "?":
        return ("holds no token ids: most of its 32-bit numbers are above any vocabulary; encode "
                "the corpus again, or name what it holds with `aprnb tokenize import-tokens "
                "--dtype`")
    if "float16" in dtype:
        order = "-be" * dtype.endswith("-be")
        return (f"holds {dtype} numbers, all of them whole, or uint16{order} token ids, which look "
                "alike: save the first as 32-bit integers where they were made, since "
                f"import-tokens reads no {dtype}; only the second are read by `aprnb tokenize "
                f"import-tokens --input {shard.file} --dtype uint16{order} --output DIR`")
    return (f"holds {dtype} token ids, not little-endian 32-bit ones; "
            + imported(shard.file, f" --dtype {dtype}")
            + ", and --dtype uint32 takes the file as it is, if it is one all the same")


def dtype_of(shard):
    """The type of the numbers of a shard by samples of it, or None for 32-bit ids."""
    samples = samples_of(shard)
    whole = next(filter(None, (floats(head) for head in samples)), None)
    if found := whole or wide(shard, np.concatenate(samples)):
        return found
    return next(filter(None, (
        foreign(head, head.tobytes()) if (head >= MAX_ID).mean() > 0.5 else halves(head)
        for head in samples)), None)


def samples_of(shard):
    """Arrays of SAMPLE_TOKENS numbers from start, middle and end; each begins at an even one."""
    last = max(0, len(shard) - SAMPLE_TOKENS)
    starts = sorted({0, last // 2 // 2 * 2, (last + 1) // 2 * 2})
    return [np.asarray(shard[start:start + SAMPLE_TOKENS]) for start in starts]


def imported(file, options):
    return f"`aprnb tokenize import-tokens --input {file}{options} --output DIR` reads it so"


def wide(shard, head):
    """64-bit ids: every second 32-bit number is 0, or all ones for a negative id."""
    if len(shard) % 2:
        return None
    first, second = head[0::2], head[1::2]
    if first.any() and np.isin(second, (0, 0xFFFFFFFF)).all():
        return "int64" if second.any() else "uint64"
    return "uint64-be" if second.any() and not first.any() else None


def floats(head):
    """Floating-point numbers of which every one is whole, and more than one or a few of them."""
    data = head.tobytes()
    for name, kind in (("float64", "<f8"), ("float32", "<f4"), ("float64-be", ">f8"),
                       ("float32-be", ">f4")):
        numbers = np.frombuffer(data[:len(data) // 8 * 8], kind)
        if is_whole(numbers) and len(np.unique(numbers)) > (FEWEST_FLOATS if kind[0] == ">" else 1):
            return name
    return short_floats(head.view("<u2")) if head.max() >= MAX_ID else None


def foreign(head, data):
    """The type of numbers of which most, read as 32-bit ids, are above any vocabulary."""
    if is_text(data):
        return "text"
    if is_other_text(data):
        return "other text"
    if (head.byteswap() < MAX_ID).all():
        return "uint32-be"
    short = head.view("<u2")
    if are_bytes(short):
        return "uint8"
    tops = {"uint16": int(short.max()), "uint16-be": int(short.byteswap().max())}
    name = min(tops, key=tops.get)
    # bytes of any kind reach 65,535 in both orders, ids stop at their vocabulary
    return name if tops[name] < 0xFF00 else "?"


def halves(head):
    """16-bit ids of a small vocabulary: both halves of the 32-bit numbers are spread alike."""
    low, high = head & 0xFFFF, head >> 16
    if len(np.unique(high)) > HALVES and alike(low, high):
        return "uint8" if are_bytes(head.view("<u2")) else "uint16"
    return None


def are_bytes(short):
    """8-bit ids: both bytes of the 16-bit numbers are spread alike, padding aside."""
    short = short[short > 0]
    return len(short) and short.max() < 0xFA00 and alike(short & 0xFF, short >> 8)


def short_floats(short):
    """16-bit floating-point numbers, of which every one is whole, and more than one of them."""
    for end, bits in (("", short), ("-be", short.byteswap())):
        for name, numbers in (("float16", bits.view("<f2").astype("<f4")),
                              ("bfloat16", (bits.astype("<u4") << 16).view("<f4"))):
            numbers[np.isposinf(numbers)] = 65_536  # what float16 makes of an id above 65,519
            if is_whole(numbers) and len(np.unique(numbers)) > 1:
                return name + end
    return None


def is_whole(numbers):
    """Whether all floating-point numbers are whole ones that an id could be."""
    with np.errstate(invalid="ignore"):
        return bool(((numbers >= 0) & (numbers < 1 << 32) & (numbers == np.floor(numbers))).all())


def alike(low, high):
    """Whether two parts of the same numbers are spread alike, as neighbours in a file are."""
    if len(low) < FEWEST_PAIRS or max(low.max(), high.max()) >= 0xFF00:
        return False
    counts = [np.bincount(part, minlength=1 << 16) / len(part) for part in (low, high)]
    return bool(np.abs(counts[0] - counts[1]).sum() / 2 < 0.5)


def is_text(data):
    """Whether bytes are UTF-8 without control characters; a sample may cut the outer ones."""
    while data and data[0] & 0xC0 == 0x80 and len(data) > 8:
        data = data[1:]
    try:
        text = data[:-4].decode(errors="strict") if len(data) > 8 else data.decode()
    except UnicodeDecodeError as error:
        if error.start < len(data) - 8:
            return False
        text = data[:error.start].decode()
    return all(char.isprintable() or char in "\t\n\r\f" for char in text[:4096])


def is_other_text(data):
    """Whether bytes are words in UTF-16 or, as Latin-1 and its like, a byte a character.

    Words: no control characters, spaces or line ends between them, most letters of ASCII.
    """
    for encoding in ("latin-1", "utf-16-le", "utf-16-be"):
        codes = np.frombuffer(data, {"latin-1": "u1", "utf-16-le": "<u2"}.get(encoding, ">u2"))
        blank = np.isin(codes, (9, 10, 12, 13, 32))
        control = (codes < 32) & ~blank | (codes == 127)
        if not control.any() and 0.02 < blank.mean() < 0.6 and (codes < 127).mean() > 0.75:
            return True
    return False


def signed(token):
    """" (-1 as a signed number)" for a number that is one, else nothing."""
    return f" ({int(np.uint32(token).view(np.int32))} as a signed number)" if token >> 31 else ""


