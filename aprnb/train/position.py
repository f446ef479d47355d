"""Where a run is: what every saved state holds beside weights, moments and the stream of data."""
from dataclasses import dataclass, field

from ..words import counted


@dataclass
class Position:
    """Where a run is; JSON-able, saved with every state."""

    step: int = 0
    """Batches consumed."""
    recorded: int = 0
    """Records in metrics.jsonl."""
    skipped_in_a_row: int = 0
    epoch: int = 0
    epoch_start: int = 0
    """Step at which this epoch began."""
    tokens_seen: int = 0
    initial_val_nats: float | None = None
    """Validation loss before step 0; None in runs that began without one."""
    val_history_nats: list[float] = field(default_factory=list)
    val_steps: list[int] = field(default_factory=list)
    """Steps after which the validation losses were measured."""
    loss_sum_nats: float = 0.0
    """Over the recorded steps of this epoch."""
    recorded_in_epoch: int = 0
    grad_norm_max: float = 0.0
    wall_seconds: float = 0.0
    """Of this epoch, without evaluation and checkpoints."""


def at_stake(position, saved, folder):
    """What a stop at once would lose, in words.

    saved: the position of the newest state as a dict, None without one;  folder: RunFolder.
    """
    if saved is None:
        return f"{counted(position.step, 'step')}, all of the run: no state was saved yet"
    steps = position.step - saved["step"]
    lost = counted(steps, "step") if steps else "nothing"
    return f"{lost}; --resume goes on from {folder.state_file(saved['step']).name}"
