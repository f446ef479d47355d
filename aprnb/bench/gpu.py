"""What a bench needs of a GPU: a clock, graphs of many launches, arrays that no cache holds.

Short kernels are launched from CUDA graphs, so that the host's time to launch them is nobody's. A
lap runs through several sets of arrays, ROTATION_BYTES together, so that a launch finds nothing of
its own in the L2 cache (50 to 60 MB); larger arrays flush it by themselves.
"""
import importlib
import math

import numpy as np

from ..backend import open_backend
from ..dtypes import BF16, F32
from ..errors import DeviceError
from ..kernels.choice import ROOMS, Choice
from ..kernels.cuda import copy_in, cuda
from .devices import require
from .timing import Contestant, contest, time_of

ROTATION_BYTES = 200_000_000
GRAPH_MS = 2  # of work in a graph: the gap between two replays is not seen
MOST_LAUNCHES = 400  # in a graph
PATTERN = 16_777_213  # values drawn, repeated in larger arrays; a prime, so that rows differ


def open_gpu(name, kernels):
    """The bfloat16 backend of a GPU.

    Errors: UsageError for another device, DeviceError if it or these kernels cannot be used.
    """
    require(name, "cuda", why="this bench measures a GPU; ")
    try:
        return open_backend(name, "bf16", kernels)
    except DeviceError as error:
        if isinstance(error.__cause__, DeviceError):  # its own words: no advice to use the CPU
            raise DeviceError(f"{error.__cause__}; this bench measures a GPU") from error
        raise


def kernels_of(module, table, asked, capability):
    """(room, module of kernels) that serves `asked` on a GPU, see kernels/choice.py.

    table: the op module of choice.ROOMS whose rooms have a file `module`
    """
    room = next(r for r in Choice(asked, capability, "bf16").rooms if r in ROOMS[table])
    folder = "" if room == "portable" else f"{room}."
    return room, importlib.import_module(f"..kernels.{folder}{module}", __package__)


def case_name(name, asked):
    """A case's name in the record: kernels that were asked for by name are a case of their own."""
    return name if asked == "auto" else f"{name}/{asked}"


def device_name(backend):
    """What the rows call the device: the GPU's own name, or cpu."""
    return getattr(backend.device, "description", backend.name).split(", compute")[0]


class GpuClock:
    """Events on one stream."""

    def __init__(self, stream):
        self.stream = stream

    def mark(self):
        event = cuda.event(timing=True)
        event.record(self.stream)
        return event

    def elapsed(self, start, end):
        """Milliseconds between two marks that the GPU has passed."""
        return cuda.event_elapsed_time(start, end)

    def wait(self):
        self.stream.synchronize()


def sets_beyond_cache(nbytes):
    """How many sets of arrays of this size no cache can hold."""
    return max(1, math.ceil(ROTATION_BYTES / nbytes))


class Arrays:
    """Makes device arrays; random values are drawn once and copied on the device."""

    def __init__(self, device, seed=0):
        values = np.random.default_rng(seed).standard_normal(PATTERN, np.float32)
        self.device, self.stream = device, device.stream
        self.pattern = {t: device.array(values.astype(t)) for t in (F32, BF16)}
        self.seed = seed

    def make(self, spec):
        """An array as a `cases.Array` describes it."""
        if spec.fill == "normal":
            return self.normal(spec.shape, spec.dtype)
        if spec.fill == "ids":
            ids = np.random.default_rng(self.seed).permutation(spec.below)
            return self.device.array(ids[:spec.shape[0]].astype(spec.dtype))
        if spec.fill == 0:
            return self.device.zeros(math.prod(spec.shape), spec.dtype).reshape(spec.shape)
        return self.device.array(np.full(spec.shape, spec.fill, spec.dtype))

    def normal(self, shape, dtype=BF16):
        """Standard normal values."""
        flat, pattern = self.device.poisoned(math.prod(shape), dtype), self.pattern[dtype]
        for start in range(0, flat.size, PATTERN):
            part = flat[start:start + PATTERN]
            copy_in(part, pattern[:part.size], self.stream)
        return flat.reshape(shape)

    def arguments(self, op):
        """All arguments of a `cases.Op`, in order; one array never stands in two places."""
        return [self.make(a) if hasattr(a, "passes") else a for a in op.arguments]


class GpuBench:
    """One GPU, its stream and a peer on the same stream, or none: laps in, figures out."""

    def __init__(self, backend, peer, rounds):
        self.device, self.stream, self.ops = backend.device, backend.device.stream, backend.ops
        self.device_name = device_name(backend)
        self.peer, self.rounds = peer, rounds
        self.arrays, self.clock = Arrays(self.device), GpuClock(self.stream)

    def ours(self, lap, launches=1):
        """A contestant that does `lap`, which makes so many launches, again and again."""
        return self._in_graph(lap, launches, self._program)

    def theirs(self, lap, launches=1):
        """The same for the peer, which records its own graphs."""
        return self._in_graph(lap, launches, self.peer.capture)

    def beside(self, peers, launches=1):
        """(name -> contestant, name -> why not) of peers: those that run here, and the others.

        peers: name -> maker of a call that makes so many launches, see peers.Torch
        """
        calls, absent = self.peer.usable(peers) if self.peer else ({}, {})
        return {name: self.theirs(call, launches) for name, call in calls.items()}, absent

    def how(self, peers):
        """Name -> versions of what these peers run, for a Row."""
        return {name: self.peer.how(name) for name in peers}

    def rates(self, contestants, amount):
        """amount per second / 1e9 of every contestant in every round."""
        times = contest(self.clock, contestants, self.rounds)
        if self.peer:
            self.peer.release()
        return [[amount / ms / 1e6 for ms in own] for own in times]

    def _in_graph(self, lap, launches, capture):
        once = capture(lap)
        once()
        laps = round(GRAPH_MS / time_of(self.clock, once))
        laps = max(1, min(laps, MOST_LAUNCHES // launches))

        def many():
            for _ in range(laps):
                lap()
        return Contestant(capture(many), laps * launches)

    def _program(self, body):
        """A graph of body(), recorded."""
        program = self.device.program(body)
        self.device.build([program])
        for _ in range(2):  # the first runs, the second records
            program()
        return program
