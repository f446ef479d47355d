"""Known mistakes of a forward pass, each computed: what would a stage hold if it were made?

A hypothesis is a function of (Place, key) that yields (words, values): the mistake in words and
what comes of it, from the same inputs as the formula. bisect holds the values against the side that
departs; the one that reproduces its numbers names the fault. What would change nothing in this
model (a theta that it has anyway) is not yielded.

Most were met in real systems: the reference trainer and its peers dropped biases, rotated adjacent
pairs, fixed eps and theta, took the embedding for the head, scored unshifted targets.
"""
import numpy as np

from .mistakes import attention, ends, layers

HYPOTHESES = {**attention.KNOWN, **layers.KNOWN, **ends.KNOWN}
"""Kind of a stage -> what is tried there."""


def common(right, got):
    """(name, words, values) of mistakes that any stage can show, from what it should be and is."""
    missing = ~np.isfinite(got)
    if missing.any():
        rows = np.where(missing)[0]
        yield ("never_written", f"{missing.sum()} of {missing.size} values never written, or not "
               f"finite (rows {rows.min()} to {rows.max()} of {len(got)})",
               np.where(missing, got, right))
        return
    yield "zeros", "zeros", np.zeros_like(right)
    if len(right) > 1:  # a single number is every other number times something
        yield "row_before", "every row that of the row before", np.roll(right, 1, axis=0)
        yield "row_after", "every row that of the row after", np.roll(right, -1, axis=0)
        size = float((right * right).sum())
        factor = float((got * right).sum()) / size if size else 0.0
        yield "factor", f"all values times {factor:.4g}", right * factor
