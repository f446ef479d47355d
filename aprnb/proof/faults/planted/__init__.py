"""The planted faults, a module for each part of the system that they spoil."""
