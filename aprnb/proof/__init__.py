"""Contracts, the planted faults that make their tests fail, and evidence of what was run."""
