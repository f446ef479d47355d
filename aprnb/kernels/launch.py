"""Launching compiled kernels through the driver: found in the cache or built, loaded once.

    some_kernel[grid, threads, stream](*arguments)

Arguments follow the kernel's signature (see cuda.py): device arrays, NumPy scalars, and for an
address a device array, an integer, or None. Nothing here waits for the device.
"""
import ctypes
import os
import secrets
from contextlib import closing, contextmanager
from functools import cache, partial

from ..errors import DeviceError, DeviceMemoryError
from . import cache as disk
from .build import build, entry_named
from .cuda import cuda, is_out_of_memory
from .workers import build_many

SCALARS = {"f": ctypes.c_float, "i": ctypes.c_int32, "u": ctypes.c_uint32, "n": ctypes.c_int64,
           "b": ctypes.c_uint8, "p": ctypes.c_uint64}
STORAGE = {"float32": "f", "bfloat16": "h", "int32": "i"}
_recorders = []


class Kernel:
    """A catalogue entry that can be launched; each signature is loaded when it is first met."""

    def __init__(self, entry):
        self.entry = entry
        self._loaded = {}

    def __getitem__(self, configuration):
        return partial(self.launch, *configuration)

    def launch(self, grid, threads, stream, *arguments):
        """Enqueue the kernel: grid and threads are integers or tuples of up to three."""
        signature = self._signature(arguments)
        if _recorders:
            _recorders[-1].add((self.entry.name, signature))
            return
        loaded = self._loaded.get(signature)
        if loaded is None:
            loaded = self._loaded[signature] = _Function(self.entry, signature)
        loaded.launch(_three(grid), _three(threads), int(stream), arguments)

    def _signature(self, arguments):
        """The one of the entry's signatures that fits the storage types of the arguments."""
        signatures = self.entry.signatures
        if len(signatures) == 1:
            return signatures[0]
        for signature in signatures:
            if all(len(word) == 1 or STORAGE[str(a.dtype)] == word[0]
                   for word, a in zip(signature.split(), arguments)):
                return signature
        kinds = [str(getattr(a, "dtype", type(a).__name__)) for a in arguments]
        raise TypeError(f"{self.entry.name} has no signature for {kinds}")


@contextmanager
def recording():
    """Launches inside only note which kernels they need: yields the set of (name, signature)."""
    wanted = set()
    _recorders.append(wanted)
    try:
        yield wanted
    finally:
        _recorders.remove(wanted)


def prepare(wanted, architecture=None):
    """Build what of {(name, signature)} is not in the cache, on all cores.

    Returns how many were missing.
    """
    architecture = architecture or this_architecture()
    missing = [(name, signature, architecture) for name, signature in sorted(wanted)
               if not _is_there(name, signature, architecture)]
    # processes that start together share the work: each begins elsewhere, and looks again
    first = secrets.randbelow(len(missing)) if missing else 0
    in_turn = missing[first:] + missing[:first]
    with closing(build_many(in_turn, os.cpu_count() or 1, _is_there)) as built:
        for (name, *key), cubin in built:
            disk.store(entry_named(name), *key, cubin)
    return len(missing)


def _is_there(name, signature, architecture):
    return disk.load(entry_named(name), signature, architecture) is not None


@cache
def this_architecture():
    """The architecture that kernels are built for on the current GPU.

    Errors: DeviceError if it is too old.
    """
    return architecture_of(tuple(cuda.get_current_device().compute_capability))


def architecture_of(capability):
    """The same for a GPU of that compute capability."""
    if capability < (8, 0):
        raise DeviceError(f"this GPU has compute capability {capability[0]}.{capability[1]}: "
                          "8.0 or newer is needed")
    return "sm_90a" if capability == (9, 0) else "sm_80" if capability[0] == 8 else (
        f"sm_{capability[0]}{capability[1]}")


@cache
def multiprocessors():
    return cuda.get_current_device().MULTIPROCESSOR_COUNT


@cache
def shared_memory():
    """Bytes of shared memory that a block can have at most: 99 KB on consumers' cards."""
    return cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN


def address(array):
    """The device address of an array; integers stand for themselves, None for 0."""
    if array is None or isinstance(array, int):
        return array or 0
    return array.device_ctypes_pointer.value or 0


class _Function:
    """One kernel in the driver."""

    def __init__(self, entry, signature):
        architecture = this_architecture()
        cubin = disk.load(entry, signature, architecture)
        if cubin is None:
            cubin = build(entry, signature, architecture)
            disk.store(entry, signature, architecture, cubin)
        self.driver, self.entry, self._checked = _driver(), entry, partial(checked, what=entry.name)
        self.module = self._checked(self.driver.cuModuleLoadData(cubin.code))
        self.handle = self._checked(
            self.driver.cuModuleGetFunction(self.module, cubin.symbol.encode()))
        if entry.shared > 48 << 10:
            attribute = self.driver.CUfunction_attribute
            self._checked(self.driver.cuFuncSetAttribute(
                self.handle, attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                entry.shared))
        self.attributes = _attributes(entry)
        self.words = signature.split()
        self.kinds = tuple(kind for word in self.words for kind in _kinds(word))

    def launch(self, grid, threads, stream, arguments):
        driver, config = self.driver, self.driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = grid
        config.blockDimX, config.blockDimY, config.blockDimZ = threads
        config.sharedMemBytes, config.hStream = self.entry.shared, stream
        if self.attributes:
            config.attrs, config.numAttrs = self.attributes, len(self.attributes)
        values = []
        for word, argument in zip(self.words, arguments, strict=True):
            _append(values, word, argument)
        self._checked(driver.cuLaunchKernelEx(config, self.handle, (tuple(values), self.kinds), 0))


def checked(answer, what):
    """The value that a driver call has answered.

    Errors: DeviceMemoryError or DeviceError, saying what was tried and the driver's word.
    """
    error, *value = answer
    if int(error):
        kind = DeviceMemoryError if is_out_of_memory(error.name) else DeviceError
        raise kind(f"{what}: the CUDA driver says {error.name}")
    return value[0] if value else None


def _attributes(entry):
    """The driver's launch attributes of an entry."""
    driver, attributes = _driver(), []
    if entry.cluster > 1:
        cluster = driver.CUlaunchAttribute()
        cluster.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        dimension = cluster.value.clusterDim
        dimension.x, dimension.y, dimension.z = entry.cluster, 1, 1
        attributes.append(cluster)
    if entry.overlap and this_architecture() != "sm_80":  # before 9.0 there is no such thing
        early = driver.CUlaunchAttribute()
        early.id = (driver.CUlaunchAttributeID
                    .CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION)
        early.value.programmaticStreamSerializationAllowed = 1
        attributes.append(early)
    return attributes


def _kinds(word):
    """The driver's parameters of one signature word; an array is passed as numba's structure:
    two unused pointers, elements, bytes of one, address, shape, strides in bytes."""
    if len(word) == 1:
        return [SCALARS[word]]
    return ([ctypes.c_void_p] * 2 + [ctypes.c_ssize_t] * 2 + [ctypes.c_void_p]
            + [ctypes.c_ssize_t] * 2 * int(word[1]))


def _append(values, word, argument):
    if len(word) == 2:
        values += [0, 0, argument.size, argument.dtype.itemsize, address(argument),
                   *argument.shape, *argument.strides]
    elif word == "p":
        values.append(address(argument))
    else:
        values.append(float(argument) if word == "f" else int(argument))


def _three(size):
    size = size if isinstance(size, tuple) else (size,)
    return tuple(int(n) for n in size) + (1,) * (3 - len(size))


@cache
def _driver():
    from cuda.bindings import driver
    return driver
