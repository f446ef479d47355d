"""PyTorch's side of `bench step`: from gradients to new weights. Global clip 1.0, then AdamW.

`fused` is PyTorch's fused AdamW behind its clip; `one_update` is the same mathematics compiled into
one pass over the gradients. Both keep float32 weights and moments; with `variant.master` the model
computes with bfloat16 copies of them.
"""
from .workload import LEARNING_RATE

CLIP, BETAS, EPS, DECAY = 1.0, (0.9, 0.95), 1e-8, 0.1


def update_of(model, variant):
    """A function that takes the gradients of the model's last backward pass and drops them."""
    weights = list(model.parameters())
    masters = [w.detach().float() for w in weights] if variant.master else weights
    take = (_one_pass if variant.one_update else _fused)(weights, masters, variant)

    def update():
        take([w.grad for w in weights])
        for w in weights:
            w.grad = None
    return update


def _fused(weights, masters, variant):
    import torch
    optimiser = torch.optim.AdamW(masters, LEARNING_RATE, BETAS, EPS, DECAY, fused=True,
                                  capturable=variant.launch == "step")
    if not variant.master:
        def plain(_):
            torch.nn.utils.clip_grad_norm_(weights, CLIP)
            optimiser.step()
        return plain
    for master in masters:
        master.grad = torch.empty_like(master)
    wide = [master.grad for master in masters]

    def apart(gradients):
        torch._foreach_copy_(wide, gradients)
        torch.nn.utils.clip_grad_norm_(masters, CLIP)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_copy_(weights, masters)
    return apart


def _one_pass(weights, masters, variant):
    import torch
    m, v = ([torch.zeros_like(w) for w in masters] for _ in range(2))
    count = masters[0].new_zeros(())
    copies = weights if variant.master else ()
    adamw = torch.compile(_adamw, dynamic=False) if variant.compiled else _adamw

    @torch.no_grad()
    def take(gradients):
        norms = torch._foreach_norm(gradients, 2, count.dtype)  # never that of bfloat16
        norm = torch.linalg.vector_norm(torch.stack(norms))
        count.add_(1)
        adamw(masters, copies, gradients, m, v, count, norm)
    return take


def _adamw(masters, copies, gradients, m, v, count, norm):
    """One step, in place.  Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2"""
    import torch
    # of one element, not a scalar: products with bfloat16 gradients have the masters' type
    scale = (CLIP / (norm + 1e-6)).clamp(max=1.0).reshape(1)
    g = torch._foreach_mul(gradients, [scale] * len(gradients))
    torch._foreach_lerp_(m, g, 1 - BETAS[0])
    torch._foreach_mul_(v, BETAS[1])
    torch._foreach_addcmul_(v, g, g, 1 - BETAS[1])
    bias_m, bias_v = (1 - beta ** count for beta in BETAS)
    root = torch._foreach_sqrt(v)
    torch._foreach_div_(root, bias_v.sqrt())
    torch._foreach_add_(root, EPS)
    step = torch._foreach_div(m, root)
    torch._foreach_mul_(step, -LEARNING_RATE / bias_m)
    torch._foreach_mul_(masters, 1 - LEARNING_RATE * DECAY)
    torch._foreach_add_(masters, step)
    if copies:
        torch._foreach_copy_(copies, masters)
