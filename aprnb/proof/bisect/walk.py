"""Two forward passes of one model differ: where first, and by which mistake?

The walk: the tensors against the file, then every stage in data-flow order. The first stage whose
largest difference, over the stage's scale, is above its limit is where the fault lies: what it is
computed from agrees. explain.py then tries the known mistakes on it.

Limits are those of preflight: 1e-4 in float32; in bfloat16 twice what rounding alone does to the
oracle, plus 2^-7. Samples of a reference: those of parity. The mean loss is held against the losses
of its own side, so it has the limit of float32 everywhere.
"""
from dataclasses import dataclass

import numpy as np

from ...backend import open_backend
from ...model.instance import Model
from ...model.stages import departure
from ...train.parity import LIMITS
from ...train.preflight import BF16_STEP, FP32_LIMIT
from .explain import Case, error, explain, explain_samples, nothing_wrong
from .formulas import chain
from .probes import digests, probes
from .sentence import sample_sentence, sentence
from .substages import stages
from .trace import Trace, trace
from .upload import compare_digests, compare_upload

SEQUENCES = 3  # so that positions that run on are seen, and rows that fill no tile


@dataclass(frozen=True)
class Row:
    """One stage of two sides."""

    stage: object
    against: str
    """Whose numbers are wanted."""
    cosine: float
    largest: float
    """Largest difference of any element."""
    departure: float
    """The same over the largest value that is wanted."""
    limit: float

    @property
    def ok(self):
        return self.departure <= self.limit


@dataclass
class Report:
    """What a walk found."""

    sides: tuple
    tokens: tuple
    """(sequences, positions) of the first batch."""
    tensors: int = 0
    differences: tuple = ()
    """Tensors that are not what the file says."""
    rows: tuple = ()
    finding: object = None
    """explain.Finding about the first stage that departs."""
    sentence: str | None = None
    """None: everything agrees."""


def bisect_between(source, first, second, tokens, seed=0):
    """Report on two backends that load the same opened model, over random ids.

    tokens: positions of each of SEQUENCES sequences.
    """
    window = np.random.default_rng(seed).integers(0, source.config.vocab_size,
                                                  (SEQUENCES, tokens + 1)).astype(np.int32)
    ids, targets = window[:, :-1], window[:, 1:]
    report = Report((_side(first), _side(second)), ids.shape)
    traces = []
    for backend in (first, second):
        model = _loaded(report, source, backend)
        traces.append(trace(model, ids, targets))
    traces[1].side += " (the second)" if traces[0].side == traces[1].side else ""
    limits = _limits(source, (first, second), ids, targets)
    _walk(report, _case(source, ids, targets), traces, limits)
    return report


def bisect_reference(source, backend, reference):
    """Report on a backend and a reference (probes.py) of the same model.

    Errors: CheckError if the reference holds nothing to compare, or is of another model.
    """
    found = probes(reference, source.config)
    report = Report((found[0].trace.side, _side(backend)), found[0].ids.shape)
    _differ(report, compare_digests(source, digests(reference)))
    model = _loaded(report, source, backend)
    for probe in found:
        case = _case(source, probe.ids, probe.targets)
        got = trace(model, probe.ids, probe.targets)
        limits = _limits(source, (backend,), probe.ids, probe.targets)
        if probe.complete:
            _walk(report, case, [probe.trace, got], limits)
        else:
            _walk_samples(report, case, probe, got, limits, LIMITS[backend.precision])
        if report.finding:
            break
    return report


def compare(config, want, got, limits):
    """A Row for every stage that both traces know. limits: path -> limit"""
    rows = []
    with np.errstate(all="ignore"):
        for stage in stages(config):
            if stage.path in want.values and stage.path in got.values:
                a, b = _pair(stage.path, want, got)
                rows.append(Row(stage, want.side, _cosine(b, a), float(np.abs(b - a).max()),
                                departure(b, a), limits[stage.path]))
    return rows


def _pair(path, want, got):
    """Values to compare: as far as they are known; of the mean, what goes beyond the difference
    that the losses have already."""
    a, b = (np.asarray(t.values[path], np.float64) for t in (want, got))
    if path == "mean_loss" and "losses" in want.values:
        b = b + want.values["losses"].mean(dtype=float) - got.values["losses"].mean(dtype=float)
    return a, b[want.cut[path]] if path in want.cut else b


# ---------------------------------------------------------------- the walk

def _walk(report, case, traces, limits, note=""):
    """Compares two complete traces and explains the first departure."""
    rows = compare(case.config, *traces, limits)
    report.rows += tuple(rows)
    group = first_departure(rows)
    if group:
        finding = explain(case, [row.stage for row in group], traces, group[0].limit)
        _found(report, finding, sentence(case.config, finding, group) + note)


def _walk_samples(report, case, probe, got, limits, parity_limits):
    """Compares with samples; where they depart, formulas that reproduce them stand in for what the
    reference does not hold."""
    coarse = dict.fromkeys(limits, parity_limits["scale"])
    coarse["mean_loss"] = parity_limits["heldout"]
    rows = compare(case.config, probe.trace, got, coarse)
    report.rows += tuple(rows)
    group = first_departure(rows)
    if not group:
        return
    known = chain(case.config, case.weight, case.ids, case.targets)
    formulas = Trace("plain NumPy", known)
    off = first_departure(compare(case.config, probe.trace, formulas, coarse))
    if off:
        finding = explain_samples(case, known, probe, off[0].stage.path, off[0].limit)
        _found(report, finding, sample_sentence(finding, off[0]))
        return
    _walk(report, case, [formulas, got], limits,
          f"; {probe.trace.side} agrees with plain NumPy, which stands in for the stages between "
          "its samples")
    if report.finding is None:  # at the very edge of a limit
        finding = nothing_wrong([row.stage for row in group])
        _found(report, finding, sentence(case.config, finding, group))


def first_departure(rows):
    """Rows of the first step that departs: q and k, say, if both do."""
    first = next((row for row in rows if not row.ok), None)
    return [row for row in rows if not row.ok and
            (row.stage.layer, row.stage.step) == (first.stage.layer, first.stage.step)]


def _found(report, finding, words):
    report.finding = finding
    report.sentence = report.sentence or words


# ---------------------------------------------------------------- before the walk

def _loaded(report, source, backend):
    model = Model.from_file(source, backend, trainable=False)
    report.tensors, wrong = compare_upload(source, model)
    _differ(report, wrong)
    return model


def _differ(report, differences):
    """A tensor that differs comes before any stage."""
    report.differences += tuple(differences)
    if differences and report.sentence is None:
        more = f" ({len(differences)} tensors differ)" if len(differences) > 1 else ""
        report.sentence = differences[0].sentence + more


def _limits(source, backends, ids, targets):
    """Path -> limit. In bfloat16 from what rounding does to the oracle on these ids."""
    limits = {stage.path: FP32_LIMIT for stage in stages(source.config)}
    if all(backend.precision == "fp32" for backend in backends):
        return limits
    truth, peer = (trace(Model.from_file(source, open_backend("cpu", precision), trainable=False),
                         ids, targets).values for precision in ("fp32", "bf16"))
    for path in limits.keys() - {"mean_loss"}:
        limits[path] = 2 * error(peer[path], truth[path]) + BF16_STEP
    return limits


def _case(source, ids, targets):
    return Case(source.config, source.array, ids, targets)


def _side(backend):
    return f"{backend.name}, {backend.precision}"


def _cosine(a, b):
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size else float((a == b).all())
