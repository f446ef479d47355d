"""Learning rate as a function of the step: pure, so that what is logged is what is applied.

    warm-up   rate(s) = peak * (s + 1) / (warmup + 1)                       s < warmup
    constant  rate(s) = peak
    linear    rate(s) = peak + (low - peak) * p(s)
    cosine    rate(s) = low + (peak - low) * (1 + cos(pi * p(s))) / 2
    wsd       peak, then linear to low over the last fifth of the steps

Steps count from 0. p runs from 0 at s = warmup, where the rate is exactly peak, to 1 at the last
step of the horizon, where it is exactly low, and stays there in a run that is longer; a horizon
that ends at s = warmup ends at peak. The reference's warm-up, peak * s / warmup, makes step 0 a
step of rate 0, which learns nothing; ours does not.

Source: cosine, Loshchilov & Hutter 2017 (SGDR), eq. 5 without restarts; wsd (warm-up, stable,
decay), Hu et al. 2024 (MiniCPM), section 4, with the fifth of Haegele et al. 2024.
"""
import math
from dataclasses import dataclass

SHAPES = ("cosine", "linear", "constant", "wsd")
WSD_DECAY = 5  # the last 1/5 of the steps decay


@dataclass(frozen=True)
class Schedule:
    """The rate of every step of a run; settings.py has checked the numbers."""

    shape: str
    """One of SHAPES."""
    peak: float
    low: float
    """Rate of the horizon's last step, and of all after it (not of `constant`)."""
    warmup: int
    """Steps before the peak."""
    steps: int
    """The horizon: the length that the curve is laid out for; a run may be longer or shorter."""

    def rate(self, step):
        """Learning rate of a step, 0 <= step."""
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        if self.shape == "constant":
            return self.peak
        return self._between(self._progress(step))

    def _progress(self, step):
        """0 while the rate is at its peak, 1 from the last step of the horizon on."""
        last, start = self.steps - 1, self.warmup
        if self.shape == "wsd":
            start = max(start, last - self.steps // WSD_DECAY)
        if step >= last:
            return 1.0 if step > start else 0.0
        return (step - start) / (last - start) if step > start else 0.0

    def _between(self, progress):
        """Rate between peak (progress 0) and low (1), both exact."""
        if progress == 1:  # where the sum below may be a rounding away
            return self.low
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.peak + (self.low - self.peak) * progress
