"""Faults of kernels alone: indexing, synchronisation, tiles."""
FAULTS = []
