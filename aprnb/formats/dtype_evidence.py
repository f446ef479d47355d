"""Does a matrix fit its 16-bit dtype? Evidence from the histogram of its bit patterns alone.

Weights come from a density that is smooth and finite at zero and falls off on both sides. Whatever
its scale, such a density spreads log2|x| in one characteristic way: the middle half of it spans
1.6 binades (uniform) to 2.3 (Laplace), and far below the median each binade holds half as many
values as the one above. Reading F16 bits as BF16 moves three mantissa bits into the exponent and
stretches the spread eightfold; reading BF16 bits as F16 shrinks it to an eighth. So a matrix is
named only when its own dtype gives an impossible spread and the other one gives a proper one. A
spread that is too narrow could also be real (a matrix of values near 1), so there the other reading
must show the long tail towards zero as well. The size of the weights plays no part.

Not judged: vectors (a norm near 1 looks the same in both), fewer than 64 finite non-zero values.
"""
import numpy as np

from .tensors import DENSE

OTHER = {"F16": "BF16", "BF16": "F16"}
FEWEST = 64  # values below which quantiles say nothing
NARROW, WIDE = 0.8, 6.0  # binades between the quartiles of |x| that no weights have
PROPER = (1.0, 3.9)  # binades: Gaussian 1.85, with rows of very different scale up to 3
PROPER_IF_WIDE = (1.0, 5.5)
LOWER_TAIL = (0.05, 0.35)  # share of values below a quarter of the median; Gaussian 0.134


def pattern_values(dtype):
    """Value of each of the 65,536 bit patterns, as float64."""
    patterns = np.arange(65536, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # signalling NaN patterns become quiet ones
        return patterns.view(DENSE[dtype]).astype(np.float64)


def fits_other(dtype, histogram, rank):
    """The 16-bit dtype that the bits really are, if it is not `dtype`; else None.

    histogram: (65536,) how often each bit pattern occurs.
    """
    if dtype not in OTHER or rank < 2:
        return None
    own, other = _shape_of(dtype, histogram), _shape_of(OTHER[dtype], histogram)
    if own is None or other is None:
        return None
    if own["spread"] > WIDE:
        proper = PROPER_IF_WIDE[0] <= other["spread"] <= PROPER_IF_WIDE[1]
    else:
        proper = own["spread"] < NARROW and _is_weight_like(other)
    return OTHER[dtype] if proper else None


def _shape_of(dtype, histogram):
    """Quartile spread of log2|x|, and the shares far below and far above the median, or None."""
    values = np.abs(pattern_values(dtype))
    use = np.isfinite(values) & (values > 0) & (histogram > 0)
    size, count = np.log2(values[use]), histogram[use].astype(np.int64)
    order = np.argsort(size)
    size, cumulative = size[order], np.cumsum(count[order])
    if not len(size) or cumulative[-1] < FEWEST:
        return None
    share = cumulative / cumulative[-1]
    first, median, third = (size[np.searchsorted(share, q)] for q in (0.25, 0.5, 0.75))
    below = np.searchsorted(size, median - 2)
    above = np.searchsorted(size, median + 2, side="right")
    return {"spread": third - first, "below": share[below - 1] if below else 0.0,
            "above": 1 - share[above - 1]}


def _is_weight_like(shape):
    """Proper spread, a long tail towards zero and none as long away from it."""
    return (PROPER[0] <= shape["spread"] <= PROPER[1]
            and LOWER_TAIL[0] <= shape["below"] <= LOWER_TAIL[1]
            and shape["above"] < shape["below"] + 0.03)
