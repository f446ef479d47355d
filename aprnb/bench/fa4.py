"""FlashAttention-4 as one operator of PyTorch, for transformers under torch.compile.

Imported where `flash_attn.cute` is; never a dependency. It is an operator of its own because
PyTorch's own hook for it expects another number of results than the package returns.
"""
import torch


def package():
    """The module that has FlashAttention-4's two directions."""
    from flash_attn.cute import interface
    return interface


@torch.library.custom_op("bench::aprnb_fa4", mutates_args=())
def forward(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
            scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Causal attention and its log-sum-exp.

    Shapes: query (B, T, H, D), key and value (B, T, KVH, D), results (B, T, H, D), (B, H, T) f32
    """
    run = package()._flash_attn_fwd
    return run(query, key, value, softmax_scale=scale, causal=True, return_lse=True)[:2]


@forward.register_fake
def _(query, key, value, scale):
    B, T, H, _ = query.shape
    return query.new_empty(query.shape), query.new_empty((B, H, T), dtype=torch.float32)


@torch.library.custom_op("bench::aprnb_fa4_backward", mutates_args=())
def backward(do: torch.Tensor, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor,
             out: torch.Tensor, lse: torch.Tensor,
             scale: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value."""
    run = package()._flash_attn_bwd
    return run(query, key, value, out, do, lse, softmax_scale=scale, causal=True)[:3]


@backward.register_fake
def _(do, query, key, value, out, lse, scale):
    return tuple(x.new_empty(x.shape) for x in (query, key, value))


def _keep(ctx, inputs, output):
    query, key, value, ctx.scale = inputs
    ctx.save_for_backward(query, key, value, *output)


def _gradients(ctx, do, _):
    return *backward(do.contiguous(), *ctx.saved_tensors, ctx.scale), None


forward.register_autograd(_gradients, setup_context=_keep)


def attend(module, query, key, value, attention_mask, scaling=None, **_):
    """The attention function that transformers calls, see torch_model.attention."""
    # contiguous: gradients have the layout of what they belong to
    out, _ = forward(*(x.transpose(1, 2).contiguous() for x in (query, key, value)), scaling)
    return out, None
