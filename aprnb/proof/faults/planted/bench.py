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
    fault("silent-end-of-a-worker", "a worker that died while idle ends the bench as a broken pipe",
          "ours: exit 141 without a word",
          cpu=[("aprnb/bench/turns.py", "            raise self._ended() from None",
                "            raise")]),
    fault("answers-among-words", "a worker's prints come over the pipe of its answers",
          "ours: JSON over stdout",
          cpu=[("aprnb/bench/turns.py", "stdout=self._said, stderr", "stdout=theirs, stderr")]),
    fault("bench-chooses-its-device", "auto is taken, and the row named as if it were a CPU's or a "
          "GPU's", "ours: an fp32 row of the CPU replaced in bf16",
          cpu=[("aprnb/bench/devices.py", 'fullmatch(name) or name.partition(":")[0] not in '
                'kinds:', "fullmatch(name):")]),
    fault("peers-lack-of-memory-unknown", "PyTorch's own error of a full GPU is an unexpected one",
          "ours: exit 1 where 12 is meant",
          cpu=[("aprnb/bench/turns.py", '== "OutOfMemoryError"', '== "OutOfMemory"')]),
]
