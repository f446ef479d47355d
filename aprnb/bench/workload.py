"""What one optimiser step works on, the same for both sides."""
import numpy as np

LEARNING_RATE = 1e-5
BATCHES = 4  # take turns


def batches(vocab_size, batch, length):
    """Pairs (inputs, targets) of random token ids.  Shapes: each (batch, length) i32"""
    windows = np.random.default_rng(0).integers(0, vocab_size, (BATCHES, batch, length + 1),
                                                np.int32)
    return [(np.ascontiguousarray(w[:, :-1]), np.ascontiguousarray(w[:, 1:])) for w in windows]
