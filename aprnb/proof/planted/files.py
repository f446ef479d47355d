"""Faults of model files: writing, reading, populating."""
FAULTS = []
