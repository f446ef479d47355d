"""Folders that record what was run: written by tools, checked file by file."""
