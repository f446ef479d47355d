"""What kernels with 16-byte accesses need of their arrays.

Where an array starts needs no check: the plan and the parameter table align every buffer to 128
bytes or more.
"""


def misfit_of_rows(*arrays, widest=None, kinds=("bfloat16",)):
    """Why these arrays cannot be read 16 bytes at a time along their last axis, or None."""
    for x in arrays:
        if str(x.dtype) not in kinds:
            return f"{x.dtype} storage, these kernels have {' and '.join(kinds)}"
        if x.shape[-1] * x.dtype.itemsize % 16:
            return f"rows of {x.shape[-1]} {x.dtype} are no multiple of 16 bytes"
        if widest and x.shape[-1] > widest:
            return f"rows of {x.shape[-1]} elements, these kernels hold {widest} at most"
    return None
