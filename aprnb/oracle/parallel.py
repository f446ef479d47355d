"""All cores for the oracle: ops cut by rows, run on threads, sums added in block order.

NumPy computes element-wise work on one core and sends every temporary through memory. A block of
rows that fits in a core's cache removes the second cost, and threads the first (NumPy releases the
interpreter lock inside its loops). Products are cut the same way, so BLAS should be left with one
thread: its idle threads spin on the cores that these need (device/host.py sees to it). Where the
cuts lie depends on shapes alone, never on the number of threads, so neither does any bit. Within a
block BLAS and NumPy add as suits the CPU: on another kind of CPU the last bits are others.
"""
import inspect
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache, wraps

import numpy as np

BLOCK_BYTES = 1 << 20  # of the widest array: few enough blocks that threads rarely wait
_here = threading.local()  # .worker is set inside a block: nested ops run where they are


def threads():
    """Cores this process may use, or fewer if OMP_NUM_THREADS says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) > 0 else cores


@cache
def _pool():
    return ThreadPoolExecutor(threads())


def run_cuts(task, cuts):
    """task(cut) for every cut, in parallel; returns when all are done, raises what any raised.

    Threads take over the caller's np.errstate, which NumPy keeps for each thread by itself.
    """
    if len(cuts) < 2 or getattr(_here, "worker", False):
        for cut in cuts:
            task(cut)
        return

    errors = np.geterr()

    def in_worker(cut):
        _here.worker = True
        with np.errstate(**errors):
            task(cut)
    list(_pool().map(in_worker, cuts))


def block_cuts(arrays):
    """Slices over the common first axis, each about BLOCK_BYTES of the widest array."""
    n = len(arrays[0])
    row_bytes = max(1, max(a.nbytes for a in arrays) // max(n, 1))
    step = max(1, BLOCK_BYTES // row_bytes)
    return [slice(at, min(at + step, n)) for at in range(0, n, step)] or [slice(0, 0)]


def by_rows(*rows, sums=()):
    """Decorator: the op may be cut along the first axis (rows, or sequences) of the arguments
    named in `rows`.

    sums: arguments that the op reduces over rows; its last argument is then `accumulate`. Every
    block writes a partial of its own, and the partials are added in block order.
    """
    def decorate(op):
        names = list(inspect.signature(op).parameters)
        cut_at = [names.index(n) for n in rows]
        sum_at = [names.index(n) for n in sums]

        @wraps(op)
        def run(*args):
            cuts = block_cuts([args[i] for i in cut_at])
            if len(cuts) == 1:
                return op(*args)
            partials = {c.start: {i: np.empty_like(args[i]) for i in sum_at} for c in cuts}

            def block(cut):
                local = list(args)
                for i in cut_at:
                    local[i] = args[i][cut]
                for i, partial in partials[cut.start].items():
                    local[i], local[-1] = partial, False
                op(*local)
            run_cuts(block, cuts)
            for i in sum_at:
                _add_in_order(args[i], [partials[c.start][i] for c in cuts], args[-1])
        return run
    return decorate


def _add_in_order(target, partials, accumulate):
    if not accumulate:
        target[...] = 0
    for partial in partials:
        target += partial
