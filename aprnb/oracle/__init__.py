"""Each op in NumPy: the maths that every kernel is judged by. Imports numpy and ml_dtypes only."""
