"""Each op in NumPy: the maths that every kernel is judged by. Imports nothing else of ours."""
