"""PyTorch's side of `bench step`: the transformers model of a preset, its attention and its loss.

Its attention is causal by name: transformers builds no mask for an implementation that it does not
know, and SDPA without a mask takes the causal path of its kernels, K and V with their own heads.
"""
from contextlib import nullcontext

from ..formats.config_json import to_hf
from ..errors import AprnbError

ATTENTION = "aprnb_causal"  # what transformers calls our attention
FIRST = {"cudnn": ("CUDNN_ATTENTION", "FLASH_ATTENTION", "MATH"),
         "flash": ("FLASH_ATTENTION",)}  # alone: in front of cuDNN, cuDNN ran all the same


def hf_config(config):
    """The transformers configuration of a ModelConfig."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    hf = CONFIG_MAPPING[config.family].from_dict(to_hf(config))
    hf.use_cache = False
    return hf


def causal_model(hf, device, variant, length):
    """A model with random weights of its own that is trained on sequences of `length` tokens.

    float32, with `variant.master` bfloat16. Errors: AprnbError if its attention is not plainly
    causal at that length.
    """
    from transformers import AttentionInterface, AutoModelForCausalLM
    _refuse_windows(hf, length)
    AttentionInterface.register(ATTENTION, attention(variant))
    with device:
        model = AutoModelForCausalLM.from_config(hf, attn_implementation=ATTENTION)
    return (model.bfloat16() if variant.master else model.float()).train()


def _refuse_windows(hf, length):
    """A window shorter than the sequence is another attention than the one that is measured."""
    window = getattr(hf, "sliding_window", None)
    if "sliding_attention" in (getattr(hf, "layer_types", None) or ()) and (window or 0) < length:
        raise AprnbError(f"bench: {hf.model_type} has windows of {window} tokens, need at least "
                         f"the {length} of a sequence: attention is measured as plainly causal")


def attention(variant):
    """The attention function of a variant, as transformers calls it.

    Shapes: query (B, H, T, D), key and value (B, KVH, T, D), result (B, T, H, D)
    """
    if variant.attention == "fa4":
        from .fa4 import attend
        return attend
    import torch

    def attend(module, query, key, value, attention_mask, scaling=None, **_):
        heads, kv_heads = query.shape[1], key.shape[1]
        if not variant.grouped:
            key, value = (x.repeat_interleave(heads // kv_heads, 1) for x in (key, value))
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, is_causal=attention_mask is None,
            scale=scaling, enable_gqa=key.shape[1] != heads)
        return out.transpose(1, 2).contiguous(), None
    return attend


def preference(variant):
    """A context in which SDPA chooses its kernels as the variant says."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    if variant.attention not in FIRST:
        return nullcontext()
    order = [getattr(SDPBackend, name) for name in FIRST[variant.attention]]
    return sdpa_kernel(order, set_priority=True)


def loss_of(model, variant):
    """A function of inputs and targets (B, T): the mean cross-entropy, in float32."""
    import torch

    def loss(inputs, targets):
        if variant.residual == "bf16":
            embedded = model.get_input_embeddings()(inputs).bfloat16()
            logits = model(inputs_embeds=embedded).logits
        else:
            logits = model(input_ids=inputs).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
    return loss
