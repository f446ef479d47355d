"""Faults of the training loop, its schedule, optimiser and resume."""
FAULTS = []
