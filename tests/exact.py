"""The whole package in float64: what a model, an evaluation or a run says without rounding.

The oracle computes float64 arrays in float64 (aprnb/oracle/wide.py), so only the type in which the
package stores has to be another. Weights and angles stay what they are in float32.
"""
from contextlib import contextmanager

import numpy as np
import pytest

from aprnb import backend
from aprnb.backend import open_backend
from aprnb.data.batches import Windows
from aprnb.data.shards import open_dataset
from aprnb.dtypes import PRECISIONS
from aprnb.formats.model_file import open_model
from aprnb.model import activations, instance
from aprnb.model.instance import Model
from aprnb.train import step
from aprnb.train.evaluate import Evaluator
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


def loss_rounding(path, dataset, length):
    """How far, at most, float32 moves the mean loss of a model file on all windows of a dataset."""
    def losses():
        with open_model(path) as source:
            model = Model.from_file(source, open_backend("cpu", "fp32"), trainable=False)
            windows, evaluator = Windows(open_dataset(dataset), length), Evaluator(model, 1, length)
            return np.stack([evaluator.losses(windows[i][None]) for i in range(len(windows))])
    exact, own = in_both(losses)
    return np.abs(own - exact).mean()
