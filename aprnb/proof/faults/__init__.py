"""Planted faults: mistakes made on purpose, and whether a test sees each of them."""
