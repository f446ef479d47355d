"""The hypotheses of bisect, a module for each part of the forward pass."""
