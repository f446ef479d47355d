"""Absolute paths as a reader elsewhere can use them: where a folder lay on one machine tells them
nothing."""
import re
from pathlib import Path

# two parts or more, without blanks; not what follows a host, as in https://host/a/b
ABSOLUTE = re.compile(r"(?<![\w./])/(?:[\w.+~-]+/)+[\w.+~-]*")


def shown(word, root):
    """A path relative to the checkout at `root`, or its last two parts; a relative one as it is."""
    path = Path(word)
    if not path.is_absolute():
        return word
    if path.is_relative_to(root):
        return str(path.relative_to(root))
    return "/".join(path.parts[1:][-2:])


def shorten(text, root):
    """A text with the absolute paths in it as `shown`."""
    return ABSOLUTE.sub(lambda m: shown(m[0], root), text)


def printable(text):
    """A text for one line of any terminal: what cannot be shown stands as its code, as \\x1b."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def copy_shortened(source, target, root):
    """Copy a file, perhaps onto itself, with the absolute paths in it as `shown`. What holds a zero
    byte is no text and stays as it is."""
    data = Path(source).read_bytes()
    if b"\0" not in data:
        text = data.decode(errors="surrogateescape")
        data = shorten(text, root).encode(errors="surrogateescape")
    Path(target).write_bytes(data)
