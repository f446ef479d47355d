"""Arrays in the memory of one CUDA GPU, and the stream on which everything is ordered.

Allocations are counted: `memory_peak` is the sum of what this process asked for, scratch memory of
kernels included, not of what other programs hold on the same card.
"""
import numpy as np

from ..errors import DeviceError
from ..kernels.cuda import SIMULATOR, copy_in, copy_out, cuda, fill_bytes, unusable_reason
from ..kernels.launch import prepare, this_architecture
from ..kernels.memory import allocate, allocated
from .program import Program

_chosen = []  # the one GPU: loaded kernels, their scratch and tensor maps live there alone


class GpuDevice:
    """One GPU, chosen once for the process, with one stream.

    Every copy is enqueued on the stream of the kernels, so a buffer is never overwritten while a
    kernel still reads it. Only `download` and `synchronize` make the host wait.
    """

    def __init__(self, index):
        """Errors: DeviceError (exit 14) if this GPU cannot be used, with the driver's reason."""
        reason = unusable_reason(index)
        if _chosen and index != _chosen[0]:
            reason = f"this process works on cuda:{_chosen[0]} already, and on one GPU only"
        if reason:
            raise DeviceError(f"cuda:{index}: {reason}")
        cuda.select_device(index)
        if not SIMULATOR:
            this_architecture()  # refuses a GPU that is too old, so that "auto" can turn to the CPU
        _chosen[:] = [index]
        device = cuda.get_current_device()
        self.name = f"cuda:{index}"
        self.capability = tuple(device.compute_capability)
        name = getattr(device, "name", b"the CUDA simulator")  # which has no name of its own
        self.description = (f"{_text(name)}, compute capability "
                            f"{'.'.join(map(str, self.capability))}")
        self.stream = cuda.stream()

    def poisoned(self, elements, dtype):
        """A flat array of NaN: whatever reads an element that nobody wrote shows it."""
        return self._filled(elements, dtype, 0xFF)  # all ones is NaN in float32 and bfloat16

    def zeros(self, elements, dtype):
        return self._filled(elements, dtype, 0)

    def array(self, host):
        """A copy of a NumPy array."""
        out = allocate(host.shape, host.dtype)
        self.upload(out, host)
        return out

    def upload(self, target, host):
        """target = host, rounded to target's storage type on the host."""
        host = np.ascontiguousarray(host, dtype=target.dtype).reshape(target.shape)
        copy_in(target, host, self.stream)

    def copy(self, target, source):
        """target = source, both here and of one type and size."""
        copy_in(target, source, self.stream)

    def download(self, source):
        """A NumPy copy of source; waits for all that was enqueued before."""
        return copy_out(source, self.stream)

    def program(self, body):
        """A callable that does what body() does, from its second call on as one graph launch.

        body only enqueues ops, always the same ones on the same arrays.
        """
        return body if SIMULATOR else Program(body, self.stream)

    def build(self, programs):
        """Compile every kernel that the programs launch and the cache does not hold, on all cores;
        otherwise each would be compiled when it is first met. Nothing is launched."""
        if not SIMULATOR:
            prepare(set().union(*(program.kernels() for program in programs)))

    def synchronize(self):
        self.stream.synchronize()

    def memory_peak(self):
        """Bytes that this process has asked the device for, scratch memory of kernels included."""
        return allocated()

    def utilisation(self):
        """None: reading it needs the management library, and an invented figure is worse."""

    def _filled(self, elements, dtype, byte):
        out = allocate((elements,), dtype)
        fill_bytes(out, byte, self.stream)
        return out


def _text(name):
    return name.decode() if isinstance(name, bytes) else str(name)
