"""Preflight: one window of the real data through the oracle and through the device, before step 0.

A device whose forward pass differs from the oracle's trains something, and every later number looks
plausible. This costs seconds and names the first place where the two part. The oracle's weights
come from the source file, not from the device, so a wrong upload is seen too.

Tolerance. truth = the oracle in float32, peer = the oracle in the device's precision.
    fp32:  departure <= FP32_LIMIT                      two orders in which to add, nothing else
    bf16:  departure <= 2 departure(peer) + 2^-7        twice what rounding alone does
Departures are measured against the largest value of each stage.
"""
import math
from dataclasses import asdict, dataclass, field

import numpy as np

from ..backend import open_backend
from ..errors import CheckError
from ..model.stages import all_logits, departure, stages

FP32_LIMIT = 1e-4  # the trained 10M checkpoint departs by 2e-6 in its worst stage
BF16_STEP = 2.0 ** -7  # relative distance of neighbouring bfloat16 values
POSITIONS = 256  # of the window: enough for RoPE, mask and every head; the oracle runs in seconds


@dataclass(frozen=True)
class PreflightReport:
    """What the two sides said of the same window."""

    loss_nats_device: float
    loss_nats_oracle: float
    ln_vocab_nats: float
    worst_stage: str
    worst_departure: float
    """Largest departure of any stage, in units of that stage's limit."""
    positions: int
    stages: list = field(default_factory=list)
    """(name, departure, limit) of every stage, in data-flow order."""

    def as_dict(self):
        return asdict(self)

    @property
    def lines(self):
        """For people."""
        return [f"preflight: {self.positions} real tokens, loss {self.loss_nats_device:.4f} nats "
                f"on the device, {self.loss_nats_oracle:.4f} from the oracle, ln V = "
                f"{self.ln_vocab_nats:.4f}; worst stage: {self.worst_stage}, "
                f"{self.worst_departure:.0%} of its limit"]


def preflight(model, window):
    """Compare a model on its device with the oracle on one window of tokens.

    window: (seq + 1,) i32; the first POSITIONS + 1 of it are used.
    Errors: CheckError naming the first stage that departs.
    """
    window = np.asarray(window[:POSITIONS + 1], np.int32)
    got = _trace(model, window)
    truth = _trace(model.twin(open_backend("cpu", "fp32")), window)
    peer = truth
    if model.backend.precision != "fp32":
        same = open_backend("cpu", model.backend.precision, residual=model.backend.residual)
        peer = _trace(model.twin(same), window)
    rows = [(name, departure(got[name], truth[name]), _limit(model, peer[name], truth[name]))
            for name in truth]
    report = _report(model, rows, got["loss"], truth["loss"], len(window) - 1)
    for name, value, limit in rows:
        if not value <= limit:
            raise CheckError(
                f"preflight: {model.backend.name} ({model.backend.precision}) departs from the "
                f"oracle first at {name}: {value:.1e} of its scale, limit {limit:.1e}; loss "
                f"{report.loss_nats_device:.4f} on the device, {report.loss_nats_oracle:.4f} from "
                "the oracle. Nothing was trained. Try --device cpu, and report this")
    return report


def _trace(model, window):
    """Name -> float64 values of every stage, the logits and the mean loss."""
    decoder = model.decoder(1, len(window) - 1, training=True)
    backend = model.backend
    decoder.forward(backend.array(window[:-1].copy()))
    out = {name: backend.download(decoder.acts[buffer]).astype(np.float64)
           for name, buffer in stages(model.config)}
    out["logits"] = all_logits(model, decoder)
    losses = decoder.losses(backend.array(window[1:].copy()))
    out["loss"] = backend.download(losses).mean(dtype=np.float64)
    return out


def _limit(model, peer, truth):
    if model.backend.precision == "fp32":
        return FP32_LIMIT
    return 2 * departure(peer, truth) + BF16_STEP


def _report(model, rows, loss, loss_oracle, positions):
    name, value, limit = max(rows, key=lambda row: row[1] / row[2])
    return PreflightReport(float(loss), float(loss_oracle), math.log(model.config.vocab_size),
                           name, value / limit, positions, rows)
