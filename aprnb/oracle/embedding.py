"""Token embedding: y[r] = table[ids[r]], and its transpose, a scatter-add in row order."""
import numpy as np

from .wide import wide


def embedding_forward(y, table, ids):
    """Shapes:  y (R, C) bf16|f32 out;  table (V, C);  ids (R,) i32, each in 0..V-1"""
    y[...] = table[ids]


def embedding_backward(dtable, dy, ids, accumulate):
    """dtable[ids[r]] += dy[r]; rows of one id are added in ascending r.

    Without accumulate every row of the table is written, those of absent ids with zero. A tied
    table is written by the head first, so its embedding gradient always accumulates.
    Shapes:  dtable (V, C) f32 in and out;  dy (R, C) bf16|f32;  ids (R,) i32
    """
    if not accumulate:
        dtable[...] = 0
    order = np.argsort(ids, kind="stable")
    used, start = np.unique(ids[order], return_index=True)
    dtable[used] += np.add.reduceat(wide(dy)[order], start, axis=0)
