"""--resume STATE: what a run has of later steps is set aside, as a run of its own.

A run that goes on from an earlier state writes its steps anew. What it had of them goes to
set-aside-NNN/ in the run folder, with copies of the configuration and of all records, so that
nothing is lost and `--run-dir RUN/set-aside-NNN --resume` goes on there. The newest states go
first: a process that ends in the middle leaves a run that resumes from what is left.
"""
import os
import shutil

from ..errors import FormatError
from ..formats.model_file import open_model
from .run_folder import number


def later_files(folder, state, position):
    """Files in ckpt/ of steps after a state, newest first, with the metadata of the epochs.

    state: its path;  position: Position that it holds.
    """
    states = [f for f in folder.numbered("state-*.apr")
              if number(f) > position.step or number(f) == position.step and f != state]
    epochs = [f for f in folder.numbered("epoch-*.apr") if number(f) >= position.epoch]
    beside = [folder.epoch_metadata(number(f)) for f in epochs]
    return states[::-1] + epochs[::-1] + [f for f in beside if f.exists()]


def set_aside(folder, files):
    """Move files of ckpt/ into a new set-aside-NNN/, beside copies of the rest of the run.

    Returns that folder. Errors: OSError, with every file in one of the two places.
    """
    n = 1
    while (folder.path / f"set-aside-{n:03d}").exists():
        n += 1
    place = folder.path / f"set-aside-{n:03d}"
    (place / "ckpt").mkdir(parents=True)
    for file in (folder.config, folder.metrics, folder.events):
        if file.exists():
            shutil.copyfile(file, place / file.name)
    for file in files:
        os.rename(file, place / "ckpt" / file.name)
    return place


def way_on(place):
    """How a run that was set aside goes on, in words; "" if it has no sound state."""
    states = sorted((place / "ckpt").glob("state-*.apr"), key=number, reverse=True)
    for state in states:
        try:
            open_model(state).source.close()
        except FormatError:
            continue
        which = "" if state == states[0] else f" {state.name} ({states[0].name} is damaged)"
        return f"; they go on with --run-dir {place} --resume{which}"
    return f"; {states[0].name} is damaged" if states else ""
