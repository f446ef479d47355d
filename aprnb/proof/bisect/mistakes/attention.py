"""Mistakes around attention: bias, RoPE, mask, scale, heads. See hypotheses.py."""
import numpy as np

from ..formulas import angles, attention, f64, rows, turned

THETAS = (1e4, 5e5, 1e6)
TILES = (16, 32, 64, 128)  # positions that a kernel of attention takes at a time


# ---------------------------------------------------------------- rope

def adjacent_pairs(at, key):
    """The pairing of the paper; checkpoints of Qwen2 and Llama need halves."""
    yield ("adjacent pairs (2i, 2i + 1) instead of halves (i, i + D/2)",
           turned(at, key, _angles(at), adjacent=True))


def other_theta(at, key):
    """A base that belongs to another family, or was fixed in a kernel's cache key."""
    for theta in THETAS:
        if theta != at.config.rope_theta:
            yield (f"theta {theta:,.0f} instead of {at.config.rope_theta:,.0f}",
                   turned(at, key, _angles(at, theta=theta)))


def no_rotation(at, key):
    yield "no rotation", rows(at, at.heads(f"{key[0]}_bias"))


def shifted_positions(at, key):
    """Positions counted from one, or one behind."""
    for first in (1, -1):
        yield f"positions shifted by {first:+d}", turned(at, key, _angles(at, first=first))


def positions_run_on(at, key):
    """The row of the batch taken for the position."""
    batch, length = at.ids.shape
    if batch > 1:
        angle = angles(at.config, batch * length).reshape(batch, length, -1)
        yield "positions that run on from one sequence to the next", turned(at, key, angle)


def turned_backwards(at, key):
    """The sign of the backward pass."""
    yield "rotation by the opposite angle", turned(at, key, -_angles(at))


def scaling_left_out(at, key):
    """Frequencies of Llama 3 as if it had no longer context."""
    if at.config.rope_scaling:
        yield "RoPE scaling left out", turned(at, key, _angles(at, scaled=False))


def values_turned(at, key):
    """All heads of q, k and v turned, not the first H + KVH."""
    yield "RoPE on the values too", turned(at, key, _angles(at))


def _angles(at, **changes):
    return angles(at.config, at.ids.shape[1], **changes)


# ---------------------------------------------------------------- bias

def no_bias(at, key):
    """Families with biases computed by a kernel that has none."""
    yield "the bias left out", at(f"{key[0]}_proj")


def bias_twice(at, key):
    yield "the bias added twice", at(f"{key[0]}_proj") + 2 * f64(_bias(at, key[0]))


def bias_of_another(at, key):
    """The packed bias cut at the wrong places."""
    own = _bias(at, key[0])
    for part in "qkv":
        if part != key[0] and _bias(at, part).shape == own.shape:
            yield f"the bias of {part}", at(f"{key[0]}_proj") + f64(_bias(at, part))


def _bias(at, part):
    return at.w(f"self_attn.{part}_proj.bias")


# ---------------------------------------------------------------- attention

def no_causal_mask(at, key):
    """None at all, or none in the tile on the diagonal."""
    T = at.ids.shape[1]
    yield "no causal mask", attention(at, key, sees=np.ones((T, T), bool))
    for tile, inside in _tiles(T):
        yield f"no causal mask within a tile of {tile} positions", attention(at, key, sees=inside)


def _tiles(T):
    """(tile, (T, T) bool: what each position sees if only whole tiles later than its own are
    hidden)"""
    for tile in (tile for tile in TILES if tile < T):
        end = (np.arange(T) // tile + 1) * tile
        yield tile, np.arange(T) < end[:, None]


def mask_off_by_one(at, key):
    T = at.ids.shape[1]
    yield "a mask that lets the next token be seen", attention(at, key, sees=np.tri(T, k=1) > 0)
    for tile, inside in _tiles(T):
        yield (f"a mask that lets the next token be seen within a tile of {tile} positions",
               attention(at, key, sees=(np.tri(T, k=1) > 0) & inside))
    before = np.tri(T, k=-1) > 0
    before[0, 0] = True  # which has nothing else to look at
    yield "a mask that hides a token from itself", attention(at, key, sees=before)


def wrong_scale(at, key):
    """D is the width of a head."""
    D = at.config.head_dim
    for words, scale in (("no 1/sqrt(d)", 1.0), ("1/d instead of 1/sqrt(d)", 1 / D),
                         ("1/sqrt(hidden size) instead of 1/sqrt(d)",
                          at.config.hidden_size ** -0.5)):
        if not np.isclose(scale, D ** -0.5):
            yield words, attention(at, key, scale=scale)


def wrong_key_head(at, key):
    """Query heads of one key head lie side by side."""
    H, KVH = at.config.num_heads, at.config.num_kv_heads
    if 1 < KVH < H:
        yield ("key head h % kv instead of h // group (kv-head mapping)",
               attention(at, key, key_head=np.arange(H) % KVH))
    if KVH > 1:
        yield "key head 0 for every query head", attention(at, key, key_head=np.zeros(H, int))


def keys_for_values(at, key):
    q, k, v = (at.heads(f"{p}_rope") for p in "qkv")
    yield "keys and values taken for one another", attention(at, key, qkv=(q, v, k))


def another_sequence(at, key):
    """A batch index forgotten."""
    q, k, v = (at.heads(f"{p}_rope") for p in "qkv")
    one = np.zeros(len(q), int)
    if len(q) > 1:
        yield "the keys of the first sequence for all", attention(at, key, qkv=(q, k[one], v))
        yield "the values of the first sequence for all", attention(at, key, qkv=(q, k, v[one]))
        yield ("keys and values of the first sequence for all",
               attention(at, key, qkv=(q, k[one], v[one])))


KNOWN = {
    "bias": (no_bias, bias_twice, bias_of_another),
    "rope": (adjacent_pairs, other_theta, no_rotation, shifted_positions, positions_run_on,
             turned_backwards, scaling_left_out),
    "values": (values_turned,),
    "attention": (no_causal_mask, mask_off_by_one, wrong_scale, wrong_key_head, keys_for_values,
                  another_sequence),
}
