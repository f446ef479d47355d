"""With which settings a run goes on: those that its state was saved with.

A state is protected by its checksum, config.json is not. So every setting that shapes the numbers
is compared, and a difference is refused with both values, before anything is written. The user then
says which of them holds: `--override KEY` takes that of the command line, or else of config.json;
`--override config.json` has the file written anew from the state, which knows all but the paths.
Settings that may be given anew at every resume are taken from config.json, where the last start
wrote them.
"""
from dataclasses import dataclass, fields

from ..errors import CheckError, NotFoundError, UsageError
from ..words import counted
from . import records
from .config_file import refuse_damaged
from .settings import (EDITED, FIXED, LATER, LOWEST_LR_SHARE, MAY_CHANGE, PATHS, PLACES, Settings,
                       flag, resolve_resumed, stored_settings)

FILES = ("config.json", "metrics.jsonl")


@dataclass
class Resumed:
    """How a run goes on."""

    settings: Settings
    origins: dict
    before: Settings
    """Those of the state, in the paths of now."""
    overrides: list
    """The keys of --override, settings by their names."""
    notes: list
    """What is said at the start."""
    changes: list
    """Facts of the settings that were overridden, for events.jsonl."""
    data: dict | None
    """What config.json says of the data; None where it is written anew from the state."""


def settle(given, overrides, folder, state):
    """The Resumed of a run with this state (OpenModel).

    given: flags used now;  overrides: values of --override.
    Errors: UsageError for an unknown key; NotFoundError, CheckError for a config.json that is
    missing, damaged or of other settings, with the differences and the way on.
    """
    keys = _known(overrides)
    saved = state.metadata.get("training_settings")
    if not isinstance(saved, dict):  # of a version that stored none
        if "config.json" in keys:
            raise CheckError(f"--override config.json: {state.path.name} holds no settings; put "
                             "the file back")
        saved = {}
    stored, origins, data, notes = _stored(given, keys, folder, state, saved)
    known = _complete(saved)
    if stored["schedule_steps"] is None:  # a config.json of before: the horizon is the state's
        stored["schedule_steps"] = known.get("schedule_steps") or stored["num_steps"]
        if known.get("schedule_steps"):
            notes.append(f"{folder.config}: settings.schedule_steps is null; the state says "
                         f"{known['schedule_steps']}, which holds")
    truth = stored | known
    changes = _compare(given, keys, folder.config, stored, truth, state.path.name)
    changes += _followers(given, keys, stored, truth, origins)
    try:
        Settings(**stored)
    except UsageError as error:  # of settings that may change
        raise CheckError(f"{folder.config}: {error}; {EDITED}") from error
    settings, origins = resolve_resumed(given, stored, origins, keys)
    notes += [(f"{c['setting']} follows lr" if c["from"] == "lr" else f"--override {c['setting']}")
              + f": {c['now']}, the state was saved with {c['state']}" for c in changes]
    notes += [f"--override {key}: nothing to override, the state says {truth[key]} too"
              for key in keys if key not in FILES and key not in [c["setting"] for c in changes]]
    notes += _as_last_started(given, stored, truth)
    return Resumed(settings, origins, Settings(**truth), keys, notes, changes, data)


def _known(overrides):
    """The keys of --override by the names of Settings. Errors: UsageError."""
    names = [f.name for f in fields(Settings)]
    keys = []
    for key in overrides:
        name = key.removeprefix("--").replace("-", "_")
        if key not in FILES and (name not in names or name in MAY_CHANGE or name in PATHS):
            if name in MAY_CHANGE:
                raise UsageError(f"--override {key}: not needed, {flag(name)} may be given with "
                                 "every --resume")
            raise UsageError(f"--override {key}: need a setting of config.json that shapes the "
                             f"numbers, such as lr, or {' or '.join(FILES)}")
        if name in FIXED:
            raise CheckError(f"--override {key}: model and place in the data of the state depend "
                             "on it; put config.json back, or start a new run with --init and the "
                             "newest checkpoint")
        keys.append(key if key in FILES else name)
    return keys


def _stored(given, keys, folder, state, saved):
    """(values, origins, record of the data, notes) of config.json, or those that --override
    config.json makes of it."""
    if "config.json" not in keys:
        if not folder.config.is_file():
            raise CheckError(f"{folder.config}: no such file; put it back, or have it written anew "
                             "from the state: --override config.json with --dataset and --init or "
                             "--arch as when the run was begun")
        config = folder.read_config()
        stored, origins = stored_settings(config, folder.config, saved)
        refuse_damaged(config, folder.config, state)
        return stored, origins, config["data"], []
    places = {name: value for name, value in _places(folder).items() if value} | {
        name: value for name, value in given.items() if name in (*PLACES, "arch")}
    values = ({f.name: f.default for f in fields(Settings)} | _complete(saved)
              | {k: v for k, v in places.items() if k not in saved})
    missing = [flag(name) for name in ("dataset",) if not places.get(name)]
    if not (values.get("init") or values.get("arch")):
        missing.append("--init or --arch")
    if missing:
        raise CheckError(f"--override config.json: a state holds no paths; give "
                         f"{' and '.join(missing)} (and --val-shard, if there was one) as when the "
                         "run was begun")
    values["run_dir"] = str(folder.path)
    return values, dict.fromkeys(values, "state"), None, [
        f"{folder.config} is written anew from the settings of the state"]


def _places(folder):
    """Paths of a config.json that may be damaged, as far as they can be read."""
    try:
        rows = folder.read_config()["settings"]
        found = {name: rows[name]["value"] for name in (*PLACES, "arch") if name in rows}
    except (NotFoundError, CheckError, KeyError, TypeError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _complete(saved):
    """Settings of a state by their names, with those that came later as they were then."""
    known = {f.name for f in fields(Settings)}
    unknown = [name for name in saved if name not in known]
    if unknown:
        raise CheckError(f"the state holds the unknown setting {unknown[0]}: it is of a newer "
                         "version; resume with that one")
    later = {name: value for name, value in LATER.items() if saved and name not in saved}
    if later.get("schedule_steps", 0) is None:
        later["schedule_steps"] = saved.get("num_steps")
    return later | saved


def _compare(given, keys, where, stored, truth, state):
    """Facts of the overridden settings; CheckError with every other difference."""
    free = MAY_CHANGE - {"schedule_steps"} | given.keys() & MAY_CHANGE  # a flag alone moves it
    differ = {name for name in truth if name not in free and name not in PLACES
              and stored[name] != truth[name]}
    refused = sorted(differ - set(keys), key=list(truth).index)
    if refused:
        rows = "; ".join(f"{name} is {stored[name]}, the state says {truth[name]}"
                         for name in refused)
        takes = " ".join(f"--schedule-steps {stored[name]}" if name == "schedule_steps" else
                         f"--override {name}" for name in refused if name not in FIXED)
        takes = f", or take the values of the file with {takes}" if takes else ""
        raise CheckError(f"{where}: differs from {state}, which was saved with other settings: "
                         f"{rows}. Put the values of the state back, have the file written anew "
                         f"with --override config.json{takes}")
    facts = []
    for name in keys:
        now = given.get(name, stored.get(name)) if name not in FILES else None
        if name not in FILES and now != truth[name]:
            facts.append({"setting": name, "state": truth[name], "now": now,
                          "from": "flag" if name in given else "config.json"})
    return facts


def _followers(given, keys, stored, truth, origins):
    """Facts of a setting that was made of one that is overridden, and now is made anew."""
    lr = given.get("lr", stored["lr"])
    if "lr" not in keys or lr == truth["lr"] or origins.get("min_lr") != "mode default" or (
            "min_lr" in keys or "min_lr" in given):
        return []
    stored["min_lr"] = lr / LOWEST_LR_SHARE
    return [{"setting": "min_lr", "state": truth["min_lr"], "now": stored["min_lr"], "from": "lr"}]


def _as_last_started(given, stored, truth):
    """Settings that may change and that config.json says otherwise than the state: by a start
    after which no state was saved, or by hand."""
    for name in sorted(MAY_CHANGE - set(PLACES) - given.keys() - {"schedule_steps"}):
        if stored[name] != truth[name]:
            yield (f"config.json says {name} {stored[name]}, as the run was last started; the "
                   f"state was saved with {truth[name]}")


# ---------------------------------------------------------------- the files beside the state

@dataclass
class Logs:
    """metrics.jsonl and events.jsonl of a run that goes on."""

    numbers: object
    """(n, 4) f64 of the records that stay."""
    nbytes: int
    """Where they end in metrics.jsonl."""
    rebuilt: list | None
    """Records that are to replace metrics.jsonl."""
    notes: list


def read_logs(folder, overrides, position, numbers):
    """The Logs for a Position and the numbers that its state holds (or None).

    Errors: CheckError naming the file that is damaged, its line, and the way on.
    """
    for file in (folder.metrics, folder.events, folder.summary, folder.svg):
        if file.exists() and not file.is_file():
            raise CheckError(f"{file}: is no file, and the run writes one of that name; move it "
                             "away")
    events, notes = records.read_events(folder.events)
    try:
        logs = Logs(*records.check(folder.metrics, position, numbers), None, notes)
    except CheckError:
        if "metrics.jsonl" not in overrides:
            raise
    else:
        if "metrics.jsonl" in overrides:
            notes.append("--override metrics.jsonl: nothing to override, its records are sound")
        return logs
    skipped = {event.get("skipped_step") for event in events}
    made, numbers, kept = records.rebuilt(folder.metrics, position, numbers, skipped)
    without = sum(record["loss_nats"] is None for record in made)
    notes.append(f"--override metrics.jsonl: {kept} of {counted(len(made), 'record')} were sound; "
                 "the others come from the state, without times and memory"
                 + (f", {without} of them without a loss" if without else ""))
    return Logs(numbers, 0, made, notes)


def write_logs(folder, logs):
    """Put rebuilt records in the place of a damaged file, which stays beside them."""
    if logs.rebuilt is None:
        return
    old = records.replace(folder, logs.rebuilt)
    logs.nbytes = folder.metrics.stat().st_size
    if old:
        logs.notes.append(f"what metrics.jsonl was is kept as {old}")
