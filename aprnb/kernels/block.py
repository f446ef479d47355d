"""Reductions over the threads of a block, in a fixed order, by shared memory alone.

The number of threads is a power of two. `partial` is the caller's shared array, one float32 for
each thread; it may be used again as soon as a function returns.
"""
from .cuda import cuda, device

BLOCK = 256  # threads of a row reduction at most
COLUMNS, LANES = 16, 16  # column reduction: 16 columns side by side, each summed by 16 threads


@device
def block_sum(partial, value):
    """The sum of every thread's value; all threads receive it."""
    t = cuda.threadIdx.x
    partial[t] = value
    cuda.syncthreads()  # all values stand before any is added
    half = cuda.blockDim.x >> 1
    while half > 0:
        if t < half:
            partial[t] += partial[t + half]
        cuda.syncthreads()  # this round's sums stand before the next round reads them
        half >>= 1
    total = partial[0]
    cuda.syncthreads()  # everyone has read the total before the caller uses partial again
    return total


@device
def block_max(partial, value):
    """The largest of every thread's value; all threads receive it."""
    t = cuda.threadIdx.x
    partial[t] = value
    cuda.syncthreads()  # all values stand before any is compared
    half = cuda.blockDim.x >> 1
    while half > 0:
        if t < half:
            partial[t] = max(partial[t], partial[t + half])
        cuda.syncthreads()  # this round's maxima stand before the next round reads them
        half >>= 1
    top = partial[0]
    cuda.syncthreads()  # everyone has read the maximum before the caller uses partial again
    return top


@device
def lanes_sum(partial, value):
    """The sum over threadIdx.y of each column threadIdx.x; partial is (LANES, COLUMNS)."""
    column, lane = cuda.threadIdx.x, cuda.threadIdx.y
    partial[lane, column] = value
    cuda.syncthreads()  # all values stand before any is added
    half = LANES >> 1
    while half > 0:
        if lane < half:
            partial[lane, column] += partial[lane + half, column]
        cuda.syncthreads()  # this round's sums stand before the next round reads them
        half >>= 1
    return partial[0, column]


def threads_for(n):
    """Threads of a block that strides over n elements: a power of two from 32 to BLOCK."""
    threads = 32
    while threads < n and threads < BLOCK:
        threads *= 2
    return threads
