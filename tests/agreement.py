"""How far two models agree in what they predict, position by position.

A ratio of deviations is blind to order and sign, and noise over a large vocabulary has a high peak:
so logits are compared as vectors, by the cosine after their mean is taken off, and as predictions,
by the divergence from those wanted.
"""
import numpy as np


def worst_cosine(got, want):
    """The smallest cosine over all positions.  Shapes: got, want (R, V)"""
    got, want = (x - x.mean(axis=1, keepdims=True) for x in map(np.float64, (got, want)))
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(want, axis=1)
    return float(((got * want).sum(axis=1) / lengths).min())


def worst_divergence(got, want):
    """The largest Kullback-Leibler divergence of softmax(got) from softmax(want), in nats."""
    got, want = (log_softmax(x) for x in map(np.float64, (got, want)))
    return float((np.exp(want) * (want - got)).sum(axis=1).max())


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))
