"""How llama-f16/other.npz was made: the same weights as another Llama, of theta 5e5 and eps 1e-3.

    python make_other_llama.py     (needs torch and transformers)

The model's own are 1e4 and 1e-5, which code that fixes them fixes them at. Computed in float32:
48 tokens, every logit.
"""
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

OUT, TOKENS = Path(__file__).parent / "llama-f16", 48

config = LlamaConfig.from_pretrained(OUT, rms_norm_eps=1e-3)
config.rope_parameters["rope_theta"] = 5e5
model = LlamaForCausalLM.from_pretrained(OUT, config=config, dtype=torch.float32).eval()
assert model.model.norm.variance_epsilon == 1e-3 and model.config.rope_parameters["factor"] == 4
slowest = -(config.head_dim // 2 - 1) / (config.head_dim // 2)  # turned least, and scaled whole
assert torch.isclose(model.model.rotary_emb.inv_freq[-1], torch.tensor(5e5 ** slowest / 4))
ids = torch.from_numpy(np.random.default_rng(0).integers(0, config.vocab_size, (1, TOKENS)))
with torch.no_grad():
    logits = model(ids).logits
np.savez_compressed(OUT / "other.npz", input_ids=ids.numpy().astype(np.int32),
                    logits_last=logits.numpy())
