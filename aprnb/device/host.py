"""Arrays in the host's memory: the CPU as a device."""
import resource
import sys

import numpy as np
from threadpoolctl import threadpool_limits


class HostDevice:
    """NumPy arrays; nothing is asynchronous, so there is nothing to wait for."""

    name = "cpu"

    def __init__(self):
        # the oracle cuts products over its own threads; BLAS's would only spin beside them
        threadpool_limits(1, "blas")

    def poisoned(self, elements, dtype):
        """A flat array of NaN: whatever reads an element that nobody wrote shows it."""
        out = np.empty(elements, dtype)
        out.view(np.uint8).fill(0xFF)  # all ones is NaN in float32, bfloat16 and float64
        return out

    def zeros(self, elements, dtype):
        return np.zeros(elements, dtype)

    def array(self, host):
        """A copy of a NumPy array."""
        return np.array(host, order="C")

    def upload(self, target, host):
        """target = host, rounded to target's storage type."""
        target[...] = host

    def copy(self, target, source):
        """target = source, both here and of one type and size."""
        target[...] = source

    def download(self, source):
        """A NumPy copy of source."""
        return np.array(source)

    def program(self, body):
        """A callable that does what body() does."""
        return body

    def build(self, programs):
        """Nothing is compiled on the host."""

    def synchronize(self):
        """Every op has finished when it returns."""

    def memory_peak(self):
        """Largest resident size of this process so far, bytes."""
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def utilisation(self):
        """None: the share of a GPU in use is not known on a CPU."""
