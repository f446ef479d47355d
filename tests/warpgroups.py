"""Runs the Python source of a warp-specialised Hopper kernel on the CPU, a warpgroup at a time.

Every block is one Python thread for the producer and one for each consumer warpgroup, which stands
for all its 128 threads by thread 0: an accumulator is a matrix, its address that of thread 0. The
intrinsics are replaced by matrix operations; all else is the kernel as it stands: items, addresses,
coordinates, every barrier and its phase. Who goes on, and when a copy in flight arrives, is drawn
at random from a seed. It is stricter than a GPU:

    a copy leaves NaN in its target until it has arrived, and shared memory starts as NaN
    operands that change while a product is in flight, or are used before a wait, are errors
    so are stores whose source changes or whose block ends before they have read it
    nobody able to go on is an error, which says where everyone waits
"""
import random
import threading
from types import CellType, FunctionType, SimpleNamespace

import numpy as np
from ml_dtypes import bfloat16

PANEL, TILE = (64, 64), 8192  # one tensor copy of bfloat16; bytes of it
SHARED_START = 1024 + 16  # no more aligned than the driver promises
F32 = np.float32


class Memory:
    """Global memory: arrays, by address, and nothing between them."""

    def __init__(self):
        self.arrays, self.next = [], 1 << 20

    def place(self, array):
        """The address of an array; it is read and written in place."""
        start = self.next
        self.arrays.append((start, array.reshape(-1).view(np.uint8)))
        self.next += -(-array.nbytes // 256) * 256 + 4096
        return start

    def bytes(self, address, count):
        address = int(address)
        for start, view in self.arrays:
            if start <= address and address + count <= start + len(view):
                return view[address - start:address - start + count]
        raise IndexError(f"{count} bytes at {address:#x} lie in no array")


class Launcher:
    """Stands in for a kernel: launcher[grid, threads, stream](*arguments) runs all its blocks."""

    def __init__(self, kernel, memory, keys_are_rows, seed=0):
        self.function, self.shared = kernel.entry.function, kernel.entry.shared
        self.memory, self.keys_are_rows, self.seed = memory, keys_are_rows, seed

    def __getitem__(self, configuration):
        grid = int(configuration[0])

        def launch(*arguments):
            arguments = [0 if a is None else a for a in arguments]
            for block in range(grid):
                Block(self, block, grid, arguments).run()
        return launch


class Accumulator:
    """What a product will be; `value` once a wait has returned."""

    def __init__(self, value=None):
        self._value = value

    @property
    def value(self):
        assert self._value is not None, "an accumulator is used while its product is in flight"
        return self._value


class Actor:
    """A thread that runs until it has to wait, then hands over."""

    def __init__(self, block, first_thread, body):
        self.block, self.tid = block, first_thread
        self.turn, self.ready, self.where, self.done, self.fault = (
            threading.Semaphore(0), lambda: True, "start", False, None)
        self.in_flight, self.stores = [], []
        self.thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self.thread.start()

    def _run(self, body):
        self.turn.acquire()
        try:
            body()
            assert not self.stores, "the block ends while a store may read shared memory"
            assert not self.in_flight, "the block ends with products in flight"
        except Exception as fault:
            self.fault = fault
        self.done = True
        self.block.control.release()

    def wait(self, ready, where):
        self.ready, self.where = ready, where
        self.block.control.release()
        self.turn.acquire()


class Block:
    """One block: its shared memory, its barriers, and who runs when."""

    def __init__(self, launcher, number, grid, arguments):
        self.launcher, self.number, self.grid = launcher, number, grid
        self.memory, self.random = launcher.memory, random.Random(launcher.seed * 1000 + number)
        self.shared = np.full(launcher.shared, 0xFF, np.uint8)
        self.barriers, self.named, self.copies, self.met = {}, {}, [], 0
        self.control, self.current = threading.Semaphore(0), None
        kernel = Translator(intrinsics(self)).function(launcher.function)
        self.actors = [Actor(self, first, lambda: kernel(*arguments)) for first in (0, 128, 256)]

    def run(self):
        while not all(actor.done for actor in self.actors):
            able = [a for a in self.actors if not a.done and a.ready()] + self.copies
            assert able, "nobody can go on: " + "; ".join(
                f"thread {a.tid} {'is done' if a.done else a.where}" for a in self.actors)
            chosen = self.random.choice(able)
            if isinstance(chosen, Actor):
                self.current = chosen
                chosen.turn.release()
                self.control.acquire()
                if chosen.fault:
                    raise chosen.fault
            else:
                self.copies.remove(chosen)
                chosen()
        assert not self.copies, "a copy that nobody waited for"

    def at(self, address, count):
        offset = int(address) - SHARED_START
        assert 0 <= offset and offset + count <= len(self.shared), "outside shared memory"
        return self.shared[offset:offset + count]

    def panel(self, address):
        assert int(address) % 1024 == 0, "a panel that is not aligned"
        return self.at(address, TILE).view(bfloat16).reshape(PANEL)

    def wide(self, address):
        """64 rows of 128: two panels."""
        return np.hstack([self.panel(address), self.panel(int(address) + TILE)]).astype(F32)

    def load(self, target, count, read, barrier):
        self.at(target, count)[:] = 0xFF
        barrier = self.barriers[int(barrier)]

        def arrive():
            self.at(target, count)[:] = read()
            barrier.bytes -= count
            barrier.conclude()
        self.copies.append(arrive)

    def issue(self, operands, compute):
        """A product in flight: `operands` reads them, now and when it is waited for."""
        acc, before = Accumulator(), operands()

        def finish():
            for then, now in zip(before, operands()):
                assert np.array_equal(then, now, equal_nan=True), "operands changed in flight"
            acc._value = compute(*before)
        self.current.in_flight.append(finish)
        return acc

    def wait_products(self, groups):
        self.current.wait(lambda: True, "waits for products")  # others may go on before it
        flying = self.current.in_flight
        while len(flying) > groups:
            flying.pop(0)()


class Barrier:
    """An mbarrier: arrivals and bytes still to come, phases completed."""

    def __init__(self, count):
        self.count, self.missing, self.bytes, self.completed = count, count, 0, 0

    def arrive(self):
        self.missing -= 128 if self.count >= 128 else 1  # every thread of a warpgroup, or one
        assert self.missing >= 0, "more arrivals than a phase has"
        self.conclude()

    def conclude(self):
        assert self.missing > 0 or self.bytes >= 0
        if self.missing == 0 and self.bytes == 0:
            self.missing, self.completed = self.count, self.completed + 1


class TensorMap:
    """A map of (B, T, columns) in boxes of 64 x 64."""

    def __init__(self, array):
        self.array = array.reshape(*array.shape[:2], -1)

    def box(self, column, row, b):
        out = np.zeros(PANEL, bfloat16)
        part = self.array[b, row:row + 64, column:column + 64]
        out[:part.shape[0], :part.shape[1]] = part
        return out

    def write(self, column, row, b, values):
        part = self.array[b, row:row + 64, column:column + 64]
        part[:] = values[:part.shape[0], :part.shape[1]]


class Translator:
    """Functions as they stand, with other names behind their globals and closures."""

    def __init__(self, replaced):
        self.replaced, self.made = replaced, {}

    def function(self, function):
        function = getattr(function, "py_func", function)
        if function not in self.made:
            names = {}
            made = FunctionType(function.__code__, names, function.__name__,
                                function.__defaults__, tuple(
                                    CellType(self.value(name, cell.cell_contents)) for name, cell
                                    in zip(function.__code__.co_freevars,
                                           function.__closure__ or ())))
            self.made[function] = made
            names |= {name: self.value(name, value)
                      for name, value in function.__globals__.items()
                      if name in function.__code__.co_names or name == "__builtins__"}
        return self.made[function]

    def value(self, name, value):
        if name in self.replaced:
            return self.replaced[name]
        return self.function(value) if hasattr(value, "py_func") else value


# ---------------------------------------------------------------- the intrinsics' stand-ins

def intrinsics(block):
    """By the names under which the kernels know them."""
    tools = {**_language(block), **_products(block), **_elementwise(block), **_stores(block)}
    bar, tma = _barriers(block), _copies(block)
    return tools | {"bar": SimpleNamespace(**bar), "tma": SimpleNamespace(**tma), **bar}


def _language(block):
    def syncthreads():
        block.met += 1
        everyone = -(-block.met // len(block.actors)) * len(block.actors)
        block.current.wait(lambda: block.met >= everyone, "at syncthreads")

    class Thread:
        @property
        def x(self):
            return block.current.tid
    return {
        "cuda": SimpleNamespace(
            threadIdx=Thread(), blockIdx=SimpleNamespace(x=block.number),
            gridDim=SimpleNamespace(x=block.grid), syncthreads=syncthreads,
            shared=SimpleNamespace(array=lambda *_: None)),
        "shared_address": lambda _: SHARED_START, "uniform": lambda x: x,
        "quotient": lambda a, b: np.int32(int(a) // int(b)),
        "release_registers": lambda: None, "take_registers": lambda: None,
        "load_f32": lambda address: address}  # of thread 0: where the values of all rows begin


def _barriers(block):
    def init(at, count):
        block.barriers[int(at)] = Barrier(int(count))

    def expect(at, count):
        block.barriers[int(at)].bytes += int(count)
        block.barriers[int(at)].arrive()

    def wait(at, parity):
        barrier = block.barriers[int(at)]
        block.current.wait(lambda: barrier.completed & 1 != parity,
                           f"waits for parity {parity} of {int(at):#x}")

    def named_arrive(number, threads):
        state = block.named.setdefault(int(number), [0, 0])
        state[0] += 128
        if state[0] == threads:
            state[:] = 0, state[1] + 1
        return state

    def named_sync(number, threads):
        before = block.named.setdefault(int(number), [0, 0])[1]
        state = named_arrive(number, threads)
        block.current.wait(lambda: state[1] > before, f"waits at named barrier {number}")
    return {"mbarrier_init": init, "mbarrier_expect": expect, "mbarrier_wait": wait,
            "mbarrier_arrive": lambda at: block.barriers[int(at)].arrive(),
            "mbarrier_fence_init": lambda: None, "fence_async_shared": lambda: None,
            "named_arrive": named_arrive, "named_sync": named_sync}


def _copies(block):
    def load_3d(target, source, column, row, b, barrier):
        block.load(target, TILE, lambda: source.box(column, row, b).view(np.uint8).reshape(-1),
                   barrier)

    def load_bytes(target, source, count, barrier):
        assert int(target) % 16 == 0 and int(source) % 16 == 0 and count % 16 == 0
        block.load(target, int(count), lambda: block.memory.bytes(source, int(count)), barrier)

    def store_3d(target, source, column, row, b):
        before = block.panel(source).copy()

        def read():
            assert before.tobytes() == block.panel(source).tobytes(), "a store's source changed"
            target.write(column, row, b, before)
        block.current.stores.append(read)
    return {"prefetch_map": lambda _: None, "load_3d": load_3d, "load_bytes": load_bytes,
            "store_3d": store_3d, "commit_stores": lambda: None}


def _products(block):
    def scores(a, b):
        return block.issue(lambda: (block.wide(a), block.wide(b)), lambda x, y: x @ y.T)

    def sums(acc, a, b, keep):
        flying = acc._value if keep else 0
        assert not keep or flying is not None, "a sum is begun anew while its last is in flight"
        return block.issue(lambda: (a.astype(F32), block.wide(b)), lambda x, y: flying + x @ y)

    def waiter(groups):
        def wait(acc):
            block.wait_products(groups)
            acc.value  # is there
            return acc
        return wait
    return {"scores": scores, "sums": sums, "product": sums,
            "zeros": lambda: Accumulator(np.zeros((64, 128), F32)),
            "wait": waiter(0), "wait_s": waiter(0), "wait_1": waiter(1), "wait_s_1": waiter(1)}


def _elementwise(block):
    def values(of):
        """lse2 or delta: of the rows (a PAIR of global addresses) or of the columns."""
        if isinstance(of, tuple):
            return block.memory.bytes(of[0], 256).view(F32)[:, None]
        return block.at(of, 256).view(F32)[None, :]

    def exp2(acc, c, of):
        with np.errstate(invalid="ignore"):
            return Accumulator(np.exp2(acc.value * c - values(of)))

    def causal(acc, d):
        assert d == 0, "thread 0 holds the corner"
        row, column = np.indices(PANEL)
        seen = column >= row if block.launcher.keys_are_rows else column <= row
        return Accumulator(np.where(seen, acc.value, -np.inf))
    return {"exp2": exp2, "causal": causal,
            "gradient": lambda p, dp, of: Accumulator(p.value * (dp.value - values(of))),
            "scaled": lambda acc, pair: Accumulator(acc.value * pair[0]),
            "to_bf16": lambda acc: acc.value.astype(bfloat16)}


def _stores(block):
    def stage(acc, c, address):
        block.panel(address)[:] = acc.value[:, 64 * c:64 * c + 64].astype(bfloat16)

    def store(acc, address, pitch, rows, columns):
        for i, row in enumerate(acc.value[:max(0, int(rows)), :int(columns)]):
            block.memory.bytes(address + i * pitch, row.nbytes).view(F32)[:] = row

    def put(matrix, address):
        block.memory.bytes(address, TILE).view(bfloat16)[:] = (
            matrix.reshape(8, 8, 8, 8).swapaxes(1, 2).reshape(-1))

    def get(address):
        blocks = block.at(address, TILE).view(bfloat16).reshape(8, 8, 8, 8)
        return blocks.swapaxes(1, 2).reshape(PANEL).T

    def wait_stores():
        block.current.wait(lambda: True, "waits for stores")
        while block.current.stores:
            block.current.stores.pop(0)()
    return {"stage": stage, "store": store, "put": put, "get": get, "wait_stores": wait_stores}
