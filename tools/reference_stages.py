"""Every stage of one short window, recorded from a transformers model by forward hooks.

The keys are those of aprnb/proof/bisect/probes.py: "stage/<path>" with the paths of substages.py
there.
"""
import hashlib
import sys
from contextlib import contextmanager

import numpy as np
from frameworks import torch

SEQUENCES, POSITIONS = 2, 32  # positions that run on between sequences show, RoPE and mask too


def stages(model, window):
    """The keys of a float32 model of the Qwen2 or Llama family.

    window: (B, T + 1) ids, a target for each of the first T of every row.
    """
    ids, targets = window[:, :-1], window[:, 1:]
    out = {}
    with recording(model, out), torch.no_grad():
        logits = model(ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(),
                                             reduction="none").reshape(ids.shape)
    out |= {"logits": logits, "losses": loss, "input_ids": ids.int(), "targets": targets.int()}
    return {f"stage/{path}": x.numpy() for path, x in out.items()} | digests(model)


def digests(model):
    """Names of the tensors, and the SHA-256 of the float32 values of each."""
    sums = {name: hashlib.sha256(p.detach().float().numpy().tobytes()).hexdigest()
            for name, p in model.named_parameters()}
    return {"stage/tensors": np.array(list(sums)), "stage/sha256": np.array(list(sums.values()))}


@contextmanager
def recording(model, out):
    """While it lasts, a forward pass enters its stages into `out`, path -> tensor."""
    handles = [model.model.embed_tokens.register_forward_hook(keep(out, "embedding")),
               model.model.norm.register_forward_hook(keep(out, "final_norm"))]
    for i, layer in enumerate(model.model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        for module, key in ((layer.input_layernorm, "attn_norm"), (attention.o_proj, "attn_out"),
                            (layer.post_attention_layernorm, "mlp_norm"), (mlp.gate_proj, "gate"),
                            (mlp.up_proj, "up"), (mlp.down_proj, "mlp_out"),
                            (layer, "mlp_residual")):
            handles.append(module.register_forward_hook(keep(out, f"{i}/{key}")))
        for module, key in ((attention.o_proj, "attn_heads"), (mlp.down_proj, "swiglu"),
                            (layer.post_attention_layernorm, "attn_residual")):
            handles.append(module.register_forward_pre_hook(keep_input(out, f"{i}/{key}")))
        for part in "qkv":
            module = getattr(attention, f"{part}_proj")
            handles.append(module.register_forward_hook(keep_product(out, f"{i}/{part}")))
    try:
        with rope_recorded(model, out):
            yield
    finally:
        for handle in handles:
            handle.remove()


def keep(out, path):
    def hook(module, inputs, output):
        out[path] = (output[0] if isinstance(output, tuple) else output).clone()
    return hook


def keep_input(out, path):
    def hook(module, inputs):
        out[path] = inputs[0].clone()
    return hook


def keep_product(out, path):
    """A projection without its bias, which it adds itself, and with it."""
    def hook(module, inputs, output):
        out[f"{path}_proj"] = torch.nn.functional.linear(inputs[0], module.weight)
        if module.bias is not None:
            out[f"{path}_bias"] = output.clone()
    return hook


@contextmanager
def rope_recorded(model, out):
    """q and k after RoPE: no module's output, but that of a function, called once a layer."""
    home = sys.modules[type(model).__module__]
    right, layers = home.apply_rotary_pos_emb, iter(range(len(model.model.layers)))

    def recorded(*args, **kwargs):
        turned = right(*args, **kwargs)
        layer = next(layers)
        for part, x in zip("qk", turned):  # (B, heads, T, D)
            out[f"{layer}/{part}_rope"] = x.transpose(1, 2).flatten(2).clone()
        return turned
    home.apply_rotary_pos_emb = recorded
    try:
        yield
    finally:
        home.apply_rotary_pos_emb = right
