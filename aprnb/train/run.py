"""A whole run: settings, inputs, device, preflight, the loop, the report.

Everything that can be refused is refused before the run folder is made, in this order: settings,
output, model, tokenizer, data (CORPUS-PREFLIGHT), device, memory, preflight.
"""
import time
from dataclasses import dataclass, replace

from ..backend import open_backend
from ..data.batches import BatchStream
from ..errors import CheckError, DeviceMemoryError, FormatError, UsageError
from ..formats.atomic import write_json
from ..formats.model_file import OpenModel, open_model
from ..interrupt import Interrupt
from ..model.instance import Model
from ..model.rehearsal import refuse_unserved
from .checkpoint import read_numbers, read_position, restore_trainer
from .config_file import config_json, restored
from .evaluate import Evaluator
from .gates import Gate, default_first_limit_nats
from .horizon import beyond, changed, schedule_of
from .inputs import open_data_input, open_model_input
from .introduce import introduce
from .loop import Loop
from .position import Position
from .preflight import preflight
from .resume import Logs, Resumed, read_logs, settle, write_logs
from .run_folder import RunFolder
from .set_aside import later_files, set_aside, way_on
from .settings import Settings, resolve
from .step import OptimiserSettings, Trainer

SCHEMA = "aprnb-pretrain-v1"
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022: fewer leave a model under-trained


@dataclass
class Plan:
    """What is known of a run before its inputs are opened."""

    settings: Settings
    origins: dict
    """{setting: "flag", "default", "mode default", ...}"""
    folder: RunFolder
    state: OpenModel | None
    """The saved state of a run that goes on; None for a new one."""
    force: bool = False
    """Whether a new run takes the place of an earlier one."""
    resumed: Resumed | None = None
    """What the state and config.json said, and what was overridden."""
    logs: Logs | None = None
    """What metrics.jsonl holds of it, and what is made anew."""
    chosen: bool = False
    """Whether the state was named: what the run has of later steps is set aside."""

    def fix(self, origin, **values):
        """Set settings that only the model or the device could decide."""
        self.settings = replace(self.settings, **values)
        self.origins |= dict.fromkeys(values, origin)


def pretrain(given, console, resume=False, force=False, overrides=()):
    """Train as the flags say and return the final report, a JSON-able dict.

    given: {setting: value} of the flags that were used;  resume: True for the newest state, "auto"
    for that or a start where there is none, else a step, name or path of a state;  overrides: what
    of config.json may differ from the state, see resume.py.

    Errors: UsageError, CheckError, ... before anything is written; StorageError later. How a run
    that started came to its end stands in `status`, `detail` and `exit_code` of the report.
    """
    began, folder = time.perf_counter(), RunFolder(given.get("run_dir") or ".")
    with Interrupt(" before the first step; nothing was written") as interrupt, folder:
        plan = _planned(given, folder, resume, force, overrides)
        if plan.settings.max_minutes:
            interrupt.limit(plan.settings.max_minutes)
        loop, checked = _prepare(plan, console, interrupt)
        try:
            outcome = loop.run()
        finally:
            console.close()
        return _finish(loop, outcome, checked, began)


# ---------------------------------------------------------------- before the first step

def _planned(given, folder, resume, force, overrides):
    """Plan of a run that starts or goes on. Errors: those of `_new` and `_resumed`."""
    auto = resume == "auto"
    if auto and not folder.resumable():
        # a run without any model lost nothing: the start that failed is made again
        again = folder.is_run() and not folder.has_models()
        if again:
            folder.warnings.append(f"{folder.path}: the run there saved nothing; it is replaced")
        folder.warnings += [f"--override {key}: nothing to override, a new run starts"
                            for key in overrides]
        try:
            return _new(given, folder, again)
        except UsageError as error:
            raise UsageError(f"--resume auto: {folder.path} holds no state, so a new run starts: "
                             f"{error}") from error
    if not resume:
        if overrides:
            raise UsageError(f"--override {overrides[0]}: needs --resume; a new run has no state "
                             "that config.json could differ from")
        return _new(given, folder, force)
    return _resumed(given, folder, None if auto or resume is True else resume, overrides)


def _new(given, folder, force):
    """Plan of a run that starts. Errors: UsageError; CheckError if the run folder is occupied."""
    settings, origins = resolve(given)
    folder.refuse_existing(force, settings.inputs())
    return Plan(settings, origins, folder, None, force)


def _resumed(given, folder, named, overrides):
    """Plan of a run that goes on from its newest state, or from the one that was named.

    Errors: NotFoundError without a run or state there; CheckError if it has no state, if
    config.json or metrics.jsonl says otherwise than the state, or if a flag would change the
    numbers of the rest.
    """
    if not folder.has_models():
        folder.read_config()  # no run at all?
    state = open_model(folder.state_named(named)) if named else _newest_state(folder)
    position = Position(**read_position(state)["position"])
    resumed = settle(given, overrides, folder, state)
    logs = read_logs(folder, resumed.overrides, position, read_numbers(state))
    if not named and not folder.has_state():
        resumed.notes.append(f"no state was saved before the abort: the run goes on from "
                             f"{state.path.name}")
    chosen = bool(named) and state.path != folder.newest_state()
    return Plan(resumed.settings, resumed.origins, folder, state, False, resumed, logs, chosen)


def _newest_state(folder):
    """The newest state, opened. Errors: FormatError for a damaged one; that an older one would do
    is said and not done, since it repeats steps.
    """
    *older, newest = folder.states()
    try:
        return open_model(newest)
    except FormatError as error:
        then = (f"go on from the one before with --resume {older[-1].name}" if older else
                "there is no older state; start a new run with --init and the newest checkpoint")
        raise FormatError(f"{error}. The newest state is damaged: {then}") from error


def _prepare(plan, console, interrupt):
    """(Loop at its position, preflight report or None); makes the run folder last.

    From `interrupt.arm()` on there is something to save, so Ctrl-C ends the run after a step;
    before, it ends the program at once and leaves nothing.
    """
    source = open_model_input(plan.settings, plan.state)
    if plan.settings.max_epoch0_loss is None:
        plan.fix("mode default", max_epoch0_loss=default_first_limit_nats(
            bool(plan.settings.init), source.config.vocab_size))
    data = open_data_input(plan.settings, source)
    stream = BatchStream(data.train, data.train_indices, plan.settings.batch_size,
                         plan.settings.order, plan.settings.seed)
    model, trainer, evaluator = _allocate(plan, source, data)
    position = Position()
    if plan.state:
        position = _restore(plan, trainer, stream, data)
    warnings = (plan.folder.warnings + source.warnings + data.warnings
                + _endless_warm_up(plan.settings) + _provisioning(plan.settings, model))
    introduce(plan, model, data, console)
    checked = _preflight(plan.settings, model, data, console)
    config = config_json(plan, model, data)
    interrupt.arm()
    if plan.state:
        if plan.resumed.data is not None:
            warnings += restored(plan.resumed.data, config["data"], plan.folder.config)
        warnings += plan.resumed.notes + _go_on(plan, config, position)
    else:
        plan.folder.begin(config, plan.force)
    loop = _loop(plan, model, source, trainer, evaluator, stream, data, console, interrupt,
                 position)
    _note_start(loop, data)
    _note_changes(loop, plan, console)
    for text in warnings:
        loop.note("warning", text=text)
        console.warn(text)
    return loop, checked


def _allocate(plan, source, data):
    """(Model, Trainer, Evaluator). Errors: DeviceMemoryError, also for memory of the host."""
    try:
        model = _model(plan, source)
        trainer = _trainer(plan, model)
        batch = min(trainer.micro_batch, len(data.val_indices))
        return model, trainer, Evaluator(model, batch, plan.settings.seq_length)
    except MemoryError as error:
        s = plan.settings
        raise DeviceMemoryError(
            f"out of host memory: {error or 'no size is known'}; try a smaller model (--arch, "
            f"--init), --micro-batch (now {s.micro_batch or 'auto'} of --batch-size "
            f"{s.batch_size}) or --seq-length (now {s.seq_length})") from error


def _model(plan, source):
    """Model on its device; the plan learns what auto stood for."""
    settings = plan.settings
    backend = open_backend(settings.device, settings.precision, settings.kernels,
                           settings.residual)
    for name, value in (("device", backend.name), ("precision", backend.precision),
                        ("residual", backend.residual)):
        asked = getattr(settings, name)
        plan.fix("chosen" if asked == "auto" else plan.origins[name], **{name: value})
    refuse_unserved(source.config, backend, settings.micro_batch or 1, settings.seq_length, True,
                    settings.recompute, str(plan.state.path) if plan.state else
                    settings.init or settings.arch)
    if source.opened:
        return Model.from_file(source.opened, backend)
    return Model.random(source.config, backend, settings.seed)


def _trainer(plan, model):
    """Trainer with every buffer allocated, so that memory runs out here or not at all.

    The micro-batch that was chosen becomes a setting: a resumed run must cut as this one did,
    since sums in another order differ in their last bits.
    """
    s = plan.settings
    trainer = Trainer(model, s.batch_size, s.micro_batch, s.seq_length, OptimiserSettings(
        s.beta1, s.beta2, s.eps, s.weight_decay, s.decay_on, s.grad_clip), s.recompute)
    if s.micro_batch is None:
        plan.fix("chosen", micro_batch=trainer.micro_batch)
    return trainer


def _restore(plan, trainer, stream, data):
    """Position of the saved state, its parts put back.

    Errors: CheckError if the data are others, or if --num-steps is less than what is done.
    """
    saved = read_position(plan.state)
    if saved["data_fingerprint"] != data.fingerprint:
        raise CheckError(f"--resume: the tokens of {plan.settings.dataset} (or of --val-shard) are "
                         "not those that the run began with; give the same data, or start a new "
                         "run with --init and the checkpoint")
    position = Position(**saved["position"])
    if plan.settings.num_steps < position.step:
        raise CheckError(f"--resume: {position.step} steps are done, --num-steps "
                         f"{plan.settings.num_steps} is less")
    restore_trainer(trainer, plan.state)
    stream.restore(saved["stream"])
    return position


def _go_on(plan, config, position):
    """Make the folder ready for the rest of a resumed run; what is said of it."""
    said, folder, logs = [], plan.folder, plan.logs
    if plan.chosen:
        files = later_files(folder, plan.state.path, position)
        if files:
            place = set_aside(folder, files)
            said.append(f"what the run has after step {position.step} is set aside in {place}: "
                        f"{', '.join(file.name for file in files)}, all records{way_on(place)}")
    write_logs(folder, logs)
    folder.go_on(config)
    return said + logs.notes


def _loop(plan, model, source, trainer, evaluator, stream, data, console, interrupt, position):
    """The Loop; opens both logs, records after those of `position` are cut off."""
    s, logs = plan.settings, plan.logs
    metrics, events = plan.folder.logs(*(logs.numbers, logs.nbytes) if logs else ())
    judged = read_position(plan.state).get("gates", []) if plan.state else []
    return Loop(settings=s, model=model, luggage=source.luggage, trainer=trainer,
                evaluator=evaluator,
                schedule=schedule_of(s),
                stream=stream, data=data, folder=plan.folder, metrics=metrics, events=events,
                console=console, interrupt=interrupt, position=position,
                checkpoint=plan.state.path if plan.state else None,
                gates={(gate["id"], gate["name"]): Gate.from_json(gate) for gate in judged})


def _note_start(loop, data):
    """The first objects of events.jsonl: how this process began, and on how much data."""
    loop.note("resume" if loop.checkpoint else "start", device=loop.model.backend.name,
              precision=loop.model.backend.precision, num_steps=loop.settings.num_steps)
    loop.note("data", **data.counts(), repeated_windows=data.repeats, shared_windows=data.shared)


def _note_changes(loop, plan, console):
    """What differs from the run as its state knows it, and where length and schedule part."""
    if not plan.state:
        text = beyond(plan.settings)
        if text:
            loop.note("schedule", text=text)
            console.note(text)
        return
    for facts in plan.resumed.changes:
        loop.note("override", **facts)
    said = changed(plan.resumed.before, plan.settings, loop.position.step)
    if said:
        text, facts = said
        loop.note("schedule", text=text, **facts)
        console.warn(text)
    if plan.resumed.changes or plan.settings.schedule_steps != plan.resumed.before.schedule_steps:
        loop.saved = None  # from now on a state says so: whoever is killed goes on as it was
        loop.save_state()


def _preflight(settings, model, data, console):
    """The preflight report as a dict, or None where it does not run: off, or on the CPU, which
    is the oracle itself. Errors: CheckError naming the first layer that departs.
    """
    if settings.preflight == "off" or model.backend.name == "cpu":
        return None
    report = preflight(model, data.train[data.train_indices[0]])
    for line in report.lines:
        console.note(line)
    return report.as_dict()


def _endless_warm_up(settings):
    """A warning where the run ends before the rate has reached its peak; never a refusal."""
    warm_up, steps = settings.warmup_steps, settings.num_steps
    if warm_up < steps:
        return []
    return [f"--warmup-steps {warm_up} takes all of --num-steps {steps}: the rate never reaches "
            f"--lr {settings.lr:g}, the highest is {settings.lr * steps / (warm_up + 1):.3g}"]


def _provisioning(settings, model):
    """A warning where random weights will see too few tokens; never a refusal."""
    tokens = settings.num_steps * settings.batch_size * settings.seq_length
    ratio = tokens / model.table.parameters
    if settings.init or ratio >= TOKENS_PER_PARAMETER:
        return []
    return [f"{tokens:,} tokens for {model.table.parameters:,} parameters are {ratio:.3g} per "
            f"parameter; below {TOKENS_PER_PARAMETER} a model from random weights stays "
            "under-trained (Hoffmann et al. 2022)"]


# ---------------------------------------------------------------- after the last step

def _finish(loop, outcome, checked, began):
    """Draw the picture, write summary.json and return it.

    Losses are in nats; `final_val_loss` is null where no evaluation was reached, `checkpoint`
    where nothing was saved; `best` is the epoch of the lowest validation loss. `wall_seconds` is of
    this process alone, from reading its settings on; `corpus_entropy_nats` says what a loss is to
    be compared with.
    """
    at = loop.position
    loop.durably(loop.folder.put_back, loop.metrics, loop.events)
    loop.draw()
    fault = loop.metrics.fault(loop.folder.metrics)
    if fault:
        loop.note("warning", text=fault)
        loop.console.warn(fault)
    history = at.val_history_nats
    report = {
        "schema": SCHEMA, "status": outcome.status, "detail": outcome.detail,
        "exit_code": outcome.exit_code,
        "initial_val_loss": at.initial_val_nats,
        "final_val_loss": history[-1] if history else None,
        "val_loss_history": history,
        "ln_vocab": loop.ln_vocab_nats,
        "corpus_entropy_nats": loop.data.entropy_nats,
        "data": loop.data.counts(),
        "epochs_completed": at.epoch, "steps_recorded": at.recorded,
        "wall_seconds": time.perf_counter() - began,
        "run_dir": str(loop.folder.path),
        "checkpoint": str(loop.checkpoint) if loop.checkpoint else None,
        "best": loop.folder.best(history),
        "loss_svg": str(loop.folder.svg), "summary": str(loop.folder.summary),
        "device": loop.model.backend.reason,
        "preflight": checked,
        "gates": [gate.as_json() for gate in loop.gates.values()],
        "per_step_metrics": loop.metrics.read(),
    }
    loop.durably(write_json, loop.folder.summary, report)
    if report["run_dir"] != str(loop.folder.path):  # renamed as this was written
        return _finish(loop, outcome, checked, began)
    return report
