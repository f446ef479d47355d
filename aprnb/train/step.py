"""One optimiser step: gradients of a whole batch, clip, AdamW.

The batch is cut into micro-batches that fit in memory. Each adds its share of the gradient of

    loss = sum over target tokens of -log p / number of target tokens in the whole batch

so the result does not depend on the cut. The first micro-batch overwrites the gradients.
"""
import hashlib
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..dtypes import F32
from ..errors import Interrupted

PARTIALS = 1024  # parts, at most, of the gradient arena whose squares are summed separately
PART_ELEMENTS = 4096  # and elements that a part has at least


@dataclass(frozen=True)
class OptimiserSettings:
    """Constants of AdamW and of the clip; the rate comes with every update."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    decay_on: str = "matrices"
    """"matrices" leaves norms and biases undecayed; "all" decays every parameter."""
    grad_clip: float = 1.0
    """Largest global L2 norm of the gradient; 0 switches clipping off."""


class Trainer:
    """Gradients, moments and step count of one model.

    Host and device meet once a step, where `gradients` reads losses and norm; `update` only
    enqueues.
    """

    def __init__(self, model, batch_size, micro_batch, seq_length, settings, recompute="none"):
        """micro_batch: sequences per pass, or None for the largest divisor of batch_size that
        keeps the activations under MICRO_BATCH_BYTES;  recompute: what the backward pass computes
        anew instead of reading it (activations.RECOMPUTED)."""
        self.model, self.settings, self.step = model, settings, 0
        backend, n = model.backend, model.table.elements
        self.seq_length = seq_length
        self.micro_batch = micro_batch or choose_micro_batch(model, batch_size, seq_length,
                                                             recompute)
        self.decoder = model.decoder(self.micro_batch, seq_length, True, recompute)
        self.g, self.m, self.v = (backend.zeros(n, F32) for _ in range(3))
        self.grads = model.table.views(self.g)
        self.partials = backend.poisoned(min(PARTIALS, -(-n // PART_ELEMENTS)), F32)
        # what changes from step to step, in one small array that ops read
        self.scalars = backend.poisoned(5, F32)
        self.scale, self.lr, self.correction1, self.correction2, self.clip = (
            self.scalars[i:i + 1] for i in range(5))
        # what the host reads in every step, together: until it has, the device waits
        self.report = backend.poisoned(batch_size * seq_length + 1, F32)
        self.losses, self.norm = self.report[:-1], self.report[-1:]
        rows = self.micro_batch * seq_length
        self.ids, self.targets = (backend.array(np.zeros(rows, np.int32)) for _ in range(2))
        self.decayed = n if settings.decay_on == "all" else model.table.matrix_elements
        # three fixed sequences of ops; on a GPU each becomes one graph
        self._overwrite, self._add = (backend.program(partial(self._micro_step, accumulate))
                                      for accumulate in (False, True))
        self._measure = backend.program(self._measure_norm)
        self._apply = backend.program(self._apply_update)
        backend.build([self._overwrite, self._measure, self._apply]
                      + [self._add] * (batch_size > self.micro_batch))

    def gradients(self, inputs, targets):
        """(loss in nats, global gradient norm before clipping) of one batch.

        Shapes: inputs, targets (batch, seq_length) i32; a negative target counts for nothing.
        """
        backend = self.model.backend
        tokens = int((targets >= 0).sum())
        backend.upload(self.scale, np.array([1 / tokens], F32))
        for start in range(0, len(inputs), self.micro_batch):
            cut = slice(start, start + self.micro_batch)
            backend.upload(self.ids, inputs[cut].reshape(-1))
            backend.upload(self.targets, targets[cut].reshape(-1))
            (self._add if start else self._overwrite)()
            rows = slice(start * self.seq_length, cut.stop * self.seq_length)
            backend.copy(self.losses[rows], self.decoder.acts["losses"])
        self._measure()
        report = backend.download(self.report)
        return report[:inputs.size].sum(dtype=np.float64) / tokens, float(report[-1])

    def update(self, lr):
        """Clip by the norm of the last `gradients` call and take one AdamW step at this rate."""
        s = self.settings
        self.step += 1
        corrections = [1 - s.beta1 ** self.step, 1 - s.beta2 ** self.step]
        self.model.backend.upload(self.scalars[1:4], np.array([lr, *corrections], F32))
        self._apply()

    # ------------------------------------------------------------ what is enqueued

    def _micro_step(self, accumulate):
        self.decoder.forward(self.ids)
        self.decoder.backward(self.grads, self.ids, self.targets, self.scale, accumulate)

    def _measure_norm(self):
        ops = self.model.backend.ops
        ops.sum_of_squares(self.partials, self.g)
        ops.clip_factor(self.norm, self.clip, self.partials, self.settings.grad_clip)

    def _apply_update(self):
        model, s = self.model, self.settings
        model.backend.ops.adamw(
            model.master, None if model.master is model.work else model.work, self.m, self.v,
            self.g, self.lr, self.correction1, self.correction2, self.clip,
            s.beta1, s.beta2, s.eps, s.weight_decay, self.decayed)

    # ------------------------------------------------------------ resuming

    def state(self):
        """Moments and step count: with the weights, all that the next update depends on."""
        download = self.model.backend.download
        return {"m": download(self.m), "v": download(self.v),
                "step": np.array([self.step], np.int64)}

    def restore(self, state):
        """Put back what `state` returned; the arrays must be of this model's size."""
        self.model.backend.upload(self.m, state["m"])
        self.model.backend.upload(self.v, state["v"])
        self.step = int(state["step"][0])

    def state_digest(self):
        """SHA-256 of moments and step count."""
        digest = hashlib.sha256()
        for name, array in sorted(self.state().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # no copy
        return digest.hexdigest()


MICRO_BATCH_BYTES = {"cpu": 1 << 30, "cuda": 24 << 30}  # activations of one pass, chosen size


def choose_micro_batch(model, batch_size, seq_length, recompute="none"):
    """Largest divisor of batch_size whose activations stay under MICRO_BATCH_BYTES; at least 1."""
    limit = MICRO_BATCH_BYTES["cpu" if model.backend.name == "cpu" else "cuda"]
    fitting = (n for n in range(batch_size, 1, -1) if batch_size % n == 0
               and model.activation_plan(n, seq_length, True, recompute).nbytes <= limit)
    return next(fitting, 1)


def next_gradients(trainer, stream, interrupt):
    """(targets, seconds until the batch was there, (loss, norm)) of a BatchStream's next batch.

    However long it takes, an interrupt need not wait: nothing has changed yet but the place in the
    data, and that goes back. Errors: Interrupted.
    """
    began = time.perf_counter()
    before = {"pass_number": stream.pass_number, "position": stream.position}
    try:
        with interrupt.at_once():
            inputs, targets = next(stream)
            waited = time.perf_counter() - began
            return targets, waited, trainer.gradients(inputs, targets)
    except Interrupted:
        stream.restore(stream.state() | before)
        raise
