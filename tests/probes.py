"""Tiny kernels, one for each tensor-core instruction: operands in, what every lane holds out.

They enter no catalogue: only the tests of the layouts build and run them.
"""
import numpy as np

from aprnb.kernels.cuda import Entry, copy_in, copy_out, cuda, device
from aprnb.kernels.launch import Kernel
from aprnb.kernels.ptx import barrier, tma
from aprnb.kernels.ptx.mma import (commit_copies, make_copy, make_load, make_partials,
                                   make_product, make_staging, wait_copies)
from aprnb.kernels.ptx.scalar import (load_f32, load_i32, load_shared_f32, shared_address,
                                      store_f32, store_release, store_shared_f32)
from aprnb.kernels.ptx.tiles import make_stage
from aprnb.kernels.ptx.wgmma import make_accumulator
from aprnb.kernels.ptx.wgmma import make_product as make_wgmma

BOTH, HOPPER = ("sm_80", "sm_90a"), ("sm_90a",)
ALIGNED = 1024  # bytes


class Probe:
    """One kernel of one block that takes addresses."""

    def __init__(self, function, name, addresses, threads, shared, architectures):
        signature = " ".join("p" * addresses)
        self.threads = threads
        self.kernel = Kernel(Entry(f"probe_{name}", function, (signature,), 255,
                                   (threads, 1), shared + ALIGNED, architectures=architectures))

    def __call__(self, result, *operands):
        """Runs with NumPy operands (addresses as they are); returns what it wrote to `result`."""
        stream, placed = cuda.stream(), []
        for x in (result, *operands):
            if isinstance(x, np.ndarray):
                on_device = cuda.device_array(x.nbytes, np.uint8)
                copy_in(on_device, np.ascontiguousarray(x).reshape(-1).view(np.uint8), stream)
                x = on_device
            placed.append(x)
        self.kernel[1, self.threads, stream](*placed)
        return copy_out(placed[0], stream).view(result.dtype).reshape(result.shape)


@device
def start_of_shared():
    return np.uint32((shared_address(cuda.shared.array(0, np.uint8)) + 1023) & 0xFFFFFC00)


@device
def fill(base, source, count, threads):
    """An image of shared memory, `count` bytes, put into place."""
    for i in range(cuda.threadIdx.x, count // 4, threads):
        store_shared_f32(np.uint32(base + 4 * i), load_f32(source + 4 * i))


@device
def dump(base, target, count, threads):
    for i in range(cuda.threadIdx.x, count // 4, threads):
        store_f32(target + 4 * i, load_shared_f32(np.uint32(base + 4 * i)))


def wgmma(name, columns, k_steps, a, b, a_bytes, b_bytes):
    """out: (columns / 8, 128, 4) floats; images of A and B in shared memory. 128 lanes."""
    product = make_wgmma(columns, k_steps, a, b)
    zeros, wait, _ = make_accumulator(columns // 2)
    put, _ = make_partials(columns // 2)

    def kernel(out, a_image, b_image):
        base = start_of_shared()
        fill(base, a_image, a_bytes, 128)
        fill(np.uint32(base + a_bytes), b_image, b_bytes, 128)
        barrier.fence_async_shared()
        cuda.syncthreads()  # both images stand
        acc = wait(product(zeros(), base, np.uint32(base + a_bytes), np.int32(1)))
        put(acc, out + cuda.threadIdx.x * 16)
    return Probe(kernel, name, 3, 128, a_bytes + b_bytes, HOPPER)


def wgmma_registers(name, columns, b, b_bytes):
    """The same, one k-step, A from registers: (128, 4) pairs."""
    product = make_wgmma(columns, 1, b=b, a_registers=True)
    zeros, wait, _ = make_accumulator(columns // 2)
    put, _ = make_partials(columns // 2)

    def kernel(out, a, b_image):
        base = start_of_shared()
        fill(base, b_image, b_bytes, 128)
        barrier.fence_async_shared()
        cuda.syncthreads()  # the image stands
        acc = wait(product(zeros(), four(a + cuda.threadIdx.x * 16), base, np.int32(1)))
        put(acc, out + cuda.threadIdx.x * 16)
    return Probe(kernel, name, 3, 128, b_bytes, HOPPER)


@device
def four(address):
    return two(address) + two(address + 8)


@device
def two(address):
    return np.uint32(load_i32(address)), np.uint32(load_i32(address + 4))


def ldmatrix(transposed):
    """out: (32, 16) pairs; an image of four times four matrices, eight rows of 16 bytes each."""
    load = make_load(4, 512, transposed)

    def kernel(out, image):
        base = start_of_shared()
        fill(base, image, 2048, 32)
        cuda.syncthreads()  # the image stands
        t = cuda.threadIdx.x
        pairs = load(np.uint32(base + 16 * t))
        for i in range(16):
            store_release(out + 64 * t + 4 * i, pairs[i])
    return Probe(kernel, f"ldmatrix_{transposed}", 2, 32, 2048, BOTH)


def mma():
    """out: (32, 4) floats; fragments of A (32, 4) and of B (32, 2) pairs."""
    product, (zeros, *_), (put, _) = make_product(16, 8), make_accumulator(4), make_partials(4)

    def kernel(out, a, b):
        t = cuda.threadIdx.x
        put(product(zeros(), four(a + 16 * t), two(b + 8 * t)), out + 16 * t)
    return Probe(kernel, "mma", 3, 32, 0, BOTH)


def stmatrix(columns, width):
    """out: an image of the chunks of 64 rows; accumulators (columns / 8, 128, 4) floats."""
    stage, (zeros, *_) = make_stage(columns, width), make_accumulator(columns // 2)
    add, chunk = make_partials(columns // 2)[1], 64 * width * 2
    spread, places = 64 // width, width // 8

    def kernel(out, accumulators):
        base, t = start_of_shared(), cuda.threadIdx.x
        acc = add(zeros(), accumulators + 16 * t)
        row = 16 * (t >> 5) + (t & 15)
        place = ((t & 31) >> 4) ^ (row // spread % places)
        mine = np.uint32(base + row * 2 * width + (place << 4))
        stage(acc, 0, mine)
        stage(acc, 1, np.uint32(mine + chunk))
        cuda.syncthreads()  # both chunks stand
        dump(base, out, 2 * chunk, 128)
    return Probe(kernel, f"stmatrix_{width}", 2, 128, 2 * chunk, HOPPER)


def staging():
    """out: an image of 2 x 32 rows; accumulators (32, 128, 4) floats, a warp's 64 x 64 in the
    first 32 lanes."""
    put, (zeros, *_) = make_staging(64, 64), make_accumulator(128)
    add = make_partials(128)[1]

    def kernel(out, accumulators):
        base, t = start_of_shared(), cuda.threadIdx.x
        acc = add(zeros(), accumulators + 16 * t)
        g, q = t >> 2, t & 3
        mine = base + g * 256 + (((q >> 1) ^ ((g & 3) << 1)) << 4) + ((q & 1) << 3)
        put(acc, 0, np.uint32(mine))
        put(acc, 1, np.uint32(mine + 8192))
        cuda.syncwarp()  # both stand
        dump(base, out, 16384, 32)
    return Probe(kernel, "staging", 2, 32, 16384, BOTH)


def copies():
    """out and source: (17, 4, 16) bytes; lane n copies n bytes of each of its lines 0 to 3, which
    count as lines 0, 2, 4, 6 of five."""
    copy, wait = make_copy(4, 2, 16), wait_copies(0)

    def kernel(out, source):
        base, t = start_of_shared(), np.int32(cuda.threadIdx.x)
        if t < 17:
            copy(np.uint32(base + 64 * t), source + 64 * t, 16, np.int32(5), t)
        commit_copies()
        wait()
        cuda.syncthreads()  # all copies have arrived
        dump(base, out, 17 * 64, 32)
    return Probe(kernel, "copies", 2, 32, 17 * 64, BOTH)


def box(columns, rows):
    """out: an image of a box of bfloat16 that the copy engine fetched from (x, y); its map."""
    count = columns * rows * 2

    def kernel(out, tensor_map):
        base = start_of_shared()
        bar = np.uint32(base + count)
        if cuda.threadIdx.x == 0:
            barrier.mbarrier_init(bar, 1)
            barrier.mbarrier_fence_init()
        cuda.syncthreads()  # the barrier stands
        if cuda.threadIdx.x == 0:
            barrier.mbarrier_expect(bar, count)
            tma.load_2d(base, tensor_map, 8, 3, bar)
        barrier.mbarrier_wait(bar, 0)
        dump(base, out, count, 32)
    return Probe(kernel, f"box_{columns}", 2, 32, count + 16, HOPPER)
