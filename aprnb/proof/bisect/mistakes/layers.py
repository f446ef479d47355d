"""Mistakes of what every layer repeats: norms, products, residual, SwiGLU. See hypotheses.py."""
import numpy as np

from ....formats.names import EMBEDDING, HEAD
from ..formulas import NORMS, PRODUCTS, RESIDUALS, f64, norm, product, rows, silu

EPSILONS = (1e-5, 1e-6, 0.0)
TILES = (8, 16, 32, 64, 128)  # columns of a product's inner tile
RANDOM = 0.1  # correlation: of 5,000 unrelated numbers, seven standard deviations


# ---------------------------------------------------------------- norms

def other_eps(at, key):
    """The other family's eps, or one fixed in a kernel."""
    for eps in EPSILONS:
        if eps != at.config.rms_norm_eps:
            yield f"eps {eps:g} instead of {at.config.rms_norm_eps:g}", norm(at, key, eps)


def eps_on_the_root(at, key):
    source, name = NORMS[key]
    x = at(source)
    root = np.sqrt((x * x).mean(axis=1, keepdims=True))
    yield "eps added to the root", x / (root + at.config.rms_norm_eps) * f64(at.w(name))


def no_norm_weight(at, key):
    yield "the weight left out", norm(at, key, weight=1.0)


def one_plus_weight(at, key):
    """Gemma's convention."""
    yield "1 + weight instead of the weight", norm(at, key, weight=1 + f64(at.w(NORMS[key][1])))


def weight_of_another_norm(at, key):
    """A look-up by the wrong name."""
    for other, (_, name) in NORMS.items():
        inside = at.layer < at.config.num_layers
        if other != key and (inside or name.startswith("model.")):
            yield f"the weight {name}", norm(at, key, weight=f64(at.w(name)))


def mean_subtracted(at, key):
    source, name = NORMS[key]
    x = at(source) - at(source).mean(axis=1, keepdims=True)
    yield ("LayerNorm, the mean subtracted, instead of RMSNorm",
           x / np.sqrt((x * x).mean(axis=1, keepdims=True) + at.config.rms_norm_eps)
           * f64(at.w(name)))


def wrong_mean(at, key):
    """The sum of squares divided by another number than the columns."""
    x = at(NORMS[key][0])
    for words, n in (("one column too many", x.shape[1] + 1), ("one column too few",
                     x.shape[1] - 1), ("nothing: a sum, no mean", 1)):
        if n not in (0, x.shape[1]):
            mean = (x * x).sum(axis=1, keepdims=True) / n
            yield (f"the mean square over {words}",
                   x / np.sqrt(mean + at.config.rms_norm_eps) * f64(at.w(NORMS[key][1])))


def not_normalised(at, key):
    yield "no norm at all", at(NORMS[key][0])


# ---------------------------------------------------------------- products

def transposed(at, key):
    """Rows and columns of the weight mixed up; of the packed weights too, which are one product."""
    source, name = PRODUCTS[key]
    w = at.w(name)
    yield "the weight transposed", product(at(source), w.reshape(w.shape[::-1]).T)
    pack = next((p for p in (("q", "k", "v"), ("gate", "up")) if key.removesuffix("_proj") in p),
                ())
    if pack:
        keys = [k for k in PRODUCTS if k.removesuffix("_proj") in pack]
        whole = np.concatenate([at.w(PRODUCTS[k][1]) for k in keys])
        at_row = sum(len(at.w(PRODUCTS[k][1])) for k in keys[:keys.index(key)])
        y = product(at(source), whole.reshape(whole.shape[::-1]).T)
        yield "the packed weights transposed", y[:, at_row:at_row + len(w)]


def weight_of_another(at, key):
    """The packed weights cut at the wrong places, or a look-up by the wrong name."""
    source, name = PRODUCTS[key]
    for other in PRODUCTS:
        there = PRODUCTS[other][1]
        if "logits" not in (key, other) and other != key and (
                at.w(there).shape == at.w(name).shape):
            yield f"the weight {there}", product(at(source), at.w(there))


def input_not_normalised(at, key):
    source, name = PRODUCTS[key]
    if source in NORMS:
        yield ("the residual stream as input, without the norm",
               product(at(NORMS[source][0]), at.w(name)))


def last_tile_skipped(at, key):
    """A loop over whole tiles of the inner dimension."""
    source, name = PRODUCTS[key]
    x, w = at(source), at.w(name)
    for tile in TILES:
        whole = x.shape[1] // tile * tile
        if 0 < whole < x.shape[1]:
            yield (f"the last {x.shape[1] - whole} of {x.shape[1]} terms of every sum skipped "
                   f"(tiles of {tile})", product(x[:, :whole], w[:, :whole]))


def heads_in_another_order(at, key):
    """The transpose after the attention left out."""
    if key == "attn_out":
        x = rows(at, at.heads("attn_heads").swapaxes(2, 3))
        yield "its input laid out (D, heads) instead of (heads, D)", product(x, at.w(
            PRODUCTS[key][1]))


def tied_head(at, key):
    """A head of its own dropped while loading."""
    if key == "logits" and not at.config.tied:
        yield ("the tied embedding instead of the model's own head",
               product(at("final_norm"), at.w(EMBEDDING)))


def head_of_its_own(at, key):
    """Random numbers where a tied model has its embedding, or a copy that fell behind."""
    if key != "logits" or at.head is None or _from_the_file(at, at.head):
        return
    right, whose = at.w(HEAD), "the tied embedding" if at.config.tied else "the model's own head"
    likeness = np.corrcoef(f64(at.head).ravel(), f64(right).ravel())[0, 1]
    if np.isfinite(likeness):  # else all of one number, or of none
        kind = "random numbers" if abs(likeness) < RANDOM else "another head"
        yield (f"{kind} instead of {whose} (correlation {likeness:.2f})",
               product(at("final_norm"), at.head))


def _from_the_file(at, head):
    """Whether the numbers are those of the embedding or the head, in any order."""
    return any((np.sort(head, axis=None) == np.sort(f64(at.w(name)).astype(head.dtype), axis=None)
                ).all() for name in {EMBEDDING, HEAD})


# ---------------------------------------------------------------- residual

def branch_missing(at, key):
    yield "the branch missing (the stream goes on alone)", at(RESIDUALS[key][0])


def stream_missing(at, key):
    yield "the stream missing (the branch goes on alone)", at(RESIDUALS[key][1])


def branch_twice(at, key):
    stream, branch = map(at, RESIDUALS[key])
    yield "the branch added twice", stream + 2 * branch


def branch_subtracted(at, key):
    stream, branch = map(at, RESIDUALS[key])
    yield "the branch subtracted", stream - branch


def normed_stream(at, key):
    """The residual taken after the norm, as in post-norm transformers."""
    norm_key = "attn_norm" if key == "attn_residual" else "mlp_norm"
    yield "the branch added to the norm's output", at(norm_key) + at(RESIDUALS[key][1])


def older_stream(at, key):
    """Both branches added to the same stream, as in parallel blocks."""
    if key == "mlp_residual":
        yield "the stream from before the attention", at("stream") + at("mlp_out")


# ---------------------------------------------------------------- swiglu

def gate_and_up_swapped(at, key):
    yield "gate and up taken for one another", silu(at("up")) * at("gate")


def other_activation(at, key):
    gate, up = at("gate"), at("up")
    sigmoid = 1 / (1 + np.exp(-np.maximum(gate, -700)))
    tanh = np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate ** 3))
    yield "the sigmoid instead of silu", sigmoid * up
    yield "GELU instead of silu", 0.5 * gate * (1 + tanh) * up
    yield "ReLU instead of silu", np.maximum(gate, 0) * up
    yield "no activation", gate * up
    yield "silu(gate) without up", silu(gate)


KNOWN = {
    "norm": (other_eps, no_norm_weight, one_plus_weight, weight_of_another_norm, eps_on_the_root,
             mean_subtracted, wrong_mean, not_normalised),
    "product": (transposed, tied_head, weight_of_another, input_not_normalised, last_tile_skipped,
                heads_in_another_order, head_of_its_own),
    "residual": (branch_missing, stream_missing, branch_twice, branch_subtracted, normed_stream,
                 older_stream),
    "swiglu": (gate_and_up_swapped, other_activation),
}
