"""Kernels for Hopper (sm_90a): TMA copies, wgmma products, warpgroups with roles."""
