"""README.md of a folder of evidence: every line is made from the files beside it."""
import json
import math
import shlex
from statistics import median

TRAINING = ("epoch", "train loss (nats)", "validation loss (nats)", "ln V", "validation ppl",
            "tokens/s (median)", "rate at its end", "largest norm")
LEDGER = ("falsifier", "hardware", "before", "after", "value", "gate", "plausible", "why")


def page(folder, record):
    """The text. folder: of the evidence;  record: what record.json will say."""
    verdicts = _read(folder / "verdicts.json")
    parts = [_what(record), _where(record), _training(folder), _ledger(verdicts),
             _hypotheses(verdicts), _not_proven(record, verdicts, folder), _inputs(record)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _what(record):
    clean = {True: "of a clean tree", False: "of a tree with changes of its own",
             None: "as it was given; whether the tree was clean is not known"}[record["tree_clean"]]
    lines = [f"# {record['name']}", "",
             "Made by the recorder from the files beside this one; `aprnb contracts status` says if"
             " one of them was changed.", "",
             "```", shlex.join(record["argv"]), "```", "",
             f"- exit code {record['exit_code']} after {record['seconds']:,.1f} s",
             f"- {record['date_utc']}, commit `{record['commit']}` {clean}"]
    return "\n".join(lines + [f"- note: {note}" for note in record["notes"]])


def _where(record):
    machine = record["hardware"]
    lines = ["## Hardware", "", f"- ran on: {record['device'] or 'not said by what ran'}"]
    lines += [f"- GPU: {gpu}" for gpu in machine["gpus"]] or ["- GPU: none found"]
    lines.append(f"- CPU: {machine['cpu']}, {machine['cores']} cores; {machine['system']} "
                 f"{machine['machine']}")
    lines.append("- " + ", ".join(f"{name} {v}" for name, v in record["versions"].items()))
    return "\n".join(lines)


def _inputs(record):
    rows = [(f"`{name}`", f"`{digest[:16]}`" if digest else "was not there")
            for name, digest in record["inputs"].items()]
    return _table("Inputs", ("file", "SHA-256, first 16 of 64 digits"), rows)


# ---------------------------------------------------------------- training

def _training(folder):
    """A row for every epoch whose metadata was copied."""
    epochs = [_read(file) for file in sorted(folder.glob("epoch-*.metadata.json"))]
    summary, config = _read(folder / "summary.json") or {}, _read(folder / "config.json")
    if not epochs:
        return ""
    steps = _steps(folder / "metrics.jsonl")
    every = config["settings"]["steps_per_epoch"]["value"] if config else None
    rows = []
    for epoch in epochs:
        mine = [s for s in steps if every and s["step"] // every == epoch["epoch"]]
        rows.append((str(epoch["epoch"]), _nats(epoch["train_loss"]), _nats(epoch["val_loss"]),
                     _nats(summary.get("ln_vocab")), _number(epoch["val_ppl"]),
                     _number(median(s["tokens_per_sec"] for s in mine) if mine else None),
                     _number(mine[-1]["lr"] if mine else None), _number(epoch["grad_norm_max"])))
    return _table("Training, epoch by epoch", TRAINING, rows) + _says(summary)


def _says(summary):
    """How the run ended, and what its losses are to be compared with."""
    if not summary:
        return "\n\nThe run did not end: it left no summary."
    entropy = summary.get("corpus_entropy_nats")
    knows = (f" A model that knows only how often each token comes scores {entropy:.4f} nats, the "
             "entropy of the corpus." if entropy is not None else "")
    return (f"\n\n{summary['status']}: {summary['detail']}. Device: {summary['device']}. ln V is "
            f"the loss of a uniform guess.{knows}")


def _steps(file):
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


# ---------------------------------------------------------------- falsifiers

def _ledger(document):
    if not document:
        return ""
    rows = []
    for one in document["verdicts"]:
        bounds = one["bounds"] or {}
        rows.append((one["falsifier"], one["hardware"], one["before"]["verdict"],
                     f"**{one['verdict']}**", _with_unit(one["value"], bounds),
                     _span(bounds.get("lower"), bounds.get("upper")),
                     _span(*(bounds.get("plausible") or (None, None))), one["reason"]))
    counts = ", ".join(f"{n} {word}" for word, n in document["counts"].items() if n)
    return _table("Falsifiers, before and after", LEDGER, rows) + f"\n\n{counts}."


def _hypotheses(document):
    """Every planted fault that was looked for is one: "the system has this fault"."""
    if not document:
        return ""
    rows = []
    for id, title in document["faults"].items():
        looked = [one for one in document["verdicts"] if id in one["faults"]]
        rows.append((f"`{id}`: {title}", *_state(id, looked)))
    return _table("Hypotheses: the system has this fault", ("hypothesis", "state", "by"), rows)


def _state(id, looked):
    """(state, by which falsifiers). Only one that was seen red with the fault, by the tests as they
    are, can refute it."""
    red = [one for one in looked if one["verdict"] == "RED"]
    refuted = [one for one in looked if one["verdict"] == "DISCHARGED" and id in one["seen_red"]]
    word = "OPEN-suspected" if red else "FALSIFIED" if refuted else "OPEN"
    names = [f"{one['falsifier']} ({one['hardware']})" for one in red or refuted]
    left = [one for one in looked if one not in red + refuted]
    if left and not red:
        names += [f"open: {one['falsifier']} ({one['hardware']}) "
                  + ("was not seen red with it" if one["verdict"] == "DISCHARGED"
                     else one["verdict"]) for one in left]
    return word, "; ".join(names)


# ---------------------------------------------------------------- limits

def _not_proven(record, document, folder):
    lines = []
    if record["exit_code"]:
        lines.append(f"The command ended with {record['exit_code']}: what it was to show is not "
                     "shown.")
    if not record["tree_clean"]:
        lines.append("That the code was that of the commit: the tree was not seen clean.")
    lines += _undischarged(document) if document else []
    if not document:
        lines.append("Any contract: no falsifier was run with it.")
    if not list(folder.glob("epoch-*.metadata.json")):
        lines.append("That a model learns: no training run is told of here.")
    lines.append("Anything about other machines, versions, seeds or data: it is one run on one "
                 "machine.")
    return "\n".join(["## What it does not prove", "", *(f"- {line}" for line in lines)])


def _undischarged(document):
    """Falsifiers that prove nothing here, those of one reason together."""
    groups = {}
    for one in document["verdicts"]:
        if one["verdict"] != "DISCHARGED":
            why = one["verdict"], one["hardware"], one["reason"]
            groups.setdefault(why, []).append(one["falsifier"])
    return [f"{', '.join(names)}: {word} on {side}, {reason}"
            for (word, side, reason), names in groups.items()]


# ---------------------------------------------------------------- words

def _read(file):
    return json.loads(file.read_text()) if file.is_file() else None


def _table(title, head, rows):
    """Markdown; nothing without rows."""
    if not rows:
        return ""
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join([f"## {title}", "", *("| " + " | ".join(
        str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
        for row in cells)])


def _with_unit(value, bounds):
    return "" if value is None else f"{_number(value)} {bounds['unit']}"


def _span(low, high):
    return "" if low is None else f"{_number(low)} to {_number(high)}"


def _nats(x):
    return "unknown" if x is None else f"{x:.4f}"


def _number(x):
    if not isinstance(x, int | float) or isinstance(x, float) and not math.isfinite(x):
        return "unknown" if x is None else str(x)
    return f"{x:,.0f}" if x == int(x) or abs(x) >= 1000 else f"{x:.4g}"
