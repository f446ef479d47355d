"""How much of a token stream repeats: hashes of all 13-token windows, at every offset.

Windows at every offset find a copied document wherever it was pasted, which aligned training
windows would not. 13 tokens is the length GPT-3 used for contamination (Brown et al. 2020, C).
To bound memory only hashes divisible by a power of two are kept: the same windows are kept or
dropped in every place where they occur, so shares stay unbiased.
"""
import numpy as np

WIDTH = 13  # tokens
STEP = 1 << 15  # windows hashed at a time: the intermediate arrays stay in the cache
KEPT = 1 << 21  # hashes kept at most, about: 16 MiB
MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, 2^64 / golden ratio


def sampling_mask(tokens):
    """Low bits that must be zero for a hash to be kept, so that about KEPT of `tokens` stay."""
    return np.uint64((1 << max(0, (tokens // KEPT).bit_length())) - 1)


def window_hashes(blocks, mask):
    """Kept hashes (n,) u64 of the 13-token windows that lie inside the given (n,) u32 blocks."""
    kept = [np.zeros(0, np.uint64)]
    for block in blocks:
        for start in range(0, len(block) - WIDTH + 1, STEP):
            hashes = hash_windows(block[start:start + STEP + WIDTH - 1])
            kept.append(hashes[(hashes >> np.uint64(32)) & mask == 0])
    return np.concatenate(kept)


def hash_windows(block):
    """(n-12,) u64: one hash a window, built by doubling its width (1, 2, 4, 8, then 8+4+1)."""
    one = (block.astype(np.uint64) + np.uint64(1)) * MIX
    two = join(one, one, 1)
    four = join(two, two, 2)
    eight = join(four, four, 4)
    return join(join(eight, four, 8), one, 12)


def join(left, right, distance):
    """Hash of each `left[i]` followed by `right[i + distance]`."""
    n = len(right) - distance
    mixed = (left[:n] ^ (left[:n] >> np.uint64(29))) * MIX
    return mixed + right[distance:]


def repeated_share(hashes):
    """Share of windows that equal another, earlier one; 0 for none at all."""
    return 1 - count_distinct(hashes) / len(hashes) if len(hashes) else 0.0


def count_distinct(hashes):
    """How many different values (n,) u64 holds; by sorting, 8 times as fast as np.unique here."""
    ordered = np.sort(hashes)
    return min(len(hashes), 1) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def count_shared(hashes, others):
    """How many of `hashes` also occur in `others`; by sorting, for the same reason."""
    if not len(others):
        return 0
    ordered = np.sort(others)
    places = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return int(np.count_nonzero(ordered[places] == hashes))


def shared_share(hashes, others):
    """Share of `hashes` that also occur in `others`."""
    return count_shared(hashes, others) / len(hashes) if len(hashes) else 0.0
