"""The folder of a run: which files it holds, how they are made, replaced and pruned.

    config.json                  every setting with where its value came from
    metrics.jsonl, events.jsonl  grow with every step, see metrics.py
    ckpt/epoch-NNN.apr           a model at the end of an epoch, with epoch-NNN.metadata.json
    ckpt/state-NNNNNN.apr        a model with all that training needs to go on after that step
    loss.svg, summary.json       the picture, and the final report

Files of other names are never touched, also not by --force.
"""
import json
import re
import shutil
from pathlib import Path

from ..errors import CheckError, NotFoundError
from ..formats.atomic import write_json
from .metrics import JsonLines

OURS = ("config.json", "metrics.jsonl", "events.jsonl", "loss.svg", "summary.json")
OURS_IN_CKPT = re.compile(r"(epoch|state)-\d+(\.apr|\.metadata\.json)")
LEFTOVER = re.compile(r"\..+\.tmp")  # of a process that was killed while it wrote
STATES_KEPT = 2  # without --keep: one to go on from, and the one before


class RunFolder:
    """Paths and files of one run."""

    def __init__(self, path):
        self.path = Path(path)
        self.ckpt = self.path / "ckpt"
        self.config = self.path / "config.json"
        self.summary = self.path / "summary.json"
        self.svg = self.path / "loss.svg"

    # ------------------------------------------------------------ starting

    def refuse_existing(self, force):
        """CheckError if something is there that is not ours to replace."""
        if self.path.exists() and not self.path.is_dir():
            raise CheckError(f"{self.path}: is a file; choose another --run-dir")
        if self.path.is_dir() and any(self.path.iterdir()) and not force:
            raise CheckError(f"{self.path}: exists already; go on with --resume, replace it with "
                             "--force, or choose another --run-dir")

    def begin(self, config):
        """Make the folder with its config.json; files of an earlier run go away first."""
        made = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.ckpt.mkdir(parents=True, exist_ok=True)
            for file in self._earlier():
                file.unlink()
            write_json(self.config, config)
        except BaseException:  # Ctrl-C too: a run that never began leaves no folder
            if made:
                shutil.rmtree(made[-1], ignore_errors=True)
            raise

    def _earlier(self):
        yield from (f for f in self.path.iterdir() if f.name in OURS)
        yield from (f for f in self.ckpt.iterdir()
                    if OURS_IN_CKPT.fullmatch(f.name) or LEFTOVER.fullmatch(f.name))

    def read_config(self):
        """The config.json of the run to resume. Errors: NotFoundError, CheckError."""
        if not self.config.is_file():
            raise NotFoundError(f"{self.config}: no such file; there is no run to resume in "
                                f"{self.path}")
        try:
            return json.loads(self.config.read_bytes())
        except ValueError as error:
            raise CheckError(f"{self.config}: not valid JSON: {error}") from error

    def go_on(self, config):
        """Prepare for the rest of a resumed run: what no longer holds goes away."""
        self.summary.unlink(missing_ok=True)
        for file in list(self.ckpt.iterdir()):
            if LEFTOVER.fullmatch(file.name):
                file.unlink()
        write_json(self.config, config)

    def logs(self, metrics_bytes=0):
        """(metrics, events): records are cut to those of the resumed step, events are kept."""
        return (JsonLines(self.path / "metrics.jsonl", metrics_bytes),
                JsonLines(self.path / "events.jsonl"))

    # ------------------------------------------------------------ checkpoints

    def epoch_file(self, epoch):
        return self.ckpt / f"epoch-{epoch:03d}.apr"

    def epoch_metadata(self, epoch):
        return self.ckpt / f"epoch-{epoch:03d}.metadata.json"

    def state_file(self, step):
        return self.ckpt / f"state-{step:06d}.apr"

    def newest_state(self):
        """The newest saved state. Errors: CheckError if there is none."""
        states = self._numbered("state-*.apr")
        if not states:
            raise CheckError(f"{self.ckpt}: holds no state-*.apr, the run ended before its first "
                             "checkpoint; start it again with --force")
        return states[-1]

    def prune(self, keep):
        """Remove all but the newest: `keep` epochs (None: all) and `keep` states (None: 2)."""
        for file in self._numbered("epoch-*.apr")[:-keep if keep else 0]:
            file.unlink()
            file.with_suffix(".metadata.json").unlink(missing_ok=True)
        for file in self._numbered("state-*.apr")[:-(keep or STATES_KEPT)]:
            file.unlink()

    def _numbered(self, pattern):
        """Files in the order of the number in their names."""
        files = [f for f in self.ckpt.glob(pattern) if OURS_IN_CKPT.fullmatch(f.name)]
        return sorted(files, key=lambda f: int(re.search(r"\d+", f.name)[0]))
