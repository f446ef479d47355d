"""config.json of a run: what is written there, and what of it is compared when the run goes on.

    schema, aprnb           of which form and version it is
    settings                every setting: {"value", "from"}, see settings.py
    device, model, data     for people, who find here what a run was made of

A state knows the model and the fingerprint of the data, the data know their counts. So a record
that was edited, emptied or removed is found: what the state decides is refused before anything is
opened, like a setting that differs; what the data tell is said, and written anew.
"""
import json
import os
from dataclasses import asdict

from .. import __version__
from ..config import PRESETS
from ..errors import CheckError
from ..model.params import build_table
from .checkpoint import read_position
from .run_folder import CONFIG_SCHEMA
from .settings import EDITED, PATHS

LUGGAGE = ("bos_token_id", "eos_token_id")
"""Of a model: in a state they come from the tokenizer, so another value is no edit."""


def config_json(plan, model, data):
    """The object of config.json: every setting with its value and where that came from."""
    rows = {name: {"value": value, "from": origin} for name, value, origin in setting_rows(plan)}
    return {"schema": CONFIG_SCHEMA, "aprnb": __version__, "settings": rows,
            "device": {"name": model.backend.name, "precision": model.backend.precision,
                       "reason": model.backend.reason},
            "model": _model_record(model.config),
            "data": {**data.counts(), "fingerprint": data.fingerprint}}


def setting_rows(plan):
    """(name, value, origin) of every setting; paths absolute, so that any folder can resume."""
    values = asdict(plan.settings)
    for name in ("dataset", "val_shard", *PATHS):
        if values[name] and values[name] not in PRESETS:
            values[name] = os.path.abspath(values[name])
    return [(name, value, plan.origins[name]) for name, value in values.items()]


def _model_record(config):
    record = {**asdict(config), "parameters": build_table(config).parameters}
    return json.loads(json.dumps(record))  # a tuple is read back as a list


# ---------------------------------------------------------------- compared

def refuse_damaged(config, where, state):
    """CheckError if a config.json, read from `where`, lacks a record or says otherwise than the
    state (OpenModel). Its settings are judged before, in stored_settings.
    """
    found = "; ".join(_differences(config, _wanted(config, state), "the state says"))
    if found:
        raise CheckError(f"{where}: {found}; {EDITED}")


def _wanted(config, state):
    """What a config.json beside this state must hold: values, or the type of what is free."""
    model, data = (config[name] if isinstance(config.get(name), dict) else {}
                   for name in ("model", "data"))
    return {"schema": CONFIG_SCHEMA, "aprnb": str, "settings": config["settings"],
            "device": {"name": str, "precision": str, "reason": str},
            "model": _model_record(state.config) | {name: model[name] for name in LUGGAGE
                                                    if name in model and _is_ids(model[name])},
            "data": data | {"fingerprint": read_position(state)["data_fingerprint"]}}


def restored(config, told, where):
    """[what is said] of a `data` record that is not what the data tell, both of config.json."""
    found = "; ".join(_differences(config, told, "the data say", "data"))
    return [f"{where}: {found}; written anew from the data"] if found else []


def _differences(got, want, teller, name=""):
    """What `got` lacks, holds beyond `want`, or says otherwise, in words with the dotted name."""
    if want is str:
        if not isinstance(got, str) or not got:
            yield f"{name} is {_short(got)}, need a text"
    elif not isinstance(want, dict):
        if got != want or isinstance(got, bool) != isinstance(want, bool):
            yield f"{name} is {_short(got)}, {teller} {_short(want)}"
    elif not isinstance(got, dict):
        yield f"{name} is {_short(got)}, need an object"
    else:
        for verb, names in (("lacks", [key for key in want if key not in got]),
                            ("holds the unknown", [key for key in got if key not in want])):
            if names:
                yield f"{name} {verb} {', '.join(names)}".lstrip()
        for key in want:
            if key in got:
                yield from _differences(got[key], want[key], teller, f"{name}.{key}".lstrip("."))


def _is_ids(value):
    """Whether it is an id, a list of them or null."""
    return value is None or all(type(i) is int for i in (value if isinstance(value, list)
                                                         else [value]))


def _short(value):
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:60]}..."
