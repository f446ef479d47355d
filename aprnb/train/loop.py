"""The loop: steps, and at the end of every epoch evaluation, gates and a checkpoint.

A step takes the next batch, computes loss and gradient, lets gate 007 judge both, updates with the
rate of the schedule and writes one record. `step` counts batches, the optimiser counts updates;
they differ by the steps that a non-finite gradient made the loop skip. All that the rest of a run
depends on is in Position, the weights, the optimiser and the stream; `save_state` writes these four
as one file, so a resumed run gives the bytes of one that was never interrupted, on the same kind of
CPU or GPU.
"""
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..data.batches import BatchStream
from ..errors import CheckError, Interrupted, NonFiniteError, NotFoundError, StorageError
from ..formats.atomic import write_json, write_text
from ..interrupt import Interrupt
from ..model.instance import Model
from ..words import counted
from . import ends, gates
from .checkpoint import epoch_metadata, write_checkpoint, write_state
from .console import Console
from .evaluate import Evaluator
from .inputs import DataInput
from .introduce import beside_uniform
from .metrics import FIELDS, JsonLines, event, step_record
from .outcome import Stop
from .plot import loss_svg
from .position import Position, at_stake
from .records import Records
from .run_folder import RunFolder
from .schedule import Schedule
from .settings import Settings
from .step import Trainer, next_gradients


@dataclass
class Loop:
    """One run from its position to its end.

    Built by train/run.py with everything opened and allocated; `run` then only computes and writes.
    Whatever ends it is raised as a Stop from where it was found; ends.py holds the ends.
    """

    settings: Settings
    model: Model
    luggage: dict
    """Metadata keys of tokenizer and chat template that every checkpoint carries."""
    trainer: Trainer
    evaluator: Evaluator
    schedule: Schedule
    stream: BatchStream
    data: DataInput
    folder: RunFolder
    metrics: Records
    events: JsonLines
    console: Console
    interrupt: Interrupt
    position: Position
    checkpoint: Path | None = None
    """Newest file that a run can be continued from."""
    gates: dict = field(default_factory=dict)
    """Last outcome of every gate, by id and name."""

    def __post_init__(self):
        self.ln_vocab_nats = math.log(self.model.config.vocab_size)
        self.folder.tell = self._tell
        self.saved = asdict(self.position) if self.checkpoint else None
        """The position that the newest state holds."""
        self.interrupt.at_stake = lambda: at_stake(self.position, self.saved, self.folder)

    def run(self):
        """Train to the end. Returns an Outcome; errors of the disk and the data are raised."""
        settings, at = self.settings, self.position
        try:
            ends.stop_without_patience(self)  # a resumed run that had ended so
            if at.step >= settings.num_steps:
                ends.stop_after_bad_steps(self)  # as well
            if at.step == 0 and at.initial_val_nats is None:
                self._begin()
            while True:
                if self._epoch_is_over():
                    self._end_epoch()
                if at.step >= settings.num_steps:
                    ends.complete(self)
                ends.stop_if_asked(self)  # during the evaluation
                self._step()
                ends.stop_if_asked(self)
                if settings.checkpoint_every and at.step % settings.checkpoint_every == 0:
                    self.save_state()
        except Stop as stop:
            self.note("end", status=stop.outcome.status, detail=stop.outcome.detail)
            return stop.outcome

    def _tell(self, text):
        """Say what became of the run folder; paths from now on are those that it has."""
        self.checkpoint = self.folder.here(self.checkpoint)
        self.console.warn(text)
        self.note("warning", text=text)

    def note(self, kind, **facts):
        """Write an object of events.jsonl."""
        self.durably(self.events.append, event(kind, self.position.step, **facts))

    # ------------------------------------------------------------ a step

    def _step(self):
        """One batch: gradients, gate 007, update, record.

        `wall` runs from before the batch is read until the update is enqueued; reading the loss
        has waited for the device, so the time of a step is true and only the last update's
        tail falls into the next one.
        """
        at = self.position
        began, passes = time.perf_counter(), self.stream.pass_number
        try:
            targets, waited, (loss, norm) = next_gradients(self.trainer, self.stream,
                                                           self.interrupt)
        except Interrupted:
            ends.interrupt(self)
        self._judge_batch(targets, passes)
        lr = self.schedule.rate(at.step)
        step, at.step = at.step, at.step + 1
        at.tokens_seen += targets.size
        bad = [g for g in (gates.finite_loss(loss), gates.finite_gradient(norm))
               if not self.judge(g)]
        if bad:
            self._skip(step, bad[0])
            return
        at.skipped_in_a_row = 0
        self.trainer.update(lr)
        wall = time.perf_counter() - began
        self._record(step_record(step, loss, norm, lr, targets.size, wall, waited,
                                 self.model.backend))
        at.loss_sum_nats += loss
        at.recorded_in_epoch += 1
        at.grad_norm_max = max(at.grad_norm_max, norm)
        at.wall_seconds += wall

    def _judge_batch(self, targets, passes):
        """Refuse a batch with gaps, say when the data begin anew."""
        self._require(gates.full_batch(int((targets >= 0).sum()),
                                       self.settings.batch_size * self.settings.seq_length))
        if self.stream.pass_number > passes:
            self.note("new_pass", pass_number=self.stream.pass_number)
            if self.stream.pass_number == 1:
                self.console.note(f"end of the data at step {self.position.step}: a new pass "
                                  f"over them begins ({self.settings.order})")

    def _record(self, record):
        """Judge a step's record by gates 001 and 008, write it, show it."""
        self._require(gates.record_fields(record, FIELDS))
        self._require(gates.speed(record["tokens_per_sec"]))
        if record["gpu_util_pct"] is not None:
            self._require(gates.utilisation(record["gpu_util_pct"]))
        self.durably(self.metrics.append, record)
        self.position.recorded += 1
        if self.position.recorded == 1:  # the steps before, if any, were skipped
            self._beside_uniform(record["loss_nats"])
        self.console.step(record, self.settings.num_steps)

    def _beside_uniform(self, loss_nats):
        """Say the first loss beside ln V: a given model that does not beat a guess is wrong."""
        said, warning = beside_uniform(loss_nats, self.ln_vocab_nats, self.settings.init)
        self.console.note(said)
        if warning:
            self.console.warn(warning)
            self.note("warning", text=warning)

    def _skip(self, step, gate):
        """No update and no record for a step whose loss or gradient gate 007 refused."""
        at = self.position
        at.skipped_in_a_row += 1
        self.note("skipped", skipped_step=step, gate=gate.as_json(), in_a_row=at.skipped_in_a_row)
        self.console.warn(f"step {step} skipped, weights unchanged: {gate.message}")
        ends.stop_after_bad_steps(self)

    # ------------------------------------------------------------ an epoch

    def _epoch_is_over(self):
        """Whether an evaluation is due: steps_per_epoch steps are done, or all of them."""
        steps = self.position.step - self.position.epoch_start
        return steps and (steps >= self.settings.steps_per_epoch  # more, if that was overridden
                          or self.position.step == self.settings.num_steps)

    def _end_epoch(self):
        """Evaluate; write the checkpoint only if the loss did not diverge; begin the next one."""
        at = self.position
        val_loss = self._evaluate(f"at epoch {at.epoch}")
        at.val_history_nats.append(val_loss)
        at.val_steps.append(at.step)
        ends.stop_if_diverged(self)
        self._require(gates.real_updates(self.trainer.step, at.recorded))
        self._write_epoch(val_loss)
        at.epoch, at.epoch_start = at.epoch + 1, at.step
        at.loss_sum_nats, at.recorded_in_epoch, at.grad_norm_max = 0.0, 0, 0.0
        at.wall_seconds = 0.0
        self.save_state()
        ends.stop_without_patience(self)

    def _begin(self):
        """The validation loss before step 0, beside that of a uniform guess."""
        loss = self.position.initial_val_nats = self._evaluate("before step 0")
        self.note("initial_validation", val_loss_nats=loss)
        self.console.note(f"validation before step 0: {loss:.4f} nats; a uniform guess scores "
                          f"ln V = {self.ln_vocab_nats:.4f}")

    def _evaluate(self, when):
        """Validation loss in nats per target token; one that is not finite ends the run.

        A state stands before it, so that an interrupt need not wait for its end.
        """
        if self.position.step:
            self.save_state(prune=False)  # if the loss is bad, the state before is the good one
        try:
            with self.interrupt.at_once():
                result = self.evaluator.mean(self.data.val, self.data.val_indices)
        except Interrupted:
            ends.interrupt(self, f" in the evaluation {when},")
        except NonFiniteError as error:
            if not self.position.step:
                raise Stop("ABORTED", f"NON-FINITE {when}: {error}", error.exit_code) from error
            ends.abort_nonfinite(self, error, f" {when}")
        return float(result.loss_nats)

    def _write_epoch(self, val_loss):
        """Checkpoint and metadata of the epoch (gate 002), its line on the console, loss.svg."""
        at, path = self.position, self.folder.epoch_file(self.position.epoch)
        trained = at.recorded_in_epoch > 0
        train_loss = at.loss_sum_nats / at.recorded_in_epoch if trained else None
        metadata = epoch_metadata(at.epoch, train_loss, val_loss, self.trainer.state_digest(),
                                  at.wall_seconds, at.tokens_seen, at.grad_norm_max)
        self.durably(write_checkpoint, path, self.model, self.luggage, self._facts(val_loss))
        self.durably(write_json, self.folder.epoch_metadata(at.epoch), metadata)
        self.checkpoint = path = self.folder.epoch_file(at.epoch)  # it may have been renamed
        self._require(gates.epoch_files([path, self.folder.epoch_metadata(at.epoch)]))
        best = self.folder.best(at.val_history_nats)
        self.note("checkpoint", path=str(path), val_loss_nats=val_loss, best_epoch=best["epoch"])
        self.console.epoch(at.epoch, metadata, self.ln_vocab_nats, path, best)
        self.draw()

    def _facts(self, val_loss=None):
        """Keys about the training in every file that it writes."""
        at = self.position
        history = at.val_history_nats
        return {"checkpoint_step": at.step, "optimizer_step": self.trainer.step,
                "learning_rate": self.schedule.rate(max(0, at.step - 1)),
                "loss": history[-1] if val_loss is None and history else val_loss,
                "training_data_sha256": self.data.fingerprint,
                "training_settings": self.settings.without_paths()}

    def save_state(self, prune=True):
        """Write ckpt/state-NNNNNN.apr, then remove what --keep no longer wants; a position that
        the newest state already holds is not written again.

        The logs are made durable first: a state counts their records, and a resumed run cuts them
        to that count, so they may be longer than it says and never shorter.
        Errors: NonFiniteError if a weight is not finite; StorageError.
        """
        at, path = self.position, self.folder.state_file(self.position.step)
        if self.saved != asdict(at):
            self.write_state(path)
            self.saved = asdict(at)
            if at.step > at.epoch_start or self.checkpoint is None:  # else the epoch's is newest
                self.checkpoint = self.folder.here(path)
        if prune:
            self.durably(self.folder.prune, self.settings, at.val_history_nats)

    def write_state(self, path):
        """Write this position as a state file, after the logs whose records it counts."""
        self.durably(self.folder.put_back, self.metrics, self.events)
        self.note("saving_state", path=str(path))
        self.durably(self.metrics.sync)
        self.durably(self.events.sync)
        position = {"position": asdict(self.position), "stream": self.stream.state(),
                    "data_fingerprint": self.data.fingerprint,
                    "metrics_bytes": self.metrics.size,
                    "gates": [gate.as_json() for gate in self.gates.values()]}
        self.durably(write_state, path, self.model, self.trainer, self.luggage, self._facts(),
                      position, self.metrics.numbers())

    def durably(self, write, *arguments):
        """A file that cannot be written ends the run; the message says how to go on.

        Where the folder was renamed meanwhile, it is written there.
        """
        where = self.folder.path
        try:
            write(*arguments)
        except (StorageError, NotFoundError, OSError) as error:
            again = self.folder.rescued(arguments, where)
            if again:
                self.durably(write, *again)
                return
            good = f"; the last good checkpoint is {self.checkpoint}" if self.checkpoint else ""
            then = ("--resume goes on when there is room" if self.folder.has_state() else
                    f"{self.folder.path} holds no state to resume from: make room, then start "
                    "again with --force")
            raise StorageError(f"{error}{good}; {then}") from error

    def draw(self):
        """Write loss.svg from the records so far."""
        at = self.position
        first = [] if at.initial_val_nats is None else [(0, at.initial_val_nats)]
        validation = first + list(zip(at.val_steps, at.val_history_nats))
        model, steps = self.model, counted(at.step, "step")
        title = f"{model.config.family}, {steps} on {model.backend.name}"
        self.durably(write_text, self.folder.svg,
                      loss_svg(self.metrics.losses(), validation, self.ln_vocab_nats, title))

    # ------------------------------------------------------------ gates

    def judge(self, gate):
        """Remember a gate's outcome for summary.json; whether it passed."""
        self.gates[gate.id, gate.name] = gate
        return gate.ok

    def _require(self, gate):
        """End the run with exit code 5 if a gate fails."""
        if not self.judge(gate):
            raise Stop("ABORTED", gate.message, CheckError.exit_code)
