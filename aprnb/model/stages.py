"""The places of a forward pass at which two implementations can be compared, in data-flow order."""
import numpy as np

LAYER_STAGES = (  # buffer, what it holds
    ("s_attn", "residual stream"),
    ("y_attn", "attention norm"),
    ("qkv", "q, k, v after RoPE"),
    ("o", "attention output"),
    ("s_mlp", "residual stream after attention"),
    ("y_mlp", "MLP norm"),
    ("act", "SwiGLU"),
)


def stages(config):
    """(name, activation) of every stage, from the embedding to the final norm.

    The residual stream entering layer 0 is the embedding; entering layer i, the output of i - 1.
    """
    for layer in range(config.num_layers):
        for buffer, what in LAYER_STAGES:
            if (layer, buffer) == (0, "s_attn"):
                yield "embedding", "0.s_attn"
            else:
                yield f"layer {layer}, {what}", f"{layer}.{buffer}"
    yield f"output of layer {config.num_layers - 1}", "s_final"
    yield "final norm", "y_final"


def all_logits(model, decoder):
    """(R, V) float32 on the host, read a chunk of rows at a time; for short windows only."""
    step = decoder.acts["answers"].shape[0]
    return np.concatenate([model.backend.download(decoder.logits(r, min(r + step, decoder.rows)))
                           for r in range(0, decoder.rows, step)])


def departure(got, want):
    """Largest difference over the largest value wanted; inf if `got` holds what is not finite."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    if not np.isfinite(got).all():
        return float("inf")
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
