"""Which known mistake makes one side's numbers of the stage at which two sides part?

Each side's stage is computed anew by its formula, from that side's own inputs. The side that its
formula does not reproduce is the one to explain; then every hypothesis is computed from the same
inputs, and the one that comes within the stage's limit, and nearer than half the formula's own
error, names the fault.
"""
from dataclasses import dataclass

import numpy as np

from .formulas import chain, formula, place
from .hypotheses import HYPOTHESES, common
from .substages import stages


@dataclass(frozen=True)
class Finding:
    """What is known about the first departure."""

    stages: tuple
    """The Stages that depart there together."""
    side: str | None
    """Whose numbers the formula does not reproduce; None if it reproduces both."""
    hypothesis: str | None
    """Name of the mistake that does."""
    words: str | None
    error: float | None
    """How far its numbers are from the side's, of the scale."""
    tried: tuple
    """(name, words, error) of every hypothesis, nearest first."""


@dataclass(frozen=True)
class Case:
    """Two traces of one model and batch, and the file that both should have computed."""

    config: object
    weight: object
    """Tensor name -> array."""
    ids: np.ndarray
    targets: np.ndarray

    def place(self, values, stage, head=None):
        return place(self.config, self.weight, self.ids, self.targets, values, stage, head)


def error(got, want):
    """Largest difference over the largest value of `want`; places that are finite in neither do
    not count, one that is finite in one alone is infinitely far."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    both = np.isfinite(got) & np.isfinite(want)
    if (np.isfinite(got) != np.isfinite(want)).any():
        return float("inf")
    if not both.any():
        return 0.0
    return float(np.abs(got - want)[both].max() / max(np.abs(want[both]).max(), 1e-30))


def explain(case, group, traces, limit):
    """Finding about stages that depart together, from complete traces of both sides.

    group: Stages of one kind and layer;  limit: of their departure.
    """
    with np.errstate(all="ignore"):  # a departing side may hold anything
        far = {t.side: max(error(t.values[s.path], formula(case.place(t.values, s), s.key))
                           for s in group) for t in traces}
        suspect = max(traces, key=lambda t: far[t.side])
        if far[suspect.side] <= limit / 2:
            return nothing_wrong(group)
        tried = _tried(case, group, suspect)
    return _finding(group, suspect.side, tried, min(limit, far[suspect.side] / 2))


def nothing_wrong(group):
    """Each side computes these stages rightly from what it has before them."""
    return Finding(tuple(group), None, None, None, None, ())


def explain_samples(case, known, probe, path, limit):
    """Finding where formulas and a reference of samples part at `path`: hypotheses are carried
    through the layer at which they part.

    known: values of the formulas.
    """
    order = [s.path for s in stages(case.config)]
    scope = _scope(case.config, path)
    first = min(order.index(s.path) for s in scope)
    before = {p: known[p] for p in order[:first]}
    want, cut = probe.trace.values[path], probe.trace.cut.get(path, ...)
    tried = []
    with np.errstate(all="ignore"):
        for keys in _groups(scope):
            for name, words, instead in _carried(case, known, scope, keys):
                values = chain(case.config, case.weight, case.ids, case.targets, before, instead,
                               path)
                tried.append((name, words, error(values[path][cut], want)))
    departing = [s for s in stages(case.config) if s.path == path]
    return _finding(departing, probe.trace.side, sorted(tried, key=lambda t: t[2]), limit)


# ---------------------------------------------------------------- at one stage

def _tried(case, group, side):
    """(name, words, error) of every hypothesis about stages that depart together, nearest first.

    Of each hypothesis the variant that is nearest to every stage: k may hold v's, and v k's.
    """
    found = {}
    for s in group:
        at = case.place(side.values, s, side.head)
        got = np.asarray(side.values[s.path], np.float64)
        variants = [(fn.__name__, words, alternative) for fn in HYPOTHESES[s.kind]
                    for words, alternative in fn(at, s.key)]
        nearest = {}
        for name, words, alternative in [*variants, *common(formula(at, s.key), got)]:
            far = error(got, alternative)
            if name not in nearest or far < nearest[name][0]:
                nearest[name] = far, words
        for name, each in nearest.items():
            found.setdefault(name, []).append(each)
    whole = [(name, " and ".join(dict.fromkeys(words for _, words in each)), max(each)[0])
             for name, each in found.items() if len(each) == len(group)]
    return sorted(whole, key=lambda t: t[2])


def _finding(group, side, tried, limit):
    """The nearest hypothesis within the limit; one of this kind of stage before one of any."""
    special = {fn.__name__ for s in group for fn in HYPOTHESES[s.kind]}
    near = [t for t in tried if t[2] <= limit]
    best = next((t for t in near if t[0] in special), near[0] if near else (None, None, None))
    return Finding(tuple(group), side, *best, tuple(tried))


# ---------------------------------------------------------------- through the whole model

def _scope(config, path):
    """Stages in which a fault can lie that shows first at this sampled path."""
    stage = next(s for s in stages(config) if s.path == path)
    if path == "mean_loss":
        return [s for s in stages(config) if s.kind in ("losses", "mean")]
    if path == "final_norm":  # the last layer's output is no sample
        return [s for s in stages(config) if s.layer == config.num_layers - 1 or s == stage]
    return [s for s in stages(config) if s == stage or s.layer == stage.layer is not None]


def _groups(scope):
    """Sets of keys that one mistake may have hit: each alone, and all of a kind."""
    kinds = {}
    for s in scope:
        kinds.setdefault(s.kind, []).append(s.key)
    alone = [(s.key,) for s in scope]
    return [*[tuple(keys) for keys in kinds.values() if len(keys) > 1], *alone]


def _carried(case, known, scope, keys):
    """(name, words, what to compute instead) of the hypotheses about these keys."""
    first = next(s for s in scope if s.key == keys[0])
    for fn in HYPOTHESES[first.kind]:
        for words, _ in fn(case.place(known, first), first.key):
            def instead(at, key, fn=fn, words=words):
                wrong = dict(fn(at, key)) if key in keys else {}
                return wrong[words] if words in wrong else formula(at, key)
            yield fn.__name__, words, instead
