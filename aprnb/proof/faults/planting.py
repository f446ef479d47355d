"""A copy of the checkout in which faults are planted, one after the other, and taken out again."""
import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from ...errors import CheckError

# what a plant may change, and what must find it; the rest is linked. Tools too: a linked one would
# import the package beside the place that it is linked to
COPIED = ("aprnb", "tests", "tools")


class Workshop:
    """Context manager of a temporary copy of the checkout, at `.root`.

    A sibling folder `shared` of the checkout is linked beside the copy, where tests look for it.
    """

    def __init__(self, checkout):
        self._checkout = Path(checkout)

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="aprnb-faults-")
        self.root = Path(self._folder.name).resolve() / self._checkout.name
        self.root.mkdir()
        for entry in self._checkout.iterdir():
            if entry.name in COPIED:
                shutil.copytree(entry, self.root / entry.name,
                                ignore=shutil.ignore_patterns("__pycache__"))
            elif not entry.name.startswith("."):
                os.symlink(entry, self.root / entry.name)
        shared = self._checkout.parent / "shared"
        if shared.is_dir():
            os.symlink(shared, self.root.parent / "shared")
        return self

    def __exit__(self, *exception):
        self._folder.cleanup()

    @contextlib.contextmanager
    def planted(self, plants):
        """While it lasts, the copy has the fault. Errors: CheckError where a text to be replaced
        is not found exactly once: then the code has moved on, and the plant must follow."""
        before = {}
        try:
            for plant in plants:
                path = self.root / plant.file
                text = path.read_text() if path.is_file() else ""
                planted = _replaced(plant, text)
                before.setdefault(path, text)
                path.write_text(planted)
            yield
        finally:
            for path, text in before.items():
                path.write_text(text)


def _replaced(plant, text):
    if not text:
        raise CheckError(f"{plant.file}: a fault is to be planted there and there is no such file")
    found = text.count(plant.old)
    if found != 1:
        raise CheckError(f"{plant.file}: a fault is to be planted at {plant.old!r}, which stands "
                         f"there {found} times, not once; follow the code with the plant")
    return text.replace(plant.old, plant.new)
