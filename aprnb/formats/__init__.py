"""Bytes to named tensors and back: APR v2, safetensors, and what is between them."""
