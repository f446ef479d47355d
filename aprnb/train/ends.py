"""How a run comes to its end: interrupted, out of patience, diverged, not finite, or complete.

Each function takes the Loop, saves what such an end saves, and raises the Stop whose message says
what ended the run and how it goes on.
"""
import os
from dataclasses import asdict

from ..errors import CheckError, Interrupted, NonFiniteError
from ..words import counted
from . import gates
from .outcome import Stop

SKIPS_IN_A_ROW = 3  # non-finite steps after which a run stops although it may skip


# ---------------------------------------------------------------- asked for

def stop_if_asked(loop):
    """After Ctrl-C or another signal: save, then stop between two steps."""
    if loop.interrupt.requested:
        interrupt(loop)


def interrupt(loop, where=""):
    """Save a state and stop with exit code 130."""
    loop.save_state()
    steps = counted(loop.settings.num_steps, "step")
    raise Stop("INTERRUPTED", f"by {loop.interrupt.requested}{where} after {loop.position.step} of "
               f"{steps}; go on with --resume", Interrupted.exit_code)


# ---------------------------------------------------------------- not finite

def stop_after_bad_steps(loop):
    """Stop with exit code 8 if no more are allowed."""
    at = loop.position
    allowed = 1 if loop.settings.on_nonfinite == "stop" else SKIPS_IN_A_ROW
    if at.skipped_in_a_row < allowed:  # more than allowed, in a run that was resumed
        return
    many = f"{at.skipped_in_a_row} steps in a row up to " if at.skipped_in_a_row > 1 else ""
    why = [g.message for g in loop.gates.values() if g.id == "GATE-TRAIN-007" and not g.ok]
    abort_nonfinite(loop, ": ".join([f"{many}step {at.step - 1}", *why[:1]]))


def abort_nonfinite(loop, detail, when=""):
    """Stop with exit code 8, with a state to look at if the weights can still be written.

    It lies beside the good ones: a resume goes on from the newest of those.
    """
    step = loop.position.step
    state, path = loop.folder.state_file(step), loop.folder.aborted_file(step)
    try:
        if loop.saved == asdict(loop.position) and state.exists():
            loop.durably(os.replace, state, path)  # an evaluation found it bad
        else:
            loop.write_state(path)
        detail = f"{detail}; its state is {loop.folder.here(path)}"
    except NonFiniteError as error:  # the weights themselves are bad
        detail = f"{detail}; {error}"
    loop.durably(loop.folder.prune_aborted)
    good = loop.folder.newest_state()
    if loop.checkpoint and not loop.checkpoint.exists():
        loop.checkpoint = good
    then = (f"--resume goes on from {good.name}" if good else
            "there is no state before it, so --resume goes on from there" if path.exists() else
            "nothing was saved; start again with --force")
    raise Stop("ABORTED", f"NON-FINITE{when}: {detail}; {then}; try a lower --lr or "
               "--precision fp32, each with --override", NonFiniteError.exit_code)


# ---------------------------------------------------------------- judged by its validation loss

def stop_if_diverged(loop):
    """Gate 005, before the epoch's checkpoint is written."""
    at = loop.position
    if not loop.judge(gates.divergence(at.val_history_nats, loop.settings.max_epoch0_loss)):
        raise Stop("ABORTED", f"DIVERGENCE at epoch {at.epoch}: "
                   f"{loop.gates['GATE-TRAIN-005', 'val_loss_nats'].message}",
                   CheckError.exit_code)


def stop_without_patience(loop):
    """Gate 004 at the end of an epoch, where the newest loss was measured."""
    at = loop.position
    if not at.val_history_nats or at.step != at.epoch_start:
        return
    gate = gates.patience(at.val_history_nats, loop.settings.patience)
    if not loop.judge(gate):
        raise _judged_target(loop, "EARLY_STOP", f"{gate.message}; --resume goes on with a "
                             "larger --patience")


def complete(loop):
    """The end of a run that did all its steps."""
    raise _judged_target(loop, "COMPLETED", counted(loop.position.step, "step"))


def _judged_target(loop, status, detail):
    """Stop with `status`, or what --target-val-loss makes of it (gate 003).

    Reached: COMPLETED becomes CONVERGED; missed: the status stays, the exit code is 5.
    """
    wanted = loop.settings.target_val_loss
    if wanted is None:
        return Stop(status, f"{detail}; no target was given")
    gate = gates.target(loop.position.val_history_nats[-1], wanted)
    if not loop.judge(gate):
        return Stop(status, f"{detail}; {gate.message}", CheckError.exit_code)
    return Stop("CONVERGED" if status == "COMPLETED" else status, f"{detail}; {gate.message}")
