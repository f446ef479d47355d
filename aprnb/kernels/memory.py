"""Memory of the GPU: every array there, scratch and tables included, is made and counted here."""
import numpy as np

from ..errors import DeviceMemoryError
from .cuda import cuda, is_out_of_memory

_sizes = []


def allocate(shape, dtype):
    """A device array of unknown contents.

    Errors: DeviceMemoryError (exit 12) if it does not fit.
    """
    try:
        out = cuda.device_array(shape, dtype)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        free, total = cuda.current_context().get_memory_info()
        raise DeviceMemoryError(
            f"GPU memory: {nbytes / 2**30:.2f} GiB more do not fit: {free / 2**30:.2f} of "
            f"{total / 2**30:.2f} GiB are free and this run has asked for "
            f"{allocated() / 2**30:.2f}; try a smaller --micro-batch or --seq-length, or "
            "--precision bf16") from error
    _sizes.append(out.nbytes)
    return out


def allocated():
    """Bytes that this process has asked for so far."""
    return sum(_sizes)
