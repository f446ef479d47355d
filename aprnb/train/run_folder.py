"""The folder of a run: which files it holds, how they are made, replaced and pruned.

    config.json                  every setting with where its value came from
    metrics.jsonl, events.jsonl  grow with every step, see metrics.py
    ckpt/epoch-NNN.apr           a model at the end of an epoch, with epoch-NNN.metadata.json
    ckpt/state-NNNNNN.apr        a model with all that training needs to go on after that step
    loss.svg, summary.json       the picture, and the final report

Files of other names are never touched, also not by --force, and a folder whose config.json is not
that of a run keeps all of its files. One process at a time holds the folder, by a lock of the
kernel that ends with the process.
"""
import fcntl
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from ..errors import CheckError, NotFoundError
from ..formats.atomic import replace_file, write_json
from .metrics import JsonLines

CONFIG_SCHEMA = "aprnb-pretrain-config-v1"
OURS = ("config.json", "metrics.jsonl", "events.jsonl", "loss.svg", "summary.json")
OURS_IN_CKPT = re.compile(r"(epoch|state)-\d+(\.apr|\.metadata\.json)")
LEFTOVER = re.compile(r"\..+\.tmp")  # of a process that was killed while it wrote
STATES_KEPT = 2  # without --keep: one to go on from, and the one before


class RunFolder:
    """Paths and files of one run; as a context it holds the folder for this process alone."""

    def __init__(self, path):
        self.path = Path(path)
        self.ckpt = self.path / "ckpt"
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.svg = self.path / "loss.svg"
        self.warnings = []
        self._held = None

    # ------------------------------------------------------------ one process at a time

    def __enter__(self):
        if self.path.is_dir():
            self._hold()
        return self

    def __exit__(self, *_):
        if self._held is not None:
            os.close(self._held)

    def _hold(self):
        """Lock the folder itself. Errors: CheckError if another process holds it."""
        self._held = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._held)
            self._held = None
            raise CheckError(f"{self.path}: another pretrain is writing this run; wait for it, or "
                             "choose another --run-dir") from None
        except OSError as error:  # some network file systems lock no folders
            self.warnings.append(f"{self.path} cannot be locked ({error.strerror}): start no "
                                 "second run in it")

    # ------------------------------------------------------------ starting

    def refuse_existing(self, force, inputs=()):
        """CheckError if something is there that is not ours to replace.

        inputs: paths that the run reads; with `force` none may lie in the folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckError(f"{self.path}: is a file; choose another --run-dir")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        if not force:
            raise CheckError(f"{self.path}: {self._occupied()}")
        if not self._is_run() and any(self._earlier()):
            raise CheckError(f"{self.path}: holds {next(self._earlier()).name} but no config.json "
                             "of a run, so --force does not replace it; choose another --run-dir")
        for name in inputs:
            if any(self._contains(way(name)) for way in (os.path.abspath, os.path.realpath)):
                raise CheckError(f"{name}: lies in the run folder {self.path}, which --force would "
                                 "clear before it is used; choose another --run-dir, or copy it")

    def _occupied(self):
        """What is there, and what can be done about it."""
        if not self._is_run():
            return "exists already and is not a run; choose another --run-dir"
        if not self.has_state():
            return ("exists already, its run ended before it saved a state; replace it with "
                    "--force, or choose another --run-dir")
        return ("exists already; go on with --resume, replace it with --force, or choose another "
                "--run-dir")

    def _is_run(self):
        """Whether config.json is one that a run wrote."""
        try:
            config = json.loads(self.config.read_bytes())
        except (OSError, ValueError):
            return False
        return isinstance(config, dict) and config.get("schema") == CONFIG_SCHEMA

    def _contains(self, path):
        folder = Path(os.path.realpath(self.path))
        return folder in (Path(path), *Path(path).parents)

    def begin(self, config, force=False):
        """Make the folder with its config.json, in place of the files of an earlier run.

        These go away only when the new config.json is on the disk under a temporary name and ckpt/
        takes files; it gets its name last, so that old states never stand beside new settings.
        """
        made = [p for p in (self.ckpt, self.path, *self.path.parents) if not p.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        if self._held is None:
            self._hold()
            self.refuse_existing(force)  # another process may have been faster
        try:
            self._replace(config)
        except BaseException:  # Ctrl-C too: a run that never began leaves no folder
            for folder in made:
                with suppress(OSError):  # not empty
                    folder.rmdir()
            raise

    def _replace(self, config):
        with replace_file(self.config, force=True) as file:
            file.write(json.dumps(config, indent=2, allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.ckpt.mkdir(exist_ok=True)
            NamedTemporaryFile(dir=self.ckpt, prefix=".", suffix=".tmp").close()
            for old in list(self._earlier()):
                if old != self.config:  # replaced by the rename
                    old.unlink()

    def _earlier(self):
        if self.ckpt.is_dir():
            yield from (f for f in self.ckpt.iterdir()
                        if OURS_IN_CKPT.fullmatch(f.name) or LEFTOVER.fullmatch(f.name))
        yield from (f for f in self.path.iterdir() if f.name in OURS)

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
        return (JsonLines(self.metrics, metrics_bytes),
                JsonLines(self.path / "events.jsonl"))

    # ------------------------------------------------------------ checkpoints

    def epoch_file(self, epoch):
        return self.ckpt / f"epoch-{epoch:03d}.apr"

    def epoch_metadata(self, epoch):
        return self.ckpt / f"epoch-{epoch:03d}.metadata.json"

    def state_file(self, step):
        return self.ckpt / f"state-{step:06d}.apr"

    def has_state(self):
        """Whether there is something to go on from with --resume."""
        return bool(self._numbered("state-*.apr"))

    def states(self):
        """The saved states, newest last. Errors: CheckError if there is none."""
        states = self._numbered("state-*.apr")
        if not states:
            raise CheckError(f"{self.ckpt}: holds no state-*.apr, the run ended before its first "
                             "checkpoint; start it again with --force")
        return states

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
