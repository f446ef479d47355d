#!/usr/bin/env python3
"""Times tile shapes and stages of the sm_80 product kernel: what SQUARE in sm80/matmul.py rests on.

    tools/sweep_sm80_matmul.py [--cases GLOBS] [--rounds N] [--device cuda:0]

One line a product of `aprnb bench gemm`: TFLOP/s of every variant, best first, median and spread
of the rounds; variants take turns without a pause.
"""
import argparse

from endings import end  # first: it knows where the package lies

from aprnb.bench.cases import products, select
from aprnb.bench.gpu import Arrays, GpuClock, open_gpu, sets_beyond_cache
from aprnb.bench.timing import Contestant, contest, median, spread
from aprnb.kernels.sm80.matmul import Variant, matmul
from aprnb.kernels.sm80.matmul_kernel import make_matmul

VARIANTS = (Variant(128, 128, 32, 4, 2), Variant(128, 128, 32, 3, 2), Variant(128, 128, 32, 6, 2),
            Variant(128, 128, 64, 3, 2), Variant(128, 256, 32, 4, 1), Variant(128, 256, 64, 3, 1),
            Variant(256, 128, 32, 4, 1), Variant(256, 128, 64, 3, 1))


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--cases", default="*/16384,cube/*", help="globs (default */16384,cube/*)")
    p.add_argument("--rounds", type=int, default=5, help="rounds (default 5)")
    p.add_argument("--device", default="cuda:0", help="GPU (default cuda:0)")
    args = p.parse_args()
    device = open_gpu(args.device, "auto").device
    kernels = {(layout, v): make_matmul(layout, "plain", layout == "tn", *v)
               for layout in ("nt", "nn", "tn") for v in VARIANTS}
    for name, case in select(products(), args.cases).items():
        rates = measure(device, case, kernels, args.rounds)
        best = sorted(rates.items(), key=lambda item: -median(item[1]))
        print(f"{name:24s}", "   ".join(f"{'x'.join(map(str, v))} {median(r):.0f} "
                                        f"+-{100 * spread(r):.0f}%" for v, r in best), flush=True)
    return 0


def measure(device, case, kernels, rounds):
    """Variant -> TFLOP/s of every round."""
    arrays, clock = Arrays(device), GpuClock(device.stream)
    operands = [[arrays.normal(*spec) for spec in zip(case.shapes, case.dtypes)]
                for _ in range(sets_beyond_cache(case.nbytes))]
    contestants = [Contestant(lap_of(device, case.layout, operands, kernels[case.layout, v]),
                              len(operands)) for v in VARIANTS]
    times = contest(clock, contestants, rounds)
    return {v: [case.flops / 1e9 / ms for ms in own] for v, own in zip(VARIANTS, times)}


def lap_of(device, layout, operands, kernel):
    """A captured graph of one product of every set of operands."""
    def lap():
        for c, a, b in operands:
            matmul(layout, "plain", c, a, b, None, device.stream, kernel)
    program = device.program(lap)
    program()  # runs, and so builds and loads
    program()  # captures
    return program


if __name__ == "__main__":
    end(main)
