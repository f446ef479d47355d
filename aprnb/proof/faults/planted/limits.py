"""Faults of what is refused when a run starts, and of what is served beyond the usual sizes."""
from ..fault import fault
from .forward import kernel

ATTENTION, CHOICE, INSTANCE = (kernel("attention"), kernel("choice"), "aprnb/model/instance.py")
ASKED = "        refuse_unserved(config, backend, 1, 1, trainable, where=where)\n"

FAULTS = [
    fault("limits-of-heads-twice-too-wide", "heads are refused from a width on that none serves",
          "ours: a limit written down a second time",
          cpu=[(ATTENTION, "    if D > WIDEST:", "    if D > 2 * WIDEST:")]),
    fault("limits-turn-the-widest-away", "the widest head that the kernels serve is refused",
          "ours: an off-by-one",
          cpu=[(ATTENTION, "    if D > WIDEST:", "    if D >= WIDEST:")]),
    fault("limits-asked-after-the-weights", "the weights are allocated before a model is refused",
          "ours: the order of a constructor",
          cpu=[(INSTANCE, ASKED, ""),
               (INSTANCE, "        self._make_twin = None\n",
                "        self._make_twin = None\n" + ASKED)]),
    fault("limits-of-activations-unasked", "the size of a pass is met in its middle",
          "ours: asked about the model alone",
          cpu=[(INSTANCE, "        refuse_unserved(self.config, self.backend, batch, length, "
                "training, recompute, self.where)\n", "")]),
    fault("limits-of-size-unasked", "rows beyond 32 bits are let through",
          "common",
          cpu=[(CHOICE, "            if misfit:\n                raise LoadError(f\"{name}",
                "            if misfit and False:\n                raise LoadError(f\"{name}")]),
    fault("limits-of-tiles-unasked", "a grid beyond the driver's is let through",
          "common",
          cpu=[(ATTENTION, "return None if blocks <= MOST_BLOCKS", "return None if blocks")]),
    fault("grid-of-sequences-in-its-second-dimension",
          "a batch of more than 65,535 sequences is no grid",
          "ours: RoPE and attention before this contract",
          cpu=[(kernel("rope"), "rotate_kernel[T * B,", "rotate_kernel[(T, B),")]),
    fault("product-without-mixed-types", "the head's gradient of float32 logits has no kernel",
          "ours: a table without a row",
          cpu=[(kernel("matmul"), '("s2 s2 s2 s2", "h2 f2 h2 h2")', '("s2 s2 s2 s2",)')]),
    fault("kernels-by-name-give-way", "kernels that were asked for leave the call to others",
          "ours: a wish taken for a hint",
          cpu=[(CHOICE, "if room == must and room != homes[-1][0]:", "if False:")]),
    fault("limits-of-the-last-room-unasked", "the portable kernels are taken to serve everything",
          "ours: head_dim 256 before this contract",
          simulator=[(CHOICE, 'if hasattr(home, "misfit") else None',
                      'if room != "portable" else None')]),
    fault("attention-scores-of-128-channels", "channels beyond the 128th add nothing to a score",
          "ours: a bound left behind as the tiles grew",
          simulator=[(kernel("attention_tiles"), "for chunk in range(width // 4):",
                      "for chunk in range(min(width, 128) // 4):")]),
]
