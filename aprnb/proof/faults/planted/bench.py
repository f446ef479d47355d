"""Faults of the benches: whom ours is compared with."""
from ..fault import fault

FAULTS = [
    fault("peer-with-a-dense-mask", "transformers builds PyTorch's side a mask of all pairs",
          "ours: the rows of November 2026 were measured so",
          cpu=[("aprnb/bench/torch_model.py", "attn_implementation=ATTENTION",
                'attn_implementation="sdpa"')]),
    fault("dense-mask-unnoticed", "only a mask that is called causal is taken for one",
          "ours: a guard that looks at half of what SDPA is given",
          cpu=[("aprnb/bench/causal.py", "sum(masked or not causal", "sum(masked and causal")]),
    fault("attention-of-the-loss", "the softmax of the loss is taken for attention",
          "ours: a name that fits too much",
          cpu=[("aprnb/bench/kernel_names.py", "if OF_MATH in n.lower() and NOT_OF_MATH not in "
                "n.lower()]", "if OF_MATH in n.lower()]")]),
]
