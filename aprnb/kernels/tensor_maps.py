"""Tensor maps: what the copy engine must know about an array, encoded once, never moved.

A map holds base address, extent, strides, box and swizzle in 128 bytes of device memory; kernels
take its address. The table is never freed, so that captured graphs may go on using it.
"""
import ctypes
from functools import cache

import numpy as np

from ..errors import DeviceError
from .cuda import cuda
from .launch import address
from .memory import allocate

BYTES, MAPS_A_SLAB = 128, 4096
_known, _slabs = {}, []


def tensor_map(array, shape, strides, box, swizzle=128, itemsize=2):
    """Device address of the map of `array` (device array or address).

    shape, box: elements, innermost first;  strides: bytes, of dimensions 1 and up, multiples of
    16;  swizzle: bytes (0, 32, 64, 128);  itemsize: 2 bfloat16, 4 float32.
    Errors: DeviceError if the driver refuses the combination, DeviceMemoryError if the table does
    not fit.
    """
    key = (address(array), tuple(shape), tuple(strides), tuple(box), swizzle, itemsize)
    if key not in _known:
        _known[key] = _place(_encode(*key))
    return _known[key]


def _encode(base, shape, strides, box, swizzle, itemsize):
    from cuda.bindings import driver
    kinds, swizzles = driver.CUtensorMapDataType, driver.CUtensorMapSwizzle
    error, encoded = driver.cuTensorMapEncodeTiled(
        {2: kinds.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4: kinds.CU_TENSOR_MAP_DATA_TYPE_FLOAT32}[
            itemsize],
        len(shape), base, [driver.cuuint64_t(int(n)) for n in shape],
        [driver.cuuint64_t(int(n)) for n in strides], [driver.cuuint32_t(int(n)) for n in box],
        [driver.cuuint32_t(1)] * len(shape),
        driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
        {0: swizzles.CU_TENSOR_MAP_SWIZZLE_NONE, 32: swizzles.CU_TENSOR_MAP_SWIZZLE_32B,
         64: swizzles.CU_TENSOR_MAP_SWIZZLE_64B, 128: swizzles.CU_TENSOR_MAP_SWIZZLE_128B}[swizzle],
        driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise DeviceError(f"no tensor map for shape {shape}, strides {strides}, box {box} at "
                          f"{base:#x}: {error.name}")
    return np.frombuffer((ctypes.c_uint8 * BYTES).from_address(int(encoded.getPtr())),
                         np.uint8).copy()


def _place(encoded):
    """Copy one map to the next free place; waits for the copy, so no kernel can read it early."""
    index = len(_known) % MAPS_A_SLAB
    if index == 0:
        _slabs.append(allocate(BYTES * MAPS_A_SLAB, np.uint8))
    slab = _slabs[-1]
    slab[index * BYTES:(index + 1) * BYTES].copy_to_device(encoded)
    _synchronise()
    return address(slab) + index * BYTES


@cache
def _default_stream():
    return cuda.default_stream()


def _synchronise():
    _default_stream().synchronize()
