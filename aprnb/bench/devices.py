"""Which devices a bench takes. "auto" is none of them: a row is named after what was asked for."""
from ..backend import DEVICE
from ..errors import UsageError

NAMES = {"cpu": "cpu", "cuda": "cuda or cuda:N with N in 0..15"}  # kind -> its names


def require(name, *kinds, why=""):
    """UsageError unless `name` is a device of one of these kinds, "cpu" or "cuda"."""
    if not DEVICE.fullmatch(name) or name.partition(":")[0] not in kinds:
        raise UsageError(f"--device {name}: {why}need {' or '.join(NAMES[kind] for kind in kinds)}")
