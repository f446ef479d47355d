"""Faults of text, tokens, shards, batches."""
FAULTS = []
