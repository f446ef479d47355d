"""The folder of a run: which files it holds, how they are made, replaced and pruned.

    config.json                  every setting with where its value came from
    metrics.jsonl, events.jsonl  grow with every step, see metrics.py
    ckpt/epoch-NNN.apr           a model at the end of an epoch, with epoch-NNN.metadata.json
    ckpt/state-NNNNNN.apr        a model with all that training needs to go on after that step
    ckpt/aborted-NNNNNN.apr      the same of a run that ended as NON-FINITE: to look at, and to go
                                 on from only when it is named or no other is there
    loss.svg, summary.json       the picture, and the final report
    metrics.jsonl.damaged        what --override metrics.jsonl replaced
    set-aside-NNN/               a run of its own: what --resume STATE turned away from

Files of other names are never touched, also not by --force, and a folder whose config.json is not
that of a run keeps all of its files.
"""
import json
import os
import re
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

from ..errors import CheckError, NotFoundError
from ..formats.atomic import replace_file, write_json
from .held_folder import HeldFolder
from .metrics import JsonLines
from .records import Records

CONFIG_SCHEMA = "aprnb-pretrain-config-v1"
OURS = ("config.json", "metrics.jsonl", "events.jsonl", "loss.svg", "summary.json")
OURS_IN_CKPT = re.compile(r"(epoch|state|aborted)-\d+(\.apr|\.metadata\.json)")
DAMAGED = re.compile(r"metrics\.jsonl\.damaged(-\d+)?")
LEFTOVER = re.compile(r"\..+\.tmp")  # of a process that was killed while it wrote in ckpt/
HALF_WRITTEN = re.compile(rf"\.({'|'.join(map(re.escape, OURS))})\.[0-9a-f]+\.tmp")
STATES_KEPT = 2  # without --keep: one to go on from, and the one before


class RunFolder(HeldFolder):
    """Paths and files of one run; as a context it holds the folder for this process alone.

    A path is asked for where it is used, and never kept: the folder may be renamed.
    """

    @property
    def ckpt(self):
        return self.path / "ckpt"

    @property
    def config(self):
        return self.path / "config.json"

    @property
    def metrics(self):
        return self.path / "metrics.jsonl"

    @property
    def events(self):
        return self.path / "events.jsonl"

    @property
    def summary(self):
        return self.path / "summary.json"

    @property
    def svg(self):
        return self.path / "loss.svg"

    # ------------------------------------------------------------ starting

    def refuse_existing(self, force, inputs=()):
        """CheckError if something is there that is not ours to replace.

        inputs: paths that the run reads; with `force` none may lie in the folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise CheckError(f"{self.path}: is a file; choose another --run-dir")
        if not self.path.is_dir() or self._is_free():
            return
        if not force:
            raise CheckError(f"{self.path}: {self._occupied()}")
        if not self.is_run() and any(self._earlier()):
            raise CheckError(f"{self.path}: holds {next(self._earlier()).name} but no config.json "
                             "of a run, so --force does not replace it; choose another --run-dir")
        for name in inputs:
            if any(self._contains(way(name)) for way in (os.path.abspath, os.path.realpath)):
                raise CheckError(f"{name}: lies in the run folder {self.path}, which --force would "
                                 "clear before it is used; choose another --run-dir, or copy it")

    def _is_free(self):
        """Whether nothing is there, or only what a start leaves that was killed before it began."""
        inside = self.ckpt.iterdir() if self.ckpt.is_dir() else ()
        return all(f == self.ckpt or HALF_WRITTEN.fullmatch(f.name) for f in self.path.iterdir()
                   ) and all(LEFTOVER.fullmatch(f.name) for f in inside)

    def _sweep(self):
        """Remove what killed processes left half-written."""
        for file in list(self.path.iterdir()):
            if HALF_WRITTEN.fullmatch(file.name):
                file.unlink()
        for file in list(self.ckpt.iterdir()) if self.ckpt.is_dir() else ():
            if LEFTOVER.fullmatch(file.name):
                file.unlink()

    def _occupied(self):
        """What is there, and what can be done about it."""
        if not self.is_run():
            return "exists already and is not a run; choose another --run-dir"
        if not self.has_state():
            aborted = self.numbered("aborted-*.apr")
            way = "; --resume goes on from its abort" if aborted else ""
            return ("exists already, its run ended before it saved a state; replace it with "
                    f"--force, or choose another --run-dir{way}")
        return ("exists already; go on with --resume, replace it with --force, or choose another "
                "--run-dir")

    def is_run(self):
        """Whether config.json is one that a run wrote."""
        try:
            config = json.loads(self.config.read_bytes())
        except (OSError, ValueError, RecursionError):
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
        self._config = config
        try:
            self._replace(config)
        except BaseException:  # Ctrl-C too: a run that never began leaves no folder
            for folder in made:
                with suppress(OSError):  # not empty
                    folder.rmdir()
            raise

    def _replace(self, config):
        self._sweep()
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
        yield from (f for f in self.path.iterdir()
                    if f.name in OURS or DAMAGED.fullmatch(f.name))

    def read_config(self):
        """The config.json of the run to resume. Errors: NotFoundError, CheckError."""
        if not self.config.is_file():
            raise NotFoundError(f"{self.config}: no such file; there is no run to resume in "
                                f"{self.path}")
        try:
            return json.loads(self.config.read_bytes())
        except (ValueError, RecursionError) as error:
            raise CheckError(f"{self.config}: not valid JSON: {error}; put it back, or have it "
                             "written anew from the state with --override config.json") from error

    def go_on(self, config):
        """Prepare for the rest of a resumed run: what no longer holds goes away."""
        self.summary.unlink(missing_ok=True)
        self._sweep()
        write_json(self.config, config)
        self._config = config

    def logs(self, numbers=None, metrics_bytes=0):
        """(Records, events): records are cut to those of the resumed step, events are kept."""
        return Records(self.metrics, numbers, metrics_bytes), JsonLines(self.events)

    def put_back(self, *logs):
        """Make those files anew that were removed while the run goes on; what they held is known.

        logs: JsonLines of the run. Errors: StorageError.
        """
        gone = [log.path.name for log in logs if log.put_back(self.path / log.path.name)]
        if not os.path.lexists(self.config):
            write_json(self.config, self._config)
            gone.append(self.config.name)
        if gone:
            self.tell(f"{self.path}: {' and '.join(gone)} {'were' if gone[1:] else 'was'} removed "
                      "while the run wrote there: put back with all that the run had written")

    # ------------------------------------------------------------ checkpoints

    def epoch_file(self, epoch):
        return self.ckpt / f"epoch-{epoch:03d}.apr"

    def epoch_metadata(self, epoch):
        return self.ckpt / f"epoch-{epoch:03d}.metadata.json"

    def state_file(self, step):
        return self.ckpt / f"state-{step:06d}.apr"

    def aborted_file(self, step):
        return self.ckpt / f"aborted-{step:06d}.apr"

    def has_state(self):
        """Whether there is something to go on from with --resume."""
        return bool(self.numbered("state-*.apr"))

    def resumable(self):
        """Whether --resume has something to go on from, if only the state of an abort."""
        return self.has_state() or bool(self.numbered("aborted-*.apr"))

    def has_models(self):
        """Whether there is any model that a start in this folder would clear."""
        return any(self.numbered(f"{kind}-*.apr") for kind in ("epoch", "state", "aborted"))

    def states(self):
        """The saved states, newest last; where there is none, that of an abort, which then is the
        best that there is. Errors: CheckError if there is none either."""
        states = self.numbered("state-*.apr") or self.numbered("aborted-*.apr")[-1:]
        if not states:
            raise CheckError(f"{self.ckpt}: holds no state-*.apr, the run ended before its first "
                             "checkpoint; start it again with --force")
        return states

    def newest_state(self):
        """The newest state, or None."""
        return (self.numbered("state-*.apr") or [None])[-1]

    def state_named(self, wanted):
        """The state that --resume STATE means: a step, a file name, or a path.

        Errors: NotFoundError naming the states that are there; CheckError for a file elsewhere.
        """
        there = self.numbered("state-*.apr") + self.numbered("aborted-*.apr")
        for file in there:
            if wanted in (file.name, file.stem) or (
                    file.stem.startswith("state") and wanted.isdecimal()
                    and int(wanted) == number(file)):
                return file
        for file in there:
            if Path(wanted).exists() and os.path.samefile(wanted, file):
                return file
        have = ", ".join(file.name for file in there) or "none"
        if Path(wanted).exists():
            raise CheckError(f"--resume {wanted}: is no state in {self.ckpt} (there: {have}); a "
                             "run goes on from a state of its own. --init goes on from any model, "
                             "in a run of its own")
        raise NotFoundError(f"--resume {wanted}: no such state in {self.ckpt}; there: {have}")

    def best(self, val_history_nats):
        """The epoch of the lowest validation loss, of equal ones the first, as summary.json says
        it; None before the first epoch. `checkpoint` is null if its file is not there.

        val_history_nats: a loss for every epoch.
        """
        if not val_history_nats:
            return None
        loss = min(val_history_nats)
        epoch = val_history_nats.index(loss)
        file = self.epoch_file(epoch)
        return {"epoch": epoch, "val_loss_nats": loss,
                "checkpoint": str(file) if file.is_file() else None}

    def prune(self, settings, val_history_nats):
        """Remove what `settings` do not keep: never the best epoch; of the others all but the
        newest `keep` (None: none is removed) or, with keep_best, all but the newest epoch of all.

        Of the states stay the newest `keep` (None: 2; with keep_best: 1).
        """
        best, keep = self.best(val_history_nats), settings.keep
        epochs = self.numbered("epoch-*.apr")
        others = [f for f in epochs if not best or number(f) != best["epoch"]]
        gone = ([f for f in others if f != epochs[-1]] if settings.keep_best else
                others[:-keep] if keep else [])
        for file in gone:
            file.unlink()
            file.with_suffix(".metadata.json").unlink(missing_ok=True)
        newest = 1 if settings.keep_best else keep or STATES_KEPT
        for file in self.numbered("state-*.apr")[:-newest]:
            file.unlink()

    def prune_aborted(self):
        """Remove the states of aborts before the newest."""
        for file in self.numbered("aborted-*.apr")[:-1]:
            file.unlink()

    def rescued(self, arguments, where):
        """The arguments of a write that failed, where it can be tried again; None if it cannot.

        where: the folder as the write began. It can be tried again if the folder was renamed, or
        if ckpt/ was taken away, which is made anew. Errors: StorageError if the folder was removed.
        """
        gone = not self.ckpt.is_dir()
        if gone:
            self.ckpt.mkdir()
            self.tell(f"{self.ckpt} was removed or renamed while the run wrote it, with the states "
                      "and checkpoints that it held: made anew for those to come")
        again = [self.here(argument) for argument in arguments]
        return again if gone or where != self.path or again != list(arguments) else None

    def numbered(self, pattern):
        """Files in the order of the number in their names."""
        files = [f for f in self.ckpt.glob(pattern) if OURS_IN_CKPT.fullmatch(f.name)]
        return sorted(files, key=number)


def number(file):
    """The epoch or step in the name of a file in ckpt/."""
    return int(re.search(r"\d+", file.name)[0])
