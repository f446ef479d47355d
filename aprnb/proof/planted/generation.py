"""Faults of continuing a prompt."""
FAULTS = []
