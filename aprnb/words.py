"""Numbers in messages."""


def counted(n, noun):
    """A number with its noun: 1 file, 1,024 files."""
    if n == 1:
        return f"1 {noun}"
    return f"{n:,} {noun[:-1]}ies" if noun.endswith("y") else f"{n:,} {noun}s"
