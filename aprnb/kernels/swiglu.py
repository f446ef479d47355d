"""SwiGLU on a packed gate-up projection: y = silu(gate) * up, gate left, up right.

    silu(g)  = g * sigmoid(g)                                        Shazeer 2020, eq. 6
    dgate    = dy * up * sigmoid(g) * (1 + g * (1 - sigmoid(g)))
    dup      = dy * silu(g)

Storage bfloat16 or float32, arithmetic float32.
"""
import math

from .block import BLOCK, threads_for
from .cast import narrow, widen
from .cuda import cuda, device, float32, kernel
from .shapes import expect


@device
def sigmoid(g):
    e = float32(math.exp(-abs(g)))  # of -|g|: cannot overflow
    top = float32(1.0) if g >= float32(0.0) else e
    return top / (float32(1.0) + e)


@kernel("s2 s2", registers=40, threads=BLOCK)
def swiglu_forward_kernel(y, gu):
    """One block per row; a thread owns every blockDim-th channel."""
    row, F = cuda.blockIdx.x, y.shape[1]
    for f in range(cuda.threadIdx.x, F, cuda.blockDim.x):
        gate = widen(gu[row, f])
        y[row, f] = narrow(y, gate * sigmoid(gate) * widen(gu[row, F + f]))


@kernel("s2 s2 s2", registers=48, threads=BLOCK)
def swiglu_backward_kernel(dgu, dy, gu):
    """One block per row; a thread owns every blockDim-th channel."""
    row, F = cuda.blockIdx.x, dy.shape[1]
    for f in range(cuda.threadIdx.x, F, cuda.blockDim.x):
        gate, up, d = widen(gu[row, f]), widen(gu[row, F + f]), widen(dy[row, f])
        s = sigmoid(gate)
        dgu[row, f] = narrow(dgu, d * up * s * (float32(1.0) + gate * (float32(1.0) - s)))
        dgu[row, F + f] = narrow(dgu, d * gate * s)


def swiglu_forward(y, gu, stream):
    """Shapes:  y (R, F) out;  gu (R, 2F)"""
    R, F = y.shape
    expect("swiglu_forward", gu=(gu, (R, 2 * F)))
    swiglu_forward_kernel[R, threads_for(F), stream](y, gu)


def swiglu_backward(dgu, dy, gu, stream):
    """Shapes:  dgu (R, 2F) out;  dy (R, F);  gu (R, 2F)"""
    R, F = dy.shape
    expect("swiglu_backward", dgu=(dgu, (R, 2 * F)), gu=(gu, (R, 2 * F)))
    swiglu_backward_kernel[R, threads_for(F), stream](dgu, dy, gu)
