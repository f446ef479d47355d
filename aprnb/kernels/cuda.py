"""The one door to the CUDA compiler and the driver: no other file imports numba.

A change of compiler (numba-cuda is in maintenance) touches this file, cast.py and ptx/emit.py.
With NUMBA_ENABLE_CUDASIM=1 the same kernels run in numba's simulator, one Python thread for each
CUDA thread. Kernels name the module `cuda`: that is the name which the simulator replaces.
"""
import re
import sys
import threading
from dataclasses import dataclass
from typing import Callable

import numpy as np
from numba import cuda
from numba.core import config
from numba.cuda import types

SIMULATOR = bool(config.ENABLE_CUDASIM)
if SIMULATOR:
    from numba.cuda.simulator import kernel as simulator_kernel
    from numba.cuda.simulator import kernelapi

    def _shared_array(self, shape, dtype, alignment=None):
        """The array of the line that asks, one for all threads: numba-cuda 0.30 looks it up and
        enters it in two steps, and a thread switch between them gives two threads two arrays."""
        caller = sys._getframe(1)
        place = caller.f_code.co_filename, caller.f_lineno
        return self._allocations.setdefault(place, np.empty(shape, dtype))  # one atomic step

    kernelapi.FakeCUDAShared.array = _shared_array

    class _Block(simulator_kernel.BlockManager):
        """One block. numba's asks every thread again and again whether it stands at a barrier, and
        takes a third of the processor from them; here the last one to arrive says so."""

        def run(self, grid_point, *args):
            self._changed, self._running = threading.Condition(), 0
            threads = [_Thread(lambda: self._f(*args), self, grid_point, place, self._debug)
                       for place in np.ndindex(*self._block_dim)]
            self._running = len(threads)
            for thread in threads:
                thread.start()
            while waiting := self._all_stand(threads):
                self._running = len(waiting)
                for thread in waiting:
                    thread.syncthreads_blocked = False
                    thread.syncthreads_event.set()
            for thread in threads:
                thread.join()

        def _all_stand(self, threads):
            """The threads at the barrier, once none runs any more. Errors: the first of a thread;
            the others then end at their barrier."""
            with self._changed:
                self._changed.wait_for(lambda: not self._running
                                       or any(thread.exception for thread in threads))
            failed = next((thread for thread in threads if thread.exception), None)
            if failed is None:
                return [thread for thread in threads if thread.syncthreads_blocked]
            for thread in threads:
                thread.abort = True
                thread.syncthreads_event.set()
            error, trace = failed.exception
            raise error.with_traceback(trace)

        def stands(self, failed=None):
            """A thread has reached a barrier or its end."""
            with self._changed:
                self._running -= 1
                if failed or not self._running:
                    self._changed.notify()

    class _Thread(simulator_kernel.BlockThread):
        def syncthreads(self):
            self.syncthreads_blocked = True
            self._manager.stands()
            self.syncthreads_event.wait()
            self.syncthreads_event.clear()
            if self.abort:
                raise RuntimeError("another thread of the block failed")

        def run(self):
            super().run()
            self._manager.stands(self.exception)

    simulator_kernel.BlockManager = _Block
else:
    # cast.py and ptx/emit.py build on these two
    from numba.cuda.extending import intrinsic  # noqa: F401
    from numba.cuda.typing import signature  # noqa: F401
ALIGNMENT = 16  # bytes, of shared arrays: lets four floats move in one load
float32 = np.float32  # a type to the compiler, arithmetic in the simulator

TYPES = {"f": types.float32, "i": types.int32, "u": types.uint32, "n": types.int64,
         "b": types.boolean, "h": types.bfloat16, "p": types.uint64}
ARCHITECTURES = ("sm_80", "sm_90a")  # what the compile lane builds for
catalogue = []  # every kernel, in order of definition: what the compile lane compiles


@dataclass(frozen=True)
class Entry:
    """One kernel, how it is launched, and what the compile lane holds it to."""

    name: str
    function: Callable
    signatures: tuple[str, ...]
    registers: int
    """Most registers a thread may use, on any architecture and for any signature."""
    launch_bounds: tuple[int, int]
    """(threads a block has at most, blocks a multiprocessor should hold at least)."""
    shared: int = 0
    """Bytes of dynamic shared memory."""
    cluster: int = 1
    """Blocks of a cluster, neighbours along the grid's first axis."""
    architectures: tuple[str, ...] = ARCHITECTURES
    overlap: bool = False
    """Whether it may be placed before the kernel in front of it has ended: then it waits itself
    (ptx/barrier.wait_for_previous) before it touches memory."""
    spills: int = 0
    """Bytes of local memory that are known, and explained where they arise."""


def kernel(*signatures, registers, threads, blocks=1, name=None, shared=0, cluster=1,
           architectures=ARCHITECTURES, overlap=False, spills=0):
    """Decorator: enter the function in the catalogue as a kernel that can be launched.

    A signature lists the argument types: f float32, h bfloat16, s storage (once as f, once as h),
    i int32, u uint32, n int64, b bool, p address; a digit behind it is the number of dimensions of
    a C-contiguous array. "s2 f1 s2 s1 f" is rmsnorm_forward(y, rstd, x, w, eps).
    """
    def decorate(function):
        expanded = tuple(s.replace("s", storage) for s in signatures
                         for storage in ("fh" if "s" in s else "-"))
        room = function.__module__.split(".")[2:-1]  # kernels of a room carry its name in front
        entry = Entry("_".join([*room, name or function.__name__]), function, expanded, registers,
                      (threads, blocks), shared, cluster, architectures, overlap, spills)
        catalogue.append(entry)
        if SIMULATOR:
            return cuda.jit(function)
        from .launch import Kernel
        return Kernel(entry)
    return decorate


def device(function):
    """Decorator: a device function, inlined so that it also compiles without a driver."""
    return cuda.jit(device=True, inline="always")(function)


def target_capability():
    """(major, minor) of the architecture that is being compiled for, inside an intrinsic."""
    from numba.cuda.core.targetconfig import ConfigStack
    return tuple(ConfigStack.top_or_none().compute_capability)[:2]


def argument_types(signature):
    """The compiler's types of one catalogue signature."""
    return tuple(types.Array(TYPES[word[0]], int(word[1]), "C") if len(word) == 2
                 else TYPES[word] for word in signature.split())


def compile_to_ltoir(entry, signature, architecture):
    """LTO-IR of one kernel; needs the compiler wheels but no driver and no GPU."""
    code, _ = cuda.compile(entry.function, types.void(*argument_types(signature)),
                           cc=_capability(architecture), output="ltoir", abi="numba",
                           device=False, launch_bounds=entry.launch_bounds)
    return code


def _capability(architecture):
    """"sm_90a" as (9, 0, "a"), "sm_120" as (12, 0)."""
    number, letter = re.fullmatch(r"sm_(\d+)(\w?)", architecture).groups()
    return divmod(int(number), 10) + ((letter,) if letter else ())


# ---------------------------------------------------------------- driver

def unusable_reason(index):
    """Why GPU `index` cannot be used, in one line, or None when it can."""
    if not cuda.is_available():
        error = cuda.cuda_error() if not SIMULATOR else None
        return "no CUDA driver or GPU found" + (f" ({_one_line(error)})" if error else "")
    count = len(cuda.gpus)
    return None if index < count else f"there are only {count} CUDA GPUs, counted from 0"


def fill_bytes(array, byte, stream):
    """Set every byte of a device array, enqueued on the stream."""
    if SIMULATOR:
        array.copy_to_device(np.full(array.nbytes, byte, np.uint8).view(array.dtype))
    else:
        cuda.cudadrv.driver.device_memset(array, byte, array.nbytes, stream)


def copy_in(array, host, stream):
    """Enqueue array = host on the stream; both contiguous and of one type and size."""
    _bits(array).copy_to_device(_bits(host), stream=stream)


def copy_out(array, stream):
    """A NumPy copy of a contiguous device array; waits for all that the stream holds."""
    bits = _bits(array).copy_to_host(stream=stream)
    stream.synchronize()
    return bits.view(array.dtype)


def _bits(x):
    """The driver's copies know no bfloat16: its bits travel as 16-bit integers."""
    return x.view(np.uint16) if x.dtype.itemsize == 2 else x


def is_out_of_memory(error):
    """Whether an exception of an allocation says that the device memory is full."""
    return "OUT_OF_MEMORY" in str(error)


def _one_line(error):
    return " ".join(str(error).split()).split(". ")[0]  # advice of the library follows; ours too
