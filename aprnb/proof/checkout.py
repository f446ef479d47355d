"""Where contracts and tests stand: the checkout that this package runs from."""
from pathlib import Path

from ..errors import NotFoundError


def checkout():
    """The folder that holds aprnb/, tests/ and contracts/. Errors: NotFoundError outside one."""
    root = Path(__file__).resolve().parents[2]
    missing = [name for name in ("tests", "contracts") if not (root / name).is_dir()]
    if missing:
        raise NotFoundError(f"{root}: no {'/ and '.join(missing)}/ beside the package; contracts "
                            "need a checkout of the repository: install it with `pip install -e .`")
    return root
