"""Faults of the forward pass."""
FAULTS = []
