"""The worker of `aprnb bench step` that trains the same shape with PyTorch and transformers.

Like for like: float32 master weights and moments, bfloat16 operands (autocast) where ours has them,
fused AdamW, global clip 1.0. Nothing in a step waits for the device. The settings are the fastest
that we found: torch.compile with cuDNN attention, and below GRAPHS_BELOW tokens CUDA graphs
("reduce-overhead") with PyTorch's own choice of attention.
"""
from contextlib import nullcontext
from itertools import cycle

from ..config import PRESETS, to_hf
from .turns import serve
from .workload import LEARNING_RATE, batches

GRAPHS_BELOW = 4096  # target tokens a batch


def open_side(settings):
    """See turns.serve."""
    import torch
    config, name = PRESETS[settings["preset"]], settings["device"]
    device = torch.device("cuda:0" if name == "cuda" else name)  # PyTorch wants a number
    if device.type == "cuda":
        torch.cuda.set_device(device)
    model = _model(config, device)
    optimiser = torch.optim.AdamW(model.parameters(), LEARNING_RATE, (0.9, 0.95), 1e-8,
                                  weight_decay=0.1, fused=True)
    B, T = settings["batch"], settings["length"]
    pairs = cycle([torch.from_numpy(x).long().to(device) for x in pair]
                  for pair in batches(config.vocab_size, B, T))
    loss_of, attention, how = _loss(model, settings)
    last = [None]

    def step():
        torch.compiler.cudagraph_mark_step_begin()
        with attention(), torch.autocast(device.type, torch.bfloat16,
                                         enabled=settings["precision"] == "bf16"):
            loss = loss_of(*next(pairs))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        last[0] = loss.detach()

    def state():
        return {**_device_state(device), "how": f"torch {torch.__version__}, {how}"}
    return step, lambda: last[0].item(), state


def _model(config, device):
    """The transformers model of a preset, float32, with random weights of its own."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    hf = CONFIG_MAPPING[config.family].from_dict(to_hf(config))
    hf.use_cache = False
    with device:
        return AutoModelForCausalLM.from_config(hf, attn_implementation="sdpa").float().train()


def _loss(model, settings):
    """(function of inputs and targets, context for attention, how it runs)."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    def loss(inputs, targets):
        logits = model(input_ids=inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def cudnn_first():
        return sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION,
                            SDPBackend.MATH], set_priority=True)

    if settings["against"] == "eager":
        return loss, cudnn_first, "eager, cuDNN attention first"
    if settings["batch"] * settings["length"] < GRAPHS_BELOW:
        return torch.compile(loss, mode="reduce-overhead"), nullcontext, "compile reduce-overhead"
    return torch.compile(loss), cudnn_first, "compile default, cuDNN attention first"


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
