"""Contract files: read without trust, judged by rules, loaded as plain values."""
