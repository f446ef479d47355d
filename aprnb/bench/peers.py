"""The strong libraries to compare with, through PyTorch: cuBLAS, SDPA, FlashAttention-4, QuACK.

Imported only with --against torch. PyTorch works on our stream and on our arrays (the same values
at the same addresses), inside the same process, so all sides are timed by the same events. A peer
is a name and a function that makes its call; what cannot run here is said and left out.
"""
from importlib.util import find_spec

from ..errors import MissingPackageError
from ..provenance import versions

SDPA = {"flash": "FLASH_ATTENTION", "cuDNN": "CUDNN_ATTENTION"}
VERSIONS_OF = {"FA4": "flash-attn-4", "QuACK": "quack-kernels"}


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

    def usable(self, peers):
        """(name -> call, name -> why not) of peers: those whose call runs once, and the others.

        peers: name -> function without arguments that makes the call
        """
        calls, absent = {}, {}
        for name, make in peers.items():
            try:
                calls[name] = make()
                calls[name]()
                self.stream.synchronize()
            except Exception as error:  # another library's own; after a broken GPU all fail
                calls.pop(name, None)
                absent[name] = (f"{type(error).__name__}: {error}".splitlines() or [""])[0]
        return calls, absent

    def products(self, layout, operands):
        """Name -> maker of a call that does all these products (a, b) into outputs of its own.

        A weight gradient too is written as bfloat16, half the bytes of our float32.
        """
        torch = self.torch
        sides = [(self.tensor(a), self.tensor(b)) for a, b in operands]
        sides = [{"nt": (a, b.t()), "nn": (a, b), "tn": (a.t(), b)}[layout] for a, b in sides]
        outs = [torch.empty((a.shape[0], b.shape[1]), dtype=a.dtype, device="cuda")
                for a, b in sides]

        def cublas(library):
            def call():
                torch.backends.cuda.preferred_blas_library(library)
                for (a, b), out in zip(sides, outs):
                    torch.mm(a, b, out=out)
            return call

        def quack():
            from quack.gemm_interface import gemm

            def call():
                for (a, b), out in zip(sides, outs):
                    gemm(a, b, out=out)
            return call
        found = {"cuBLAS": lambda: cublas("cublas"), "cuBLASLt": lambda: cublas("cublaslt")}
        return found | {"QuACK": quack}

    def attentions(self, case, qkv):
        """Name -> maker of a call of one direction of causal attention.

        K and V expanded to the query heads beforehand, which is not timed; "grouped": with heads
        of their own; "packed": grouped, as views of the packed projection, as ours reads them.
        """
        packed = self.tensor(qkv).split([case.H, case.KVH, case.KVH], dim=2)  # (B, T, heads, D)
        alone = [x.contiguous() for x in packed]
        grouped = [x.transpose(1, 2).contiguous() for x in packed]
        expanded = [x.repeat_interleave(case.H // x.shape[1], 1) for x in grouped]
        views = [x.transpose(1, 2) for x in packed]
        found = {}
        for name, kernel in SDPA.items():
            found[name] = self._sdpa(kernel, case, expanded)
            found[f"{name} grouped"] = self._sdpa(kernel, case, grouped)
            found[f"{name} packed"] = self._sdpa(kernel, case, views)
        return found | {"FA4": self._fa4(case, alone), "FA4 packed": self._fa4(case, packed)}

    def _sdpa(self, kernel, case, tensors):
        from torch.nn.attention import SDPBackend, sdpa_kernel
        torch = self.torch

        def make():
            q, k, v = (x.detach().requires_grad_() for x in tensors)

            def forward():
                with sdpa_kernel(getattr(SDPBackend, kernel)):
                    return torch.nn.functional.scaled_dot_product_attention(
                        q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
            if case.direction == "fwd":
                return torch.no_grad()(forward)
            o = forward()
            do = torch.randn_like(o)
            return lambda: torch.autograd.grad(o, (q, k, v), do, retain_graph=True)
        return make

    def _fa4(self, case, tensors):
        def make():
            from flash_attn.cute.interface import _flash_attn_bwd, _flash_attn_fwd

            def forward():
                return _flash_attn_fwd(*tensors, causal=True, return_lse=True)[:2]
            if case.direction == "fwd":
                return forward
            o, lse = forward()
            do = self.torch.randn_like(o)
            return lambda: _flash_attn_bwd(*tensors, o, do, lse, causal=True)
        return make

    def norm(self, name, sets):
        """A maker of QuACK's call of one of our RMSNorm ops on all these sets of its arguments.

        name, arguments: as in cases.norms
        """
        def make():
            from quack.rmsnorm import rmsnorm_bwd, rmsnorm_fwd
            calls = {
                "rmsnorm_forward": lambda y, rstd, x, w, eps:
                    rmsnorm_fwd(x, w, eps=eps, store_rstd=True),
                "add_rmsnorm_forward": lambda y, total, rstd, x, more, w, eps:
                    rmsnorm_fwd(x, w, residual=more, eps=eps, store_rstd=True),
                "rmsnorm_backward": lambda dx, dw, dy, x, w, rstd, _:
                    rmsnorm_bwd(x, w, dy, rstd),
                "add_rmsnorm_backward": lambda dx, dw, dy, dtotal, x, w, rstd, _:
                    rmsnorm_bwd(x, w, dy, rstd, dresidual_out=dtotal, has_residual=True)}
            tensors = [[self.tensor(a) if hasattr(a, "dtype") else a for a in arguments]
                       for arguments in sets]
            return lambda: [calls[name](*arguments) for arguments in tensors]
        return make

    def how(self, name):
        """Versions of what a peer ran, for a row."""
        found = [f"torch {self.torch.__version__}"]
        if name.startswith("cuDNN"):
            found.append(f"cuDNN {self.torch.backends.cudnn.version()}")
        package = VERSIONS_OF.get(name.split()[0])
        if package:
            found += [f"{package} {v}" for v in versions([package]).values()]
        return "; ".join(found)

    def release(self):
        """Give memory that no tensor holds any more back to the GPU."""
        self.torch.cuda.empty_cache()
