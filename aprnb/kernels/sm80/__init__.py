"""Kernels for compute capability 8.0 and newer: 16-byte accesses, warp-level products."""
