"""Token embedding: y[r] = table[ids[r]], and its transpose, a scatter-add in row order.

The gradient is overwritten or added to. Rows of one id are added in ascending r by the block of
the first of them, so no two blocks write the same row and no atomics are needed.
"""
from .block import BLOCK, threads_for
from .cast import widen
from .cuda import cuda, float32, kernel
from .shapes import expect

FILL_BLOCKS = 4096  # at most; each thread then strides over the rest


@kernel("s2 s2 i1", registers=32, threads=BLOCK)
def embedding_forward_kernel(y, table, ids):
    """One block per row; a thread owns every blockDim-th channel."""
    row = cuda.blockIdx.x
    token = ids[row]
    for c in range(cuda.threadIdx.x, y.shape[1], cuda.blockDim.x):
        y[row, c] = table[token, c]


@kernel("f2 h2 i1", registers=32, threads=BLOCK)
def embedding_forward_widened_kernel(y, table, ids):
    """The same, of a bfloat16 table into float32."""
    row = cuda.blockIdx.x
    token = ids[row]
    for c in range(cuda.threadIdx.x, y.shape[1], cuda.blockDim.x):
        y[row, c] = widen(table[token, c])


@kernel("f2", registers=32, threads=BLOCK)
def zero_kernel(x):
    """One block per row at a time; a thread owns every blockDim-th channel."""
    for row in range(cuda.blockIdx.x, x.shape[0], cuda.gridDim.x):
        for c in range(cuda.threadIdx.x, x.shape[1], cuda.blockDim.x):
            x[row, c] = float32(0.0)


@kernel("f2 s2 i1", registers=48, threads=BLOCK)
def embedding_backward_kernel(dtable, dy, ids):
    """One block per row; it works only if its id did not occur in an earlier row. A thread owns
    every blockDim-th channel, and adds to each in ascending order of rows."""
    row, R = cuda.blockIdx.x, ids.shape[0]
    token = ids[row]
    seen = cuda.shared.array(1, float32)
    if cuda.threadIdx.x == 0:
        seen[0] = float32(0.0)
    cuda.syncthreads()  # the flag is down before anyone raises it
    for earlier in range(cuda.threadIdx.x, row, cuda.blockDim.x):
        if ids[earlier] == token:
            seen[0] = float32(1.0)
    cuda.syncthreads()  # every earlier row was looked at before anyone decides
    if seen[0] == float32(0.0):
        for later in range(row, R):
            if ids[later] == token:
                for c in range(cuda.threadIdx.x, dy.shape[1], cuda.blockDim.x):
                    dtable[token, c] += widen(dy[later, c])


def embedding_forward(y, table, ids, stream):
    """Shapes:  y (R, C) out;  table (V, C) of its type, or bf16 where y is f32;  ids (R,) i32, each
    in 0..V-1"""
    R, C = y.shape
    expect("embedding_forward", ids=(ids, (R,)), table=(table, (table.shape[0], C)))
    copy = embedding_forward_kernel if y.dtype == table.dtype else embedding_forward_widened_kernel
    copy[R, threads_for(C), stream](y, table, ids)


def embedding_backward(dtable, dy, ids, accumulate, stream):
    """dtable[ids[r]] += dy[r]; rows of one id are added in ascending r.

    Without accumulate every row of the table is written, those of absent ids with zero.
    Shapes:  dtable (V, C) f32 in and out;  dy (R, C) bf16|f32;  ids (R,) i32
    """
    R, C = dy.shape
    V = dtable.shape[0]
    expect("embedding_backward", ids=(ids, (R,)), dtable=(dtable, (V, C)))
    if not accumulate:
        zero_kernel[min(V, FILL_BLOCKS), threads_for(C), stream](dtable)
    embedding_backward_kernel[R, threads_for(C), stream](dtable, dy, ids)
