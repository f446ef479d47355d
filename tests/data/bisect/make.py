"""How qwen2-bf16/ was made: a small untied Qwen2 with large biases, BF16, and its stages.

    python make.py                       (needs torch and transformers), then from the checkout
    python tools/make_reference.py tests/data/bisect/qwen2-bf16 tokens.bin \\
        -o tests/data/bisect/qwen2-bf16/reference.npz --stages only

Weights are random but large enough that every part of the forward pass matters in every digit;
the embedding's are small, so that eps does. theta is 1e6, four query heads share two key heads.
"""
import json
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

OUT = Path(__file__).parent / "qwen2-bf16"
STD = {"embed_tokens": 0.02, "bias": 2.0, "norm": 0.3, "lm_head": 0.5}  # others: 0.25

torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=61, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, intermediate_size=24, max_position_embeddings=128,
    rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6})
model = Qwen2ForCausalLM(config)
for name, p in model.named_parameters():
    std = next((s for part, s in STD.items() if part in name), 0.25)
    torch.nn.init.normal_(p, 1.0 if "norm" in name else 0.0, std)
model.bfloat16().save_pretrained(OUT)
settings = json.loads((OUT / "config.json").read_text()) | {"head_dim": 8}
(OUT / "config.json").write_text(json.dumps(settings, indent=1) + "\n")
np.random.default_rng(0).integers(0, 61, 66).astype("<u4").tofile("tokens.bin")
