"""How qwen2-bf16/ was made: a tied Qwen2 that shows what small errors usually hide, BF16.

    python make_qwen2.py     (needs torch and transformers)

14 query heads on 2 key heads; biases as large as the projections; an embedding so small that eps
counts; a final norm that brings the tied head's logits back to size; theta 1e6. The reference was
computed in float64: 48 tokens, every logit, the loss of the 47 next tokens and all its gradients.
"""
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

OUT, TOKENS = Path(__file__).parent / "qwen2-bf16", 48
SCALES = (("embed_tokens", 0.0, 0.003), ("model.norm", 60.0, 15.0), ("norm", 1.0, 0.3),
          ("bias", 0.0, 1.0), ("", 0.0, 0.2))  # (part of the name, mean, deviation), first match

torch.manual_seed(0)
config = Qwen2Config(
    vocab_size=96, hidden_size=56, num_hidden_layers=2, num_attention_heads=14,
    num_key_value_heads=2, intermediate_size=40, max_position_embeddings=128, rms_norm_eps=1e-6,
    tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6})
model = Qwen2ForCausalLM(config)
for name, p in model.named_parameters():
    torch.nn.init.normal_(p, *next(s[1:] for s in SCALES if s[0] in name))
model.bfloat16().save_pretrained(OUT)
ids = torch.from_numpy(np.random.default_rng(0).integers(0, 96, (1, TOKENS)))
model.double()
# the angles too: transformers computes them in float32 whatever the model's type
half = config.hidden_size // config.num_attention_heads // 2
model.model.rotary_emb.inv_freq = 1e6 ** (-torch.arange(half, dtype=torch.float64) / half)
logits = model(ids).logits
loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])
loss.backward()
np.savez_compressed(
    OUT / "reference.npz", input_ids=ids.numpy().astype(np.int32),
    logits_last=logits.detach().numpy().astype(np.float32), window_loss=np.float64(loss.item()),
    **{f"window_grad/{n}": p.grad.numpy().astype(np.float32)
       for n, p in model.named_parameters()})
