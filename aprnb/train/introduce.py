"""The resolved configuration of a run on the screen, before the first step.

Every value stands with its origin, see ORIGINS in settings.py; config.json holds the same.
"""
from ..words import counted
from .config_file import setting_rows

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


def data_lines(s, data):
    """Which windows are trained and validated on, and what no evaluation and no window holds."""
    n, wanted, counts = len(data.val_indices), s.wanted_val_windows(), data.counts()
    what = (f"{'drawn' if s.val_order == 'shuffled' else 'the first'} of {s.val_shard}"
            if s.val_shard else "drawn over all" if s.val_order == "shuffled" else "of its tail")
    fewer = "" if n == wanted else f" ({wanted:,} asked for" + (
        ")" if s.val_shard else ", at most 5 % of the windows)")
    windows, length = counted(len(data.train_indices), "window"), data.train.seq_length
    yield (f"data     {s.dataset}: {windows} of {counted(length, 'target token')} to train on, "
           f"{n:,} {what} to validate on{fewer}")
    places = {"dataset": s.dataset}
    left = [f"{counted(rest['tokens'], 'token')} of {places.get(name, s.val_shard)} that fill no "
            "window" for name, rest in counts["tokens_in_no_window"].items() if rest["tokens"]]
    if counts["val_windows_left_out"]:
        unused = counted(counts["val_windows_left_out"], "window")
        left.insert(0, f"{unused} of {s.val_shard}, never validated on (--val-windows takes more)")
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


def _cell(value):
    """A value as the table shows it; config.json holds it in full."""
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
