"""The worker of `aprnb bench step` that trains the same shape with PyTorch and transformers.

Like for like: float32 master weights and moments, bfloat16 operands where ours has them, AdamW,
global clip 1.0. Nothing in a step waits for the device. How it runs is a variant (variants.py).
"""
import os
import tempfile
from itertools import cycle

from ..config import PRESETS
from .causal import JudgedInductor, compiled, refuse_unknown
from .kernel_names import attention_of
from .torch_model import causal_model, hf_config, loss_of, preference
from .torch_update import update_of
from .turns import serve
from .variants import variant_of
from .workload import batches


def open_side(settings):
    """See turns.serve."""
    variant = variant_of(settings["variant"], settings)
    _environment(variant)
    import torch
    _options(variant, settings)
    name, B, T = settings["device"], settings["batch"], settings["length"]
    device = torch.device("cuda:0" if name == "cuda" else name)  # PyTorch wants a number
    if device.type == "cuda":
        torch.cuda.set_device(device)
    hf = hf_config(PRESETS[settings["preset"]])
    model = causal_model(hf, device, variant, T)
    pairs = cycle([torch.from_numpy(x).long().to(device) for x in pair]
                  for pair in batches(hf.vocab_size, B, T))
    take = _step(model, variant, device, settings["precision"] == "bf16")
    if variant.launch == "step":
        take = _in_one_graph(take, next(pairs))
    last = [None]

    def step():
        last[0] = take(*next(pairs))

    def finish():
        return last[0].item()

    cache = {}  # asked after the first step, when all is compiled

    def state():
        cache.setdefault("compile_cache", _compile_cache())
        return {**_device_state(device), **cache, "variant": variant.name, "versions": _versions(),
                "how": f"torch {torch.__version__}, {variant.name}"}
    return step, finish, state, lambda: _attention(device, step, finish)


def _environment(variant):
    """What PyTorch reads while it is imported.

    A compile cache for each choice of attention: its own key does not hold that choice, so a graph
    would come back with the kernels of another variant.
    """
    base = os.environ.get("TORCHINDUCTOR_CACHE_DIR") or os.path.join(
        tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(base, f"attention-{variant.attention}")
    if variant.segments:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


def _options(variant, settings):
    import torch
    if variant.tf32:
        torch.set_float32_matmul_precision("high")
    if settings.get("prefill"):  # others run beside it: what is timed now must not be remembered
        torch._inductor.config.autotune_local_cache = False


def _step(model, variant, device, bf16):
    """A function of inputs and targets that does one step and returns the loss, on the device."""
    import torch
    loss, update = loss_of(model, variant), update_of(model, variant)
    backend = JudgedInductor(dict(variant.inductor))
    if variant.compiled:
        loss = compiled(loss, backend)
    amp, layers = bf16 and not variant.master, model.config.num_hidden_layers
    seen = []

    def take(inputs, targets):
        torch.compiler.cudagraph_mark_step_begin()
        with preference(variant), torch.autocast(device.type, torch.bfloat16, enabled=amp,
                                                 cache_enabled=variant.launch != "step"):
            value = loss(inputs, targets)
        if variant.compiled and not seen:
            refuse_unknown(backend.calls, layers)
            seen.append(True)
        value.backward()
        update()
        return value.detach()
    return take


def _in_one_graph(take, pair):
    """`take` recorded whole as one CUDA graph: its inputs are copied to where it reads them."""
    import torch
    held = [x.clone() for x in pair]
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(3):  # compiles, allocates, chooses: nothing of which can be recorded
            take(*held)
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = take(*held)

    def replay(*fresh):
        for old, new in zip(held, fresh):
            old.copy_(new)
        graph.replay()
        return loss
    return replay


def _attention(device, step, finish):
    """Which attention a step runs, from the names of its kernels."""
    if device.type != "cuda":
        return {"attention": "CPU", "attention_kernels": []}
    from torch.profiler import ProfilerActivity, profile
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        step()
        finish()
    word, kernels = attention_of([event.key for event in seen.key_averages()])
    return {"attention": word, "attention_kernels": kernels}


def _compile_cache():
    """"warm" if all graphs compiled so far came off the disk, "cold" if none, else "partly warm";
    None if nothing was compiled. Single kernels may come off the disk where their graph did not."""
    from torch._dynamo.utils import counters
    found = [(name, count) for room in ("inductor", "aot_autograd")
             for name, count in counters[room].items() if "cache_" in name and count]
    if not found:
        return None
    lost = [name.endswith(("_miss", "_bypass")) for name, _ in found]
    return "cold" if all(lost) else "partly warm" if any(lost) else "warm"


def _versions():
    import torch
    import transformers
    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    if torch.backends.cudnn.is_available():
        found["cuDNN"] = str(torch.backends.cudnn.version())
    try:
        import triton
        found["triton"] = triton.__version__
    except ImportError:  # PyTorch for the CPU comes without
        pass
    return found


def _device_state(device):
    import resource

    import torch
    if device.type == "cuda":
        return {"memory_peak": torch.cuda.max_memory_allocated(),
                "device": torch.cuda.get_device_name()}
    return {"memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "device": "cpu"}


if __name__ == "__main__":
    serve(open_side)
