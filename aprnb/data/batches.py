"""Windows of tokens, and the stream of batches that training reads.

A window is seq+1 consecutive tokens of one shard, windows do not overlap, and the remainder of each
shard is dropped: input = the first seq tokens, target = the last seq.

The order of pass p is a permutation drawn from (seed, p) alone, so a stream resumes exactly from
two integers. A pass whose windows do not fill its last batch carries them over: that batch is
completed with the first windows of the next pass. So every window is used once a pass, whatever
the batch size, and no batch is short.
"""
import hashlib
from functools import cached_property

import numpy as np

from ..errors import CheckError, UsageError
from .ngrams import count_distinct

ORDERS = ("shuffled", "sequential")
VALIDATION_SHARE = 20  # of the training data at most 1/20 = 5 % of the windows are held out
VALIDATION_DRAW = 0x76616C  # sets the draw of the validation windows apart from every pass
NAMED = 20  # shards that a report names; the others are counted
HASH_ROWS_TOKENS = 1 << 20  # tokens hashed at a time


class Windows:
    """The windows of a dataset: `len`, and `[i]` -> (seq+1,) i32."""

    def __init__(self, dataset, seq_length):
        """Errors: UsageError (seq_length < 1), CheckError (no shard holds seq_length+1 tokens)."""
        if seq_length < 1:
            raise UsageError(f"--seq-length {seq_length}: need at least 1 token")
        self.seq_length = seq_length
        width = seq_length + 1
        self.path, self._shards = dataset.path, dataset.shards
        self._starts = np.cumsum([0] + [len(shard) // width for shard in dataset.shards])
        if not len(self):
            raise CheckError(f"{dataset.path}: no window: the longest shard has "
                             f"{max(map(len, dataset.shards))} tokens, need {width} in one for "
                             f"--seq-length {seq_length}; use a shorter one or more text")

    def __len__(self):
        return int(self._starts[-1])

    def __getitem__(self, i):
        if not 0 <= i < len(self):
            raise IndexError(i)
        shard = int(np.searchsorted(self._starts, i, side="right")) - 1
        start = int(i - self._starts[shard]) * (self.seq_length + 1)
        return self._shards[shard][start:start + self.seq_length + 1].astype(np.int32)

    def left_out(self):
        """What no window holds: tokens at the ends of the shards, and shards shorter than one.

        {"tokens": all of them, "by_shard": {"count", "names": {file: tokens}}, "short_shards":
        {"count", "names": {file: tokens}}}; of the names at most NAMED.
        """
        width = self.seq_length + 1
        ends = {shard.file.name: len(shard) % width for shard in self._shards if len(shard) % width}
        short = {shard.file.name: len(shard) for shard in self._shards if len(shard) < width}
        return {"tokens": sum(ends.values()), "by_shard": _named(ends),
                "short_shards": _named(short)}

    def batch(self, indices):
        """(inputs (B, T), targets (B, T)) i32 of the windows named by B indices."""
        rows = np.stack([self[int(i)] for i in indices])
        return np.ascontiguousarray(rows[:, :-1]), np.ascontiguousarray(rows[:, 1:])

    @cached_property
    def hashes(self):
        """(windows,) u64: equal windows have equal hashes; different ones differ but for chance
        (2^-64 a pair)."""
        odd = np.random.Generator(np.random.PCG64(0)).integers(
            0, 1 << 63, self.seq_length + 1, np.uint64) * np.uint64(2) + np.uint64(1)
        width = self.seq_length + 1
        step = max(1, HASH_ROWS_TOKENS // width) * width
        parts = []
        for shard in self._shards:
            whole = len(shard) // width * width
            for start in range(0, whole, step):
                rows = shard[start:min(start + step, whole)].reshape(-1, width)
                parts.append((rows.astype(np.uint64) * odd).sum(axis=1, dtype=np.uint64))
        return np.concatenate(parts)


class BatchStream:
    """Endless batches over some windows; iterate for (inputs, targets), each (B, T) i32."""

    def __init__(self, windows, indices, batch_size, order="shuffled", seed=42):
        """`indices` are ascending window numbers, such as split_validation gives.

        Errors: UsageError (order, batch size, seed), CheckError (fewer windows than one batch).
        """
        if order not in ORDERS:
            raise UsageError(f"--order {order}: need one of {', '.join(ORDERS)}")
        if batch_size < 1:
            raise UsageError(f"--batch-size {batch_size}: need at least 1 window")
        if seed < 0:
            raise UsageError(f"--seed {seed}: need 0 or more")
        if len(indices) < batch_size:
            raise CheckError(f"{len(indices)} windows of {windows.seq_length + 1} tokens to train "
                             f"on, need {batch_size} for one batch; use more text, a smaller "
                             "--batch-size or a shorter --seq-length")
        self.windows, self.indices, self.batch_size = windows, indices, batch_size
        self.order, self.seed = order, seed
        self._begin(0, 0)

    def _begin(self, pass_number, position):
        self.pass_number = pass_number
        """Pass that the next window comes from, counted from 0; it grows when a new one begins."""
        self.position = position
        """Windows of this pass already used."""
        self._order = np.asarray(self.indices)
        if self.order == "shuffled":
            generator = np.random.Generator(np.random.PCG64([self.seed, pass_number]))
            self._order = generator.permutation(self._order)

    def __iter__(self):
        return self

    def __next__(self):
        chosen = []
        while len(chosen) < self.batch_size:
            if self.position == len(self._order):
                self._begin(self.pass_number + 1, 0)
            wanted = self.batch_size - len(chosen)
            taken = self._order[self.position:self.position + wanted]
            chosen.extend(taken)
            self.position += len(taken)
        return self.windows.batch(chosen)

    @cached_property
    def _windows(self):
        return identity(self.indices)

    def state(self):
        """What `restore` needs to go on with the next batch, as JSON-able values."""
        return {"pass_number": self.pass_number, "position": self.position, "order": self.order,
                "seed": self.seed, "windows": self._windows,
                "seq_length": self.windows.seq_length}

    def restore(self, state):
        """Go on exactly where `state` was taken. The batch size may differ.

        Errors: CheckError when the state is of other windows, another order or another seed.
        """
        mine = self.state()
        for key in ("order", "seed", "windows", "seq_length"):
            if state.get(key) != mine[key]:
                raise CheckError(f"resume: {key} was {state.get(key)}, now it is {mine[key]}; the "
                                 "batches would differ, resume with the settings of the run")
        if not 0 <= state["position"] <= len(self.indices):
            raise CheckError(f"resume: position {state['position']} of {len(self.indices)} windows")
        self._begin(state["pass_number"], state["position"])


def split_validation(n_windows, wanted, order="shuffled", seed=42):
    """(training, validation) window numbers, both ascending; together they are all of them.

    Validation gets min(wanted, 5 % of the windows), at least one window: drawn over all windows by
    the seed (shuffled), or the last ones (sequential, both as ranges). With one seed a smaller
    draw is part of a larger one. Errors: CheckError when no window is left to train on.
    """
    n_val = max(1, min(wanted, n_windows // VALIDATION_SHARE))
    if n_windows - n_val < 1:
        raise CheckError(f"{n_windows} windows: need at least 2, one to train on and one to "
                         "validate on; use more text, a shorter --seq-length or --val-shard")
    if order == "sequential":
        return range(n_windows - n_val), range(n_windows - n_val, n_windows)
    val = draw(n_windows, n_val, seed)
    train = np.ones(n_windows, bool)
    train[val] = False
    return np.flatnonzero(train), val


def draw(n_windows, wanted, seed):
    """(min(wanted, n_windows),) i64 ascending window numbers, drawn over all by the seed."""
    generator = np.random.Generator(np.random.PCG64([seed, 0, VALIDATION_DRAW]))
    return np.sort(generator.permutation(n_windows)[:wanted])


def identity(indices):
    """Which window numbers these are, JSON-able: [start, stop] of a range, else count and digest
    of the numbers as little-endian i64."""
    if isinstance(indices, range):
        return [indices.start, indices.stop]
    digest = hashlib.sha256(np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()
    return {"count": len(indices), "sha256": digest}


def _named(found):
    """The first NAMED of some names, and how many there are."""
    return {"count": len(found), "names": dict(list(found.items())[:NAMED])}


def count_repeats(windows):
    """How many windows equal an earlier one."""
    return len(windows) - count_distinct(windows.hashes)
