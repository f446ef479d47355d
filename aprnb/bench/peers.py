"""The strong library to compare with: cuBLAS and scaled dot-product attention through PyTorch.

Imported only with --against torch. PyTorch works on our stream and on our arrays (the same values
at the same addresses), inside the same process, so both sides are timed by the same events.
"""
from importlib.util import find_spec

from ..errors import MissingPackageError

SDPA = {"flash": "FLASH_ATTENTION", "cuDNN": "CUDNN_ATTENTION"}


def open_peer(against, backend):
    """A Torch on the backend's stream, or None if nothing is to be compared with.

    Errors: MissingPackageError without PyTorch.
    """
    if against == "none":
        return None
    require("torch")
    return Torch(backend)


def require(*packages):
    """MissingPackageError if one of these cannot be imported here."""
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        raise MissingPackageError(f"--against torch: {' and '.join(absent)} not installed for this "
                                  f"interpreter; try `pip install {' '.join(packages)}`, or "
                                  "--against none")


class Torch:
    """PyTorch on the stream that our kernels use."""

    def __init__(self, backend):
        import torch
        self.torch = torch
        index = int(backend.name.partition(":")[2])
        torch.cuda.set_device(index)
        self.stream = torch.cuda.ExternalStream(int(backend.device.stream))
        torch.cuda.set_stream(self.stream)

    def capture(self, enqueue):
        """A callable that replays what enqueue() launches."""
        enqueue()  # makes what a recording cannot
        graph = self.torch.cuda.CUDAGraph()
        # relaxed: an array that is freed meanwhile does not spoil the recording
        with self.torch.cuda.graph(graph, stream=self.stream, capture_error_mode="relaxed"):
            enqueue()
        return graph.replay

    def tensor(self, array):
        """A tensor over one of our arrays; nothing is copied."""
        if array.dtype.itemsize == 2:  # the interface between libraries has no bfloat16
            bits = self.torch.as_tensor(array.view("int16"), device="cuda")
            return bits.view(self.torch.bfloat16)
        return self.torch.as_tensor(array, device="cuda")

    def product(self, layout, a, b):
        """A call of torch.mm on our operands into a bfloat16 output of its own.

        A weight gradient too is written as bfloat16, half the bytes of our float32.
        """
        a, b = self.tensor(a), self.tensor(b)
        left, right = {"nt": (a, b.t()), "nn": (a, b), "tn": (a.t(), b)}[layout]
        out = self.torch.empty((left.shape[0], right.shape[1]), dtype=a.dtype, device="cuda")
        return lambda: self.torch.mm(left, right, out=out)

    def attention(self, name, case, qkv):
        """A call of one direction of causal attention by the SDPA kernel of that name.

        K and V are expanded to the query heads beforehand; that is not timed.
        """
        from torch.nn.attention import SDPBackend, sdpa_kernel
        torch, kernel = self.torch, getattr(SDPBackend, SDPA[name])
        heads = self.tensor(qkv).transpose(1, 2).split([case.H, case.KVH, case.KVH], dim=1)
        q, k, v = (x.repeat_interleave(case.H // x.shape[1], 1).contiguous().requires_grad_()
                   for x in heads)

        def forward():
            with sdpa_kernel(kernel):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

        if case.direction == "fwd":
            return torch.no_grad()(forward)
        o = forward()
        do = torch.randn_like(o)
        return lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True)

    def release(self):
        """Give memory that no tensor holds any more back to the GPU."""
        self.torch.cuda.empty_cache()
