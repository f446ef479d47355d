"""What kernels with 16-byte accesses need of their arrays.

Where an array starts needs no check: the plan and the parameter table align every buffer to 128
bytes or more.
"""


def misfit_of_rows(*arrays, widest=None):
    """Why these arrays cannot be read 16 bytes at a time along their last axis, or None."""
    for x in arrays:
        if str(x.dtype) != "bfloat16":
            return f"{x.dtype} storage, these kernels have bfloat16"
        if x.shape[-1] % 8:
            return f"rows of {x.shape[-1]} bfloat16 are no multiple of 16 bytes"
        if widest and x.shape[-1] > widest:
            return f"rows of {x.shape[-1]} elements, these kernels hold {widest} at most"
    return None
