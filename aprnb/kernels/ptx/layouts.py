"""NumPy models of where the tensor-core instructions expect and leave each element.

Registers: functions return index arrays, one entry for every lane (first axis) and register;
`matrix[index]` is what the lanes hold, `matrix[index] = values` puts a result together. Shared
memory: functions return byte addresses, relative to a multiple of 1024. A pair is two bfloat16 in
one register, the first in the low half.

Source: PTX ISA 9.0, sections "Warp-level matrix instructions", "Asynchronous warpgroup-level
matrix instructions" and "Tensor swizzling modes". tests/test_ptx_layouts.py compares with the GPU.
"""
import numpy as np


def _grid(lanes, *registers):
    """Broadcastable counters: lane, then one for each axis of the registers."""
    return np.ogrid[tuple(slice(n) for n in (lanes, *registers))]


def _pair(*index):
    return tuple(np.broadcast_arrays(*index))


# ---------------------------------------------------------------- products of a warp

def mma_a():
    """(row, k) of the 16 x 16 matrix A of mma.m16n8k16: 32 lanes, 4 registers, 2 halves."""
    lane, i, half = _grid(32, 4, 2)
    return _pair(lane // 4 + 8 * (i % 2), 8 * (i // 2) + 2 * (lane % 4) + half)


def mma_b():
    """(k, column) of the 16 x 8 matrix B: 32 lanes, 2 registers, 2 halves."""
    lane, i, half = _grid(32, 2, 2)
    return _pair(8 * i + 2 * (lane % 4) + half, lane // 4 + 0 * i)


def mma_c():
    """(row, column) of the 16 x 8 matrix C: 32 lanes, 4 floats."""
    lane, e = _grid(32, 4)
    return _pair(lane // 4 + 8 * (e // 2), 2 * (lane % 4) + e % 2)


def eight_by_eight(transposed=False):
    """(matrix, row, column) of four 8 x 8 matrices in ldmatrix.x4 and stmatrix.x4: 32 lanes,
    4 registers, 2 halves; transposed: ldmatrix.x4.trans."""
    lane, i, half = _grid(32, 4, 2)
    row, column = lane // 4 + 0 * half, 2 * (lane % 4) + half
    return _pair(i, *((column, row) if transposed else (row, column)))


def row_address():
    """(matrix, row) whose address a lane gives to ldmatrix.x4 and stmatrix.x4: 32 lanes."""
    lane = np.arange(32)
    return lane // 8, lane % 8


# ---------------------------------------------------------------- products of a warpgroup

def wgmma_accumulator(columns):
    """(row, column) of a 64 x columns accumulator: 128 lanes, columns / 2 floats."""
    lane, e = _grid(128, columns // 2)
    return _pair(16 * (lane // 32) + lane % 32 // 4 + 8 * (e % 4 // 2),
                 8 * (e // 4) + 2 * (lane % 4) + e % 2)


def wgmma_a(k_steps):
    """(row, k) of A in registers, 16 of k a step: 128 lanes, 4 * k_steps registers, 2 halves."""
    lane, i, half = _grid(128, 4 * k_steps, 2)
    return _pair(16 * (lane // 32) + lane % 32 // 4 + 8 * (i % 2),
                 16 * (i // 4) + 8 * (i % 4 // 2) + 2 * (lane % 4) + half)


# ---------------------------------------------------------------- shared memory

def swizzled(offset, swizzle):
    """Where byte `offset` of a tile lies: a swizzle of 128 (64) bytes adds the three (two) bits
    above bit 6 to the place of the 16-byte chunk, bits 4 to 6 (4 and 5), without carry."""
    bits = {128: 7, 64: 3, 0: 0}[swizzle]
    return offset ^ ((offset >> 7 & bits) << 4)


def tile_address(row, byte, swizzle):
    """Address of a byte of a row of `swizzle` bytes: what a TMA box of that width looks like."""
    return swizzled(row * swizzle + byte, swizzle)


def wgmma_k_major(mn, k, panel=0):
    """Address of element (mn, k) of a K-major operand: rows of 64 of k, eight of them every 1024
    bytes; what is wider than 64 lies in panels, `panel` bytes apart."""
    return swizzled(k // 64 * panel + mn // 8 * 1024 + mn % 8 * 128 + k % 64 * 2, 128)


def wgmma_mn_major(mn, k, panel=0):
    """Address of element (mn, k) of an MN-major operand: rows of 64 of mn, one for every k, eight
    of them every 1024 bytes; panels as above, along mn."""
    return swizzled(mn // 64 * panel + k // 8 * 1024 + k % 8 * 128 + mn % 64 * 2, 128)


def descriptor_address(descriptor, start, mn, k, mn_major):
    """Address of element (mn, k < 16) that a matrix descriptor names, `start` bytes from its base.

    Leading and stride offsets are read from the descriptor; the swizzle takes bits of the address,
    not of the offset, so that a later k-step is a larger start.
    """
    leading, stride = (int(descriptor) >> 16 & 0x3FFF) << 4, (int(descriptor) >> 32 & 0x3FFF) << 4
    if mn_major:
        offset = mn // 64 * leading + k // 8 * stride + k % 8 * 128 + mn % 64 * 2
    else:
        offset = mn // 8 * stride + mn % 8 * 128 + k * 2
    return swizzled(start + offset, 128)


def staged(row, column):
    """Address of a float of the 32 x 64 that mma.make_staging puts down."""
    chunk = column // 4
    place = chunk ^ (chunk >> 3) ^ ((row % 4) << 1)
    return row * 256 + place * 16 + column % 4 * 4
