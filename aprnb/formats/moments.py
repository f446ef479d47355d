"""Moments of a stream of numbers in float64, merged piece by piece.

    mean' = mean + d * n_b / n          d = mean_b - mean,  n = n_a + n_b
    m2'   = m2 + m2_b + d^2 n_a n_b / n                     Chan, Golub & LeVeque 1979

NaN and infinities are counted and left out of the moments. Means are exact to rounding even where
the mean is large against the deviation, which sums of squares are not.
"""
import math

import numpy as np


class Moments:
    """Running count, mean, deviation, extremes, and counts of special values."""

    def __init__(self):
        self.count = self.zeros = self.nan = self.inf = 0
        self._finite, self._mean, self._m2, self._abs = 0, 0.0, 0.0, 0.0
        self.min, self.max = math.inf, -math.inf

    def add(self, values, weights=None):
        """Take in values; weights say how often each occurs (default once)."""
        values = values.astype(np.float64, copy=False)
        weights = np.ones(len(values), np.int64) if weights is None else weights
        self.count += int(weights.sum())
        self.nan += int(weights[np.isnan(values)].sum())
        self.inf += int(weights[np.isinf(values)].sum())
        use = np.isfinite(values) & (weights > 0)
        values, weights = values[use], weights[use]
        n = int(weights.sum())
        if n == 0:
            return
        self.zeros += int(weights[values == 0].sum())
        mean = float(values @ weights) / n
        m2 = float((values - mean) ** 2 @ weights)
        total, d = self._finite + n, mean - self._mean
        self._m2 += m2 + d * d * self._finite * n / total
        self._mean += d * n / total
        self._abs += float(np.abs(values) @ weights)
        self._finite = total
        self.min, self.max = min(self.min, values.min()), max(self.max, values.max())

    @property
    def mean_abs(self):
        """Mean of the absolute finite values; None without any."""
        return self._abs / self._finite if self._finite else None

    def report(self):
        """The figures as JSON values; None where a figure is not finite or there is no value."""
        figures = {"mean": self._mean, "std": math.sqrt(self._m2 / max(self._finite, 1)),
                   "min": float(self.min), "max": float(self.max)}
        some = self._finite > 0
        return {"count": self.count,
                **{k: v if some and math.isfinite(v) else None for k, v in figures.items()},
                "zeros": self.zeros, "nan": self.nan, "inf": self.inf}
