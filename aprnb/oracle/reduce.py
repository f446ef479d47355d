"""Reductions in a fixed order: the same input gives the same bytes on every run
on one kind of CPU; on another BLAS and NumPy add in another order.
"""
import numpy as np

from .wide import add_to, wide


def column_sum(out, x, accumulate):
    """out[c] (+)= sum over rows of x[r, c]: the gradient of a broadcast bias.

    Shapes:  out (C,) f32 in and out;  x (R, C) bf16|f32
    """
    add_to(out, wide(x).sum(axis=0), accumulate)


def sum_of_squares(partials, x):
    """partials[p] = sum of x^2 over the p-th of len(partials) equal, contiguous parts of x.

    The last parts are shorter, or empty, when the length does not divide.
    Shapes:  partials (P,) f32 out;  x (n,) f32
    """
    part = -(-len(x) // len(partials))
    for p in range(len(partials)):
        segment = wide(x[p * part:(p + 1) * part])
        partials[p] = np.dot(segment, segment)


def clip_factor(norm, clip, partials, max_norm):
    """Global L2 norm of the gradient and the factor that brings it down to max_norm.

        norm = sqrt(sum partials)      clip = min(1, max_norm / (norm + 1e-6))

    max_norm = 0 switches clipping off (clip = 1). The 1e-6 is PyTorch's (clip_grad_norm_).
    Shapes:  norm (1,) f32 out;  clip (1,) f32 out;  partials (P,) f32
    Source:  Pascanu et al. 2013, algorithm 1.
    """
    norm[0] = np.sqrt(wide(partials).sum())
    # minimum keeps NaN: a norm that is not a number must not pass as "no clipping"
    clip[0] = np.minimum(1, max_norm / (norm[0] + 1e-6)) if max_norm > 0 else 1
