"""Small Hugging Face folders, written with the `safetensors` package, not with our writer."""
import json
import shutil

import ml_dtypes
import numpy as np
import safetensors.numpy
from shared import GOLDEN

BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": BF16}
TOKENIZER = GOLDEN / "reference" / "llama-f16-untied" / "tokenizer.json"  # 270 ids

CONFIG = {"hidden_act": "silu", "hidden_size": 16, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24,
          "vocab_size": 272, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
          "bos_token_id": 0, "eos_token_id": 0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}


def config(family="qwen2", tied=True, **changes):
    """config.json of a model of 2 layers, 4 heads, 2 kv heads, head_dim 4."""
    out = {"architectures": [{"qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM"}[family]],
           "model_type": family, "tie_word_embeddings": tied, "rope_theta": 1e6, **CONFIG}
    out.update(changes)
    return {k: v for k, v in out.items() if v is not None}


def tensors(family="qwen2", tied=True, dtype="BF16", seed=0, layers=2):
    """{name: array} as such a checkpoint holds them, written out by hand."""
    rng = np.random.default_rng(seed)
    shapes = {"model.embed_tokens.weight": (272, 16), "model.norm.weight": (16,)}
    for i in range(layers):
        at = f"model.layers.{i}."
        shapes |= {at + "input_layernorm.weight": (16,), at + "post_attention_layernorm.weight":
                   (16,), at + "self_attn.q_proj.weight": (16, 16),
                   at + "self_attn.k_proj.weight": (8, 16), at + "self_attn.v_proj.weight": (8, 16),
                   at + "self_attn.o_proj.weight": (16, 16), at + "mlp.gate_proj.weight": (24, 16),
                   at + "mlp.up_proj.weight": (24, 16), at + "mlp.down_proj.weight": (16, 24)}
        if family == "qwen2":
            shapes |= {at + f"self_attn.{p}_proj.bias": (n,) for p, n in
                       (("q", 16), ("k", 8), ("v", 8))}
    if not tied:
        shapes["lm_head.weight"] = (272, 16)
    return {name: (rng.normal(size=shape) * 0.05 + (1 if "norm" in name else 0)
                   ).astype(DTYPES[dtype]) for name, shape in shapes.items()}


def save(path, arrays):
    """One .safetensors file through the package."""
    path.write_bytes(safetensors.numpy.save({n: np.ascontiguousarray(a)
                                             for n, a in arrays.items()}))


def folder(path, arrays, settings, shards=1, index=True, tokenizer=True):
    """A whole folder; returns its path."""
    path.mkdir(parents=True, exist_ok=True)
    names, files = list(arrays), {}
    for i in range(shards):
        numbered = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        file = numbered if shards > 1 else "model.safetensors"
        part = {n: arrays[n] for n in names[i::shards]}
        save(path / file, part)
        files |= dict.fromkeys(part, file)
    if shards > 1 and index:
        (path / "model.safetensors.index.json").write_text(json.dumps(
            {"metadata": {"total_size": 0}, "weight_map": files}))
    (path / "config.json").write_text(json.dumps(settings))
    if tokenizer:
        shutil.copy(TOKENIZER, path / "tokenizer.json")
    return path
