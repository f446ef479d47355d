"""Causal grouped-query attention, forward and backward, against cuDNN and flash kernels.

Ours reads q, k, v from the packed projection; peers.Torch.attentions says what each peer reads.
TFLOP/s of the products alone (cases.Attention.flops).
"""
from ..dtypes import F32
from .cases import attentions, select
from .gpu import GpuBench, case_name, kernels_of, open_gpu
from .peers import open_peer
from .rows import Row


def measure(patterns, rounds, against, device, kernels):
    """Iterator of a Row of every attention that the patterns select.

    Errors: UsageError, DeviceError, MissingPackageError before anything is measured.
    """
    cases = select(attentions(), patterns)
    backend = open_gpu(device, kernels)
    bench = GpuBench(backend, open_peer(against, backend), rounds)
    room, module = kernels_of("attention", "attention", kernels, bench.device.capability)
    return (_row(bench, case_name(name, kernels), case, room, module)
            for name, case in cases.items())


def _row(bench, name, case, room, module):
    qkv = bench.arrays.normal((case.B, case.T, case.H + 2 * case.KVH, case.D))
    own = bench.ours(_ours(bench, case, qkv, module))
    peers, absent = bench.beside(bench.peer.attentions(case, qkv) if bench.peer else {})
    ours, *theirs = bench.rates([own, *peers.values()], case.flops / 1e3)
    return Row("attention", name, "TFLOP/s", bench.device_name, ours, dict(zip(peers, theirs)),
               bench.how(peers), {"kernels": room, "flops": case.flops, "absent": absent})


def _ours(bench, case, qkv, module):
    """A call of one direction on packed q, k, v; backward finds what a forward pass left."""
    B, T, H, D = case.B, case.T, case.H, case.D
    o, do = (bench.arrays.normal((B, T, H, D)) for _ in range(2))
    lse, delta = (bench.arrays.normal((B, H, T), F32) for _ in range(2))

    def forward():
        module.attention_forward(o, lse, qkv, bench.stream)

    if case.direction == "fwd":
        return forward
    forward()
    dqkv = bench.arrays.normal(qkv.shape)
    return lambda: module.attention_backward(dqkv, delta, do, qkv, o, lse, bench.stream)
