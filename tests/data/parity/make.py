"""How llama-f16/ was made: an untied Llama with Llama-3 RoPE scaling, F16, and its reference.

    python make.py TOKENIZER_JSON     (needs torch and transformers; then tools/make_reference.py)

Weights are random but large enough that attention, norms and scaling matter in every digit.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(__file__).parent / "llama-f16"

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=272, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, intermediate_size=48, max_position_embeddings=1024,
    rms_norm_eps=1e-5, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0,
    rope_parameters={"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0,
                     "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                     "original_max_position_embeddings": 128})
model = LlamaForCausalLM(config)
for name, p in model.named_parameters():
    torch.nn.init.normal_(p, 1.0 if "norm" in name else 0.0, 0.3 if "norm" in name else 0.2)
model.half().save_pretrained(OUT)
shutil.copy(sys.argv[1], OUT / "tokenizer.json")
old = json.loads((OUT / "config.json").read_text())
rope = old.pop("rope_parameters")  # the older spelling, so that both occur in the tests
old["rope_theta"], old["rope_scaling"] = rope.pop("rope_theta"), rope
(OUT / "config.json").write_text(json.dumps(old, indent=1) + "\n")
np.random.default_rng(0).integers(0, 272, 8 * 513).astype("<u4").tofile(OUT / "tokens.bin")
