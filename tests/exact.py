"""The whole package in float64: what a model, an evaluation or a run says without float32's rounding.

The oracle computes float64 arrays in float64 (aprnb/oracle/wide.py), so only the type in which the
package stores has to be another. Weights and angles stay what they are in float32.
"""
from contextlib import contextmanager

import pytest

from aprnb import backend
from aprnb.dtypes import PRECISIONS
from aprnb.model import activations, instance
from aprnb.train import step
from tolerance import F64


@contextmanager
def float64():
    """Within it, precision fp32 on the CPU stores and computes in float64."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRECISIONS, "fp32", F64)
        for module in (backend, activations, instance, step):
            patch.setattr(module, "F32", F64)
        yield


def in_both(compute):
    """(what compute() returns in float64, what it returns in float32)."""
    with float64():
        truth = compute()
    return truth, compute()
