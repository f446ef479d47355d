"""The places of a forward pass that bisect compares: every intermediate result, in data-flow order.

Finer than model/stages.py: q, k and v before and after their bias and after RoPE, what the heads
say before and after the output projection, gate and up. A path is a key of EMBEDDING or HEAD, or
"<layer>/<key>" with one of LAYER; a reference file holds it as "stage/<path>". Values are
(R, width) with R = batch * length rows, losses (R,), the mean loss (1,).
"""
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Stage:
    """One intermediate result."""

    key: str
    part: str
    """q, k, v, gate, up, or "" for a stage of one part."""
    step: str
    """What has been done, in words; stages of one kind and layer differ in the part alone."""
    kind: str
    """Which hypotheses can explain it: a key of HYPOTHESES."""
    reads: tuple
    """Keys of the stages that it is computed from; "stream" is the residual stream before."""
    suspects: str
    """Where to look when nothing known explains it."""
    layer: int | None = None
    """None outside the layers."""

    @property
    def path(self):
        return self.key if self.layer is None else f"{self.layer}/{self.key}"

    @property
    def title(self):
        return f"{self.part} {self.step}".strip()

    @property
    def name(self):
        return self.title if self.layer is None else f"layer {self.layer}, {self.title}"


def _each(parts, key, step, kind, reads, suspects):
    return tuple(Stage(key.format(p), p, step, kind, tuple(r.format(p) for r in reads), suspects)
                 for p in parts)


HEADS = ("q", "k", "v")
EMBEDDING = Stage("embedding", "", "embedding", "embedding", (),
                  "ids, rows of the embedding table")
LAYER = (
    Stage("attn_norm", "", "attention norm", "norm", ("stream",), "eps or the norm's weight"),
    *_each(HEADS, "{}_proj", "before bias", "product", ("attn_norm",),
           "the weight's layout, its place among q, k, v, the tiles of the product"),
    *_each(HEADS, "{}_bias", "after bias", "bias", ("{}_proj",), "the bias"),
    *_each(("q", "k"), "{}_rope", "after RoPE", "rope", ("{}_bias",),
           "pairing, theta or positions"),
    *_each(("v",), "{}_rope", "after RoPE", "values", ("{}_bias",),
           "RoPE, which leaves v alone"),
    Stage("attn_heads", "", "attention output before the output projection", "attention",
          ("q_rope", "k_rope", "v_rope"), "mask, scale or the key head of each query head"),
    Stage("attn_out", "", "attention output", "product", ("attn_heads",),
          "the output projection's weight, the order of the heads"),
    Stage("attn_residual", "", "residual after attention", "residual", ("stream", "attn_out"),
          "what is added to what"),
    Stage("mlp_norm", "", "MLP norm", "norm", ("attn_residual",), "eps or the norm's weight"),
    *_each(("gate", "up"), "{}", "of the MLP", "product", ("mlp_norm",),
           "the weights' layout, gate and up side by side"),
    Stage("swiglu", "", "output of SwiGLU", "swiglu", ("gate", "up"),
          "the activation, gate against up"),
    Stage("mlp_out", "", "MLP output", "product", ("swiglu",), "the down projection's weight"),
    Stage("mlp_residual", "", "residual after MLP", "residual", ("attn_residual", "mlp_out"),
          "what is added to what"),
)
HEAD = (
    Stage("final_norm", "", "final norm", "norm", ("stream",), "eps or the norm's weight"),
    Stage("logits", "", "logits", "product", ("final_norm",), "which weight is the head"),
    Stage("losses", "", "loss buffer", "losses", ("logits",), "targets, logarithm, scale"),
    Stage("ignored", "", "loss of rows without a target", "ignored", ("logits",),
          "what a negative target means"),
    Stage("mean_loss", "", "mean loss", "mean", ("losses",), "what is counted, targets, scale"),
)


def stages(config):
    """Every Stage of a model, in data-flow order; without biases q, k, v stand there once."""
    out = [EMBEDDING]
    for layer in range(config.num_layers):
        for s in LAYER:
            if config.qkv_bias or s.kind != "bias":
                out.append(replace(s, layer=layer))
    return [*out, *HEAD]


def path_of(key, layer, layers):
    """The path of what a stage of this layer reads; layer `layers` is the head of the model."""
    if key == "stream":
        return "embedding" if layer == 0 else f"{layer - 1}/mlp_residual"
    return key if layer == layers else f"{layer}/{key}"


def inputs_of(stage, config):
    """The Stages that a Stage is computed from."""
    by_path = {s.path: s for s in stages(config)}
    layer = config.num_layers if stage.layer is None else stage.layer
    paths = [path_of(key, layer, config.num_layers) for key in stage.reads]
    # without biases q, k, v stand where they were before one
    return [by_path.get(p) or by_path[p.replace("_bias", "_proj")] for p in paths]
