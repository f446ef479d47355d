"""Fresh weights: normal(0, initializer_range), norms one, biases zero.

Every block of a tensor has a generator of its own, seeded by (seed, tensor, block): the same seed
gives the same weights on every machine, however many cores draw them.
"""
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ..dtypes import F32

BLOCK = 1 << 21  # elements: 8 MiB, some 20 ms of drawing
AHEAD = 4  # tensors that are drawn before they are asked for


def initial_weights(config, table, seed):
    """Iterator of (name, float32 array) over the tensors of a parameter table, in its order."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = deque()
        for number, row in enumerate(table.tensors.values()):
            waiting.append((row, *_start(pool, config, row, (seed, number))))
            if len(waiting) > AHEAD:
                yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _start(pool, config, row, seed):
    """(array, what still fills it) of one tensor."""
    if row.name.endswith("norm.weight"):
        return np.ones(row.shape, F32), []
    if row.name.endswith(".bias"):
        return np.zeros(row.shape, F32), []
    out = np.empty(row.size, F32)
    scale = F32.type(config.initializer_range)
    blocks = [pool.submit(_draw, out[start:start + BLOCK], scale, (*seed, start // BLOCK))
              for start in range(0, row.size, BLOCK)]
    return out.reshape(row.shape), blocks


def _draw(out, scale, seed):
    np.random.default_rng(seed).standard_normal(out=out, dtype=F32)
    out *= scale


def _finished(row, array, blocks):
    for block in blocks:
        block.result()
    return row.name, array
