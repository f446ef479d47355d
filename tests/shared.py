"""Where tests find data: small copies beside them, and the big shared folder when it is there."""
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"
GOLDEN = DATA / "golden"
SHARED = Path(__file__).parents[2] / "shared"


def shared(*parts):
    """A path below the shared folder; skips the test, with the reason, where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is not here; this test needs the real data beside the checkout")
    return path
