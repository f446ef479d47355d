"""Memory-bound ops, as training calls them, against a copy on the same GPU in the same turns.

The norms also stand beside QuACK's, in a row of their own where it is installed.

GB/s count the bytes that an op has to move (cases.Op.moved), for the copy those read and written;
the ratio is the share of the copy's bandwidth that is reached. Arrays take turns, so that no cache
holds them.
"""
import importlib

from ..kernels.cuda import copy_in
from .cases import SHAPE, norms, ops, select
from .gpu import GpuBench, case_name, open_gpu, sets_beyond_cache
from .peers import open_peer
from .rows import Row
from .timing import Contestant

NORMS = {op.name for op in norms(SHAPE, 1)}
COPIED = 1 << 29  # elements of two bytes: 1 GiB is read and 1 GiB written


def measure(patterns, rounds, against, device, kernels):
    """Iterator of a Row of every op that the patterns select, of norms of one more.

    Errors: UsageError, DeviceError, MissingPackageError before anything is measured.
    """
    cases = select(ops(), patterns)
    backend = open_gpu(device, kernels)
    bench = GpuBench(backend, open_peer(against, backend), rounds)
    target, source = (bench.arrays.normal((COPIED,)) for _ in range(2))
    # not from a graph: there the driver copies at two thirds of the speed
    copy = Contestant(lambda: copy_in(target, source, bench.stream), 1)
    return (row for name, op in cases.items()
            for row in _rows(bench, case_name(name, kernels), op, copy))


def _rows(bench, name, op, copy):
    call = _call(bench, op)
    sets = [bench.arrays.arguments(op) for _ in range(sets_beyond_cache(min(op.moved, op.held)))]

    def lap():
        for arguments in sets:
            call(*arguments)

    peers, absent = {}, {}
    if bench.peer and op.name in NORMS:
        peers, absent = bench.beside({"QuACK": bench.peer.norm(op.name, sets)}, len(sets))
    own = bench.ours(lap, len(sets))
    ours, copies, *theirs = bench.rates([own, copy, *peers.values()], op.moved)
    copied = [rate * 4 * COPIED / op.moved for rate in copies]
    yield Row("memory", name, "GB/s", bench.device_name, ours, {"copy": copied},
              notes={"bytes": op.moved, "absent": absent})
    for peer, rates in zip(peers, theirs):
        yield Row("memory", f"{name}/{peer}", "GB/s", bench.device_name, ours, {peer: rates},
                  bench.how([peer]), {"bytes": op.moved})


def _call(bench, op):
    """The op as the backend has bound it, or one that is part of another op, from its file."""
    if op.home is None:
        return getattr(bench.ops, op.name)
    module = importlib.import_module(f"..kernels.{op.home}", __package__)
    return lambda *arguments: getattr(module, op.name)(*arguments, bench.stream)
