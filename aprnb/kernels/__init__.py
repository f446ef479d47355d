"""The ops of the oracle as Numba-CUDA kernels: same names, same arguments, plus a last stream."""
