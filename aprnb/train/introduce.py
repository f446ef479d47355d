"""The resolved configuration of a run: on the screen before the first step, and as config.json.

Both name the origin of every value: "flag" (given by the user), "default", "mode default" (follows
from --mode), "chosen" (what auto stood for on this machine), "state" (--override config.json).
--resume reads config.json back.
"""
import os
from dataclasses import asdict

from .. import __version__
from ..config import PRESETS
from .run_folder import CONFIG_SCHEMA
from .settings import PATHS

ON_LINES = ("dataset", "val_shard", "run_dir", "init", "tokenizer", "arch")  # of their own
WIDTH = 100  # columns of the table


def introduce(plan, model, data, console):
    """Say model, device, data and every setting, with its origin unless that is the default.

    The settings stand in as many columns as fit into WIDTH; paths have lines of their own above.
    """
    s = plan.settings
    start = plan.state.path if plan.state else s.init or f"random weights, {s.arch}"
    console.note(f"model    {model.config.family}, {model.table.parameters:,} parameters, {start}")
    console.note(f"device   {model.backend.reason}")
    for line in model.backend.served():
        console.note(f"         {line}")
    for line in data_lines(s, data):
        console.note(line)
    console.note(f"run      {s.run_dir}")
    cells = [f"{name} {_cell(value)}{'' if origin == 'default' else f' ({origin})'}"
             for name, value, origin in setting_rows(plan) if name not in ON_LINES]
    width = 2 + max(map(len, cells))
    columns = max(1, (WIDTH - 9) // width)
    for i in range(0, len(cells), columns):
        line = "".join(f"{cell:<{width}}" for cell in cells[i:i + columns])
        console.note(f"{' ' * 9}{line}".rstrip())


def config_json(plan, model, data):
    """The object of config.json: every setting with its value and where that came from.

    `device`, `model` and `data` are there to be read by people; resuming judges the data by the
    fingerprint in the saved state, not by this one.
    """
    rows = {name: {"value": value, "from": origin} for name, value, origin in setting_rows(plan)}
    return {"schema": CONFIG_SCHEMA, "aprnb": __version__, "settings": rows,
            "device": {"name": model.backend.name, "precision": model.backend.precision,
                       "reason": model.backend.reason},
            "model": {**asdict(model.config), "parameters": model.table.parameters},
            "data": {**data.counts(), "fingerprint": data.fingerprint}}


def data_lines(s, data):
    """Which windows are trained and validated on, and what no evaluation and no window holds."""
    n, wanted, counts = len(data.val_indices), s.wanted_val_windows(), data.counts()
    what = (f"{'drawn' if s.val_order == 'shuffled' else 'the first'} of {s.val_shard}"
            if s.val_shard else "drawn over all" if s.val_order == "shuffled" else "of its tail")
    fewer = "" if n == wanted else f" ({wanted:,} asked for" + (
        ")" if s.val_shard else ", at most 5 % of the windows)")
    yield (f"data     {s.dataset}: {len(data.train_indices):,} windows of {data.train.seq_length} "
           f"target tokens to train on, {n:,} {what} to validate on{fewer}")
    left = [f"{rest['tokens']:,} tokens of {s.dataset if name == 'dataset' else s.val_shard} that "
            "fill no window" for name, rest in counts["tokens_in_no_window"].items()
            if rest["tokens"]]
    if counts["val_windows_left_out"]:
        left.insert(0, f"{counts['val_windows_left_out']:,} windows of {s.val_shard}, never "
                       "validated on (--val-windows takes more)")
    if left:
        yield f"         left out: {'; '.join(left)}"


def beside_uniform(loss_nats, uniform_nats, init):
    """(what is said of the first loss, a warning or None): that of a given model, `init`, is to be
    below ln V, the loss of a uniform guess."""
    said = (f"first loss {loss_nats:.4f} nats; a uniform guess scores ln V = "
            f"{uniform_nats:.4f}")
    if not init or loss_nats < uniform_nats:
        return said, None
    return said, (f"the first loss {loss_nats:.4f} of {init} is not below ln V = "
                  f"{uniform_nats:.4f} nats: model and data do not belong together, or the forward "
                  "pass is wrong")


def setting_rows(plan):
    """(name, value, origin) of every setting; paths absolute, so that any folder can resume."""
    values = asdict(plan.settings)
    for name in ("dataset", "val_shard", *PATHS):
        if values[name] and values[name] not in PRESETS:
            values[name] = os.path.abspath(values[name])
    return [(name, value, plan.origins[name]) for name, value in values.items()]


def _cell(value):
    """A value as the table shows it; config.json holds it in full."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
