"""Gates: two-sided bounds on what a run measures, each a pure function that returns a Gate.

A gate passes when low <= value <= high; a value that is not a number never passes. Names end in
the unit of the value. Losses are in nats, so a uniform guess over V tokens scores ln V
(ln 151643 = 11.93; the 17.21 quoted elsewhere is log2, bits).

    GATE-TRAIN-001  every record has all its fields            record_fields_count
               002  an epoch leaves a checkpoint and metadata  checkpoint_files_count
               003  the target holds at the end                final_val_loss_nats
               004  validation improves within `patience`      epochs_without_improvement_count
               005  no divergence                              val_loss_nats
               007  finite loss and gradient                   loss_nats, grad_norm
               008  speed and utilisation are real             tokens_per_sec, gpu_util_pct
               010  every recorded step was an update          optimiser_updates_count
               EXHAUST           a full batch of real tokens   target_tokens_count
               CORPUS-PREFLIGHT  ids in range                  data.audit.refuse_meaningless

006 (same seed, same losses) and 009 (a mode sets its defaults together) are promises about
several runs: tests/test_resume.py and tests/test_settings.py hold them.
"""
import math
import sys
from dataclasses import asdict, dataclass

FLOAT_MAX = sys.float_info.max

# Logits near 16 are 1.9e-6 apart in float32 and a loss is their difference: below this a mean loss
# is rounding, not measurement. 0.0, what an evaluation of nothing once "scored", lies below.
LOSS_FLOOR_NATS = 1e-6

DIVERGENCE_RATIO = 2.0  # largest val[n] / val[n-1]; exactly 2 passes
FASTEST_TOKENS_PER_SEC = 1e9  # of any machine; more means that the clock was not read


@dataclass(frozen=True)
class Gate:
    """The outcome of one gate."""

    id: str
    name: str
    """What was measured, ending in its unit."""
    value: float | None
    low: float
    high: float
    ok: bool
    message: str

    def as_json(self):
        """A dict; a value that JSON cannot hold (NaN, Inf) becomes text."""
        out = asdict(self)
        if self.value is not None and not math.isfinite(self.value):
            out["value"] = str(self.value)
        return out

    @classmethod
    def from_json(cls, gate):
        """The Gate of such a dict."""
        value = gate["value"]
        return cls(**gate | {"value": float(value) if isinstance(value, str) else value})


def between(gate_id, name, value, low, high, meaning):
    """Gate that passes when low <= value <= high."""
    ok = bool(low <= value <= high)  # False for NaN
    verdict = "holds" if ok else "FAILED"
    return Gate(f"GATE-TRAIN-{gate_id}", name, value, low, high, ok,
                f"GATE-TRAIN-{gate_id} {verdict}: {name} {_short(value)}, need {_short(low)} to "
                f"{_short(high)}: {meaning}")


def _short(value):
    return "the largest float" if value == FLOAT_MAX else f"{value:.6g}"


# ---------------------------------------------------------------- every step

def full_batch(target_tokens, expected):
    """EXHAUST: a batch holds every token that it should, also after the data were read once."""
    return between("EXHAUST", "target_tokens_count", target_tokens, expected, expected,
                   "the end of the data must start a new pass, not yield placeholders")


def finite_loss(loss_nats):
    """007 for the loss: cross-entropy is finite and not negative, apart from rounding."""
    return between("007", "loss_nats", loss_nats, -LOSS_FLOOR_NATS, FLOAT_MAX,
                   "the training loss must be finite and cannot be negative")


def finite_gradient(grad_norm):
    """007 for the gradient: a norm of exactly 0 means that no gradient arrived."""
    return between("007", "grad_norm", grad_norm, sys.float_info.min, FLOAT_MAX,
                   "the gradient must be finite and not zero")


def speed(tokens_per_sec):
    """008 for the speed."""
    return between("008", "tokens_per_sec", tokens_per_sec, sys.float_info.min,
                   FASTEST_TOKENS_PER_SEC, "a step takes time and reads tokens")


def utilisation(gpu_util_pct):
    """008 for the GPU's utilisation, where it is known."""
    return between("008", "gpu_util_pct", gpu_util_pct, 0, 100, "a share of the time in percent")


def record_fields(record, fields):
    """001: the record has exactly the fields of metrics.jsonl."""
    present = len(record.keys() & set(fields)) - len(record.keys() - set(fields))
    return between("001", "record_fields_count", present, len(fields), len(fields),
                   f"every record holds {', '.join(fields)}, and nothing else")


# ---------------------------------------------------------------- every epoch

def divergence(history_nats, first_limit_nats):
    """005: the newest validation loss against the one before, or the first against its limit."""
    newest = history_nats[-1]
    if len(history_nats) == 1:
        return between("005", "val_loss_nats", newest, LOSS_FLOOR_NATS, first_limit_nats,
                       "limit of the first epoch (--max-epoch0-loss); above ln V nats a model is "
                       "worse than guessing, so its forward pass or its data are wrong")
    return between("005", "val_loss_nats", newest, LOSS_FLOOR_NATS,
                   DIVERGENCE_RATIO * history_nats[-2],
                   f"at most {DIVERGENCE_RATIO:g} times the {history_nats[-2]:.4f} of the epoch "
                   "before; the run diverges, try a lower --lr")


def patience(history_nats, epochs):
    """004: a validation loss below all before it within the last `epochs` epochs."""
    best = min(range(len(history_nats)), key=history_nats.__getitem__)
    without = len(history_nats) - 1 - best
    return between("004", "epochs_without_improvement_count", without, 0, epochs - 1,
                   f"the best validation loss is {history_nats[best]:.4f} nats of epoch {best}")


def epoch_files(files):
    """002: checkpoint and metadata of the epoch are on the disk."""
    present = sum(file.is_file() and file.stat().st_size > 0 for file in files)
    return between("002", "checkpoint_files_count", present, len(files), len(files),
                   f"{' and '.join(file.name for file in files)} must have been written")


def real_updates(updates, recorded):
    """010: the optimiser took exactly one update for each record; nothing is simulated."""
    return between("010", "optimiser_updates_count", updates, recorded, recorded,
                   "one AdamW update for every recorded step")


# ---------------------------------------------------------------- the end

def target(final_val_loss_nats, target_nats):
    """003: the last validation loss reaches --target-val-loss."""
    return between("003", "final_val_loss_nats", final_val_loss_nats, LOSS_FLOOR_NATS,
                   target_nats, "--target-val-loss")


def default_first_limit_nats(fine_tuning, vocab_size):
    """Largest first validation loss: 10.0 from given weights, 2 ln V from random ones."""
    return 10.0 if fine_tuning else 2 * math.log(vocab_size)
