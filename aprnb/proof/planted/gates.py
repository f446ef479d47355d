"""Faults of checks that must stop a run."""
FAULTS = []
