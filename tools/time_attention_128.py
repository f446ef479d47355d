#!/usr/bin/env python3
"""Times every variant of the backward pass at head dimension 128, whole and kernel by kernel.

    tools/time_attention_128.py [REPEATS]

Microseconds, medians of 5 rounds, variants in turn; TFLOP/s count 5 products over half the square.
12 query heads on 2 key heads. Results of the variants are compared with those of the first.
"""
import sys
from contextlib import contextmanager
from statistics import median

import numpy as np

from aprnb.bench.gpu import Arrays, GpuClock, open_gpu
from aprnb.dtypes import F32
from aprnb.kernels.cuda import copy_out
from aprnb.kernels.sm90 import attention, attention_backward_128

SHAPES = [(16, 1024), (8, 2048), (4, 4096), (4, 512)]
H, KVH, D, ROUNDS = 12, 2, 128, 5
VARIANTS = {"kept": {}, "kept, turns": {"turns": True}, "recomputed": {"keep": False},
            "recomputed, turns": {"keep": False, "turns": True}}


class Silent:
    """A kernel that is not launched."""

    def __getitem__(self, _):
        return lambda *arguments: None


@contextmanager
def only(part):
    """Launch one of the two kernels of a pass alone, or both."""
    op, silent = attention_backward_128, Silent()
    names = {"keys": ("query_gradients", "RECOMPUTED"), "queries": ("KEY_GRADIENTS",)}.get(part, ())
    before = {name: getattr(op, name) for name in names}
    for name, kernels in before.items():
        setattr(op, name, dict.fromkeys(kernels, silent) if isinstance(kernels, dict) else silent)
    yield
    for name, kernels in before.items():
        setattr(op, name, kernels)


def main():
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    backend = open_gpu("cuda", "auto")
    arrays, clock = Arrays(backend.device), GpuClock(backend.device.stream)
    for B, T in SHAPES:
        laps = laps_of(arrays, clock.stream, B, T)
        found = {name: [] for name in laps}
        for _ in range(ROUNDS):
            for name, (part, lap) in laps.items():
                with only(part):
                    lap()
                    start = clock.mark()
                    for _ in range(repeats):
                        lap()
                    end = clock.mark()
                clock.wait()
                found[name].append(clock.elapsed(start, end) / repeats * 1e3)
        for name, times in found.items():
            rate = 5 * B * H * T * T * D / median(times) / 1e6 if " of " not in name else None
            print(f"{B} x {T} | {name} | {median(times):.1f} us"
                  + (f" | {rate:.0f} TFLOP/s" if rate else ""), flush=True)


def laps_of(arrays, stream, B, T):
    """name -> (part, call) of the variants and their kernels, results compared."""
    qkv, do = arrays.normal((B, T, H + 2 * KVH, D)), arrays.normal((B, T, H, D))
    o, dqkv = arrays.normal(do.shape), arrays.normal(qkv.shape)
    lse, delta = (arrays.normal((B, H, T), F32) for _ in range(2))
    attention.attention_forward(o, lse, qkv, stream)
    attention.attention_backward(dqkv, delta, do, qkv, o, lse, stream)
    first = copy_out(dqkv, stream).astype(np.float32)
    lse2, padded = attention._padded_rows(B, T, H, stream)
    laps = {"whole, with delta": (None, lambda: attention.attention_backward(
        dqkv, delta, do, qkv, o, lse, stream))}
    for name, variant in VARIANTS.items():
        def lap(variant=variant):
            attention_backward_128.backward_128(dqkv, padded, lse2, do, qkv, stream, **variant)
        lap()
        difference = copy_out(dqkv, stream).astype(np.float32) - first
        print(f"{B} x {T} | {name} | differs by {np.abs(difference).max():.1e}", flush=True)
        laps |= {name: (None, lap), f"dK, dV of {name}": ("keys", lap),
                 f"dQ of {name}": ("queries", lap)}
    return laps


if __name__ == "__main__":
    main()
