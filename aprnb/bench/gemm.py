"""Single matrix products in bfloat16 with float32 accumulation, against cuBLAS and QuACK; TFLOP/s.

Contestants take turns without a pause, so the GPU runs at the clock that it sustains under this
work. A weight gradient is written in float32 by us and in bfloat16 by the peers.
"""
from .cases import products, select
from .gpu import GpuBench, case_name, kernels_of, open_gpu, sets_beyond_cache
from .peers import open_peer
from .rows import Row


def measure(patterns, rounds, against, device, kernels):
    """Iterator of a Row of every product that the patterns select.

    Errors: UsageError, DeviceError, MissingPackageError before anything is measured.
    """
    cases = select(products(), patterns)
    backend = open_gpu(device, kernels)
    bench = GpuBench(backend, open_peer(against, backend), rounds)
    room, module = kernels_of("matmul", "linear", kernels, bench.device.capability)
    return (_row(bench, case_name(name, kernels), case, room, module.matmul)
            for name, case in cases.items())


def _row(bench, name, case, room, matmul):
    operands = [[bench.arrays.normal(*spec) for spec in zip(case.shapes, case.dtypes)]
                for _ in range(sets_beyond_cache(case.nbytes))]

    def lap():
        for c, a, b in operands:
            matmul(case.layout, "plain", c, a, b, None, bench.stream)

    own = bench.ours(lap, len(operands))
    pairs = [(a, b) for _, a, b in operands]
    peers, absent = bench.beside(bench.peer.products(case.layout, pairs) if bench.peer else {},
                                 len(operands))
    ours, *theirs = bench.rates([own, *peers.values()], case.flops / 1e3)
    return Row("gemm", name, "TFLOP/s", bench.device_name, ours, dict(zip(peers, theirs)),
               bench.how(peers), {"kernels": room, "flops": case.flops, "bytes": case.nbytes,
                                  "absent": absent})
