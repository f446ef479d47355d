"""How a run comes to its end."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    status: str
    """COMPLETED, CONVERGED, EARLY_STOP, ABORTED or INTERRUPTED."""
    detail: str
    exit_code: int = 0


class Stop(Exception):
    """Carries an Outcome out of the loop; never seen outside of it."""

    def __init__(self, status, detail, exit_code=0):
        self.outcome = Outcome(status, detail, exit_code)
