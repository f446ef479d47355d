"""Runs the Python source of a tensor-core kernel on the CPU, one Python thread for each lane.

Intrinsics are replaced by their models (kernels/ptx/layouts.py), the rest is the kernel as it
stands: every index, address and barrier. Where fragments and results lie in memory is no model
either: it is read from the statements that the intrinsics emit. The machine is stricter than a GPU:
a copy in flight leaves NaN in its target until it is waited for, shared memory starts as NaN, has
the size that the kernel asks for and begins no more aligned than the driver promises, what reads or
writes outside an array raises, and threads that wait for different barriers fail.
"""
import re
import threading
from types import SimpleNamespace

import numpy as np
from llvmlite import ir
from ml_dtypes import bfloat16

from aprnb.kernels.ptx import layouts

PATIENCE = 60  # seconds that a thread waits for the others
SHARED_START = 1024 + 16  # no more aligned than the driver promises
NAN = b"\xff"


class Memory:
    """Global memory: arrays, by address, and nothing between them."""

    def __init__(self):
        self.arrays, self.next = [], 1 << 20

    def place(self, array):
        """The address of an array; it is read and written in place."""
        start = self.next
        self.arrays.append((start, memoryview(array.reshape(-1).view(np.uint8))))
        self.next += -(-array.nbytes // 256) * 256 + 4096
        return start

    def bytes(self, address, count):
        address = int(address)
        for start, view in self.arrays:
            if start <= address and address + count <= start + len(view):
                return view[address - start:address - start + count]
        raise IndexError(f"{count} bytes at {address:#x} lie in no array")


class Machine:
    """One grid of blocks, one after the other."""

    def __init__(self):
        self.memory, self.here = Memory(), threading.local()

    def run(self, kernel, blocks, *arguments):
        """blocks: the block numbers, in the order in which they run."""
        for block in blocks:
            self._run_block(kernel, block, arguments)

    def _run_block(self, kernel, block, arguments):
        threads, faults = kernel.threads, []
        self.shared = np.frombuffer(bytearray(NAN * kernel.shared), np.uint8)
        self.everyone = Meeting(threads)
        warps = [Meeting(32) for _ in range(threads // 32)]

        def lane(t):
            self.here.t, self.here.block, self.here.warp = t, block, warps[t // 32]
            self.here.copies, self.here.groups = [], []
            try:
                kernel(*arguments)
            except Exception as error:
                faults.append(error)
                for meeting in (self.everyone, *warps):
                    meeting.barrier.abort()
        crew = [threading.Thread(target=lane, args=(t,), daemon=True) for t in range(threads)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        for fault in sorted(faults, key=lambda f: isinstance(f, threading.BrokenBarrierError)):
            raise fault

    def shared_bytes(self, address, count):
        offset = int(address) - SHARED_START
        assert 0 <= offset and offset + count <= len(self.shared), "outside shared memory"
        assert int(address) % count == 0, "misaligned"
        return self.shared[offset:offset + count]

    def together(self, model, value):
        """model(values of the warp's lanes) -> their results, one for each lane."""
        return self.here.warp.meet(self.here.t % 32, model, value)


class Meeting:
    """Threads that exchange values; the last to come computes for all."""

    def __init__(self, count):
        self.values, self.results, self.turn = [None] * count, [None, None], 0
        self.barrier = threading.Barrier(count, action=self._conclude)
        self.turns = [0] * count

    def meet(self, index, model, value):
        self.values[index] = model, value
        turn = self.turns[index] = self.turns[index] ^ 1
        self.barrier.wait(PATIENCE)
        return self.results[turn][index]

    def _conclude(self):
        models, values = zip(*self.values)
        assert len({model.__qualname__ for model in models}) == 1, "lanes wait for different things"
        self.turn ^= 1
        self.results[self.turn] = models[0](list(values))


# ---------------------------------------------------------------- the intrinsics' stand-ins

def install(machine, module, monkeypatch):
    """Replace what the kernel module imported from kernels/ptx and kernels/cuda by models."""
    for name, value in list(vars(module).items()):
        if hasattr(value, "py_func"):
            monkeypatch.setattr(module, name, value.py_func)
    for name, value in {**_language(machine), **_memory(machine), **_products(machine)}.items():
        if hasattr(module, name):
            monkeypatch.setattr(module, name, value)


def _language(machine):
    here = machine.here

    def kernel(*signature, threads, shared, **rest):
        def decorate(function):
            function.threads, function.shared = threads, shared
            return function
        return decorate

    def nothing(values):
        return [None] * len(values)

    def any_of(values):
        return [int(any(values))] * len(values)

    class Cuda:
        threadIdx = property(lambda self: SimpleNamespace(x=here.t))
        blockIdx = property(lambda self: SimpleNamespace(x=here.block))
        shared = SimpleNamespace(array=lambda *_: None)

        def syncthreads(self):
            machine.everyone.meet(here.t, nothing, None)

        def syncthreads_or(self, value):
            return machine.everyone.meet(here.t, any_of, value)

        def syncwarp(self):
            machine.together(nothing, None)

    return {"cuda": Cuda(), "kernel": kernel, "device": lambda f: f,
            "quotient": lambda a, b: np.int32(int(a) // int(b)),
            "shared_address": lambda array: SHARED_START}


def _memory(machine):
    from aprnb.kernels.ptx import mma  # not with the file: the simulator's process has no compiler
    memory, here = machine.memory, machine.here

    def loader(kind, count, wide=np.float32):
        def load(address):
            assert int(address) % (count * np.dtype(kind).itemsize) == 0, "misaligned"
            found = np.frombuffer(memory.bytes(address, count * np.dtype(kind).itemsize), kind)
            return tuple(found.astype(wide)) if count > 1 else wide(found[0])
        return load

    def storer(kind, count):
        def store(address, values):
            data = np.atleast_1d(np.asarray(values)).astype(kind)
            assert len(data) == count and int(address) % data.nbytes == 0, "misaligned"
            memory.bytes(address, data.nbytes)[:] = data.view(np.uint8)
        return store

    def load_shared(count):
        def load(address):
            found = machine.shared_bytes(address, 4 * count).view(np.float32)
            return tuple(found) if count > 1 else found[0]
        return load

    def increment(address):
        counter = np.frombuffer(memory.bytes(address, 4), np.uint32)
        counter += 1
        return counter[0] - 1

    def make_copy(count, lines_apart, bytes_apart):
        def copy(target, source, stride, lines, size):
            assert 0 <= size <= 16
            for i in range(count):
                at = machine.shared_bytes(int(target) + i * bytes_apart, 16)
                at[:] = NAN[0]
                exists = size if lines > i * lines_apart else 0
                start = int(source) + i * int(stride)
                assert start % 16 == 0, "misaligned"
                data = bytes(memory.bytes(start, exists)) if exists else b""
                here.copies.append((at, data + bytes(16 - exists)))
        return copy

    def commit_copies():
        here.groups.append(here.copies)
        here.copies = []

    def wait_copies(groups):
        def wait():
            while len(here.groups) > groups:
                for target, data in here.groups.pop(0):
                    target[:] = np.frombuffer(data, np.uint8)
        return wait

    def make_partials(count):
        puts, adds = map(statements_of, mma.make_partials(count))

        def put(acc, address):
            for place, elements in puts:
                storer(np.float32, 4)(place.of(address), acc[elements])

        def add(acc, address):
            return acc + np.concatenate([loader(np.float32, 4)(place.of(address))
                                         for place, _ in adds])
        return put, add

    vector = SimpleNamespace(
        load_bf16x8=loader(bfloat16, 8), load_f32x4=loader(np.float32, 4),
        store_bf16x8=storer(bfloat16, 8), store_f32x4=storer(np.float32, 4),
        load_shared_f32x4=load_shared(4))
    return {"load_bf16": loader(bfloat16, 1), "load_f32": loader(np.float32, 1),
            "store_bf16": storer(bfloat16, 1), "store_f32": storer(np.float32, 1),
            "load_shared_f32": load_shared(1), "store_release": storer(np.uint32, 1),
            "increment": increment, "vector": vector, "make_copy": make_copy,
            "commit_copies": commit_copies, "wait_copies": wait_copies,
            "make_partials": make_partials}


def _products(machine):
    from aprnb.kernels.ptx import mma

    def make_zeros(count):
        return lambda: np.zeros(count, np.float32)

    def make_load(count, bytes_apart=0, transposed=False):
        places = [p for p, _ in statements_of(mma.make_load(count, bytes_apart, transposed))]
        assert all((".trans" in place.text) == transposed for place in places)

        def load_fragments(addresses):
            out = np.empty((32, 4 * count, 2), bfloat16)
            for i, place in enumerate(places):
                at = [place.of(address) for address in addresses]
                for matrix in range(0, 32, 8):
                    banks = {a // 16 % 8 for a in at[matrix:matrix + 8]}
                    assert len(banks) == 8, "bank conflict"
                rows = [machine.shared_bytes(a, 16) for a in at]
                matrices = np.stack(rows).view(bfloat16).reshape(4, 8, 8)
                out[:, 4 * i:4 * i + 4] = matrices[layouts.eight_by_eight(transposed)]
            return out
        return lambda address: machine.together(load_fragments, address)

    def make_product(rows, columns):
        def multiply(values):
            accs, a, b = (np.stack(x) for x in zip(*values))
            c = accs.reshape(32, rows // 16, columns // 8, 4)
            left, right, out = np.empty((rows, 16)), np.empty((16, columns)), c.copy()
            for i in range(rows // 16):
                left[16 * i:16 * i + 16][layouts.mma_a()] = a[:, 4 * i:4 * i + 4]
            for j in range(columns // 8):
                right[:, 8 * j:8 * j + 8][layouts.mma_b()] = b[:, 2 * j:2 * j + 2]
            product = (left @ right).reshape(rows // 16, 16, columns // 8, 8)
            for i in range(rows // 16):
                for j in range(columns // 8):
                    out[:, i, j] += product[i, :, j][layouts.mma_c()]
            return list(out.reshape(32, -1))
        return lambda acc, a, b: machine.together(multiply, (acc, a, b))

    def make_staging(rows, columns):
        parts = [statements_of(mma.make_staging(rows, columns), mma.types.literal(part))
                 for part in range(rows // 32)]

        def put(acc, part, address):
            for place, elements in parts[part]:
                machine.shared_bytes(place.of(address), 8)[:] = acc[elements].view(np.uint8)
        return put

    return {"make_zeros": make_zeros, "make_load": make_load,
            "make_product": make_product, "make_staging": make_staging}


# ---------------------------------------------------------------- what intrinsics emit

class Place:
    """Which address a statement reads or writes, given the one that the intrinsic was called with.
    """

    def __init__(self, flip, text):
        self.flip, self.text = flip, text
        self.plus = int(re.search(r"\[\$\d+\+(\d+)\]", text)[1])

    def of(self, address):
        return (int(address) ^ self.flip) + self.plus


class Value(int):
    """While code is generated: of an address, the bits in which it differs from the intrinsic's
    own; of an element of an accumulator, its number."""

    type = ir.IntType(32)


class Builder:
    """Stands in for LLVM's builder and for the compiler's context: notes the statements."""

    def __init__(self):
        self.statements = []

    def xor(self, value, constant):
        return Value(value ^ constant.constant)

    def extract_value(self, value, i):
        return Value(i)

    def insert_value(self, aggregate, value, i):
        return aggregate

    def fadd(self, x, y):
        return x

    def call(self, statement, operands):
        self.statements.append((statement.asm, operands))

    def get_dummy_value(self):
        return None


def statements_of(intrinsic, literal=None):
    """[(Place, elements)] of the statements of an intrinsic, in order: their first operand is an
    address, the others are elements of an accumulator. literal: the type of what is constant."""
    count, builder = intrinsic._defn.__code__.co_argcount - 1, Builder()
    _, generate = intrinsic._defn(None, *[literal] * count)
    generate(builder, builder, None, [Value(0)] * count)
    return [(Place(first, text), [int(x) for x in rest])
            for text, (first, *rest) in builder.statements]
