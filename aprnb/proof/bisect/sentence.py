"""A finding in one plain sentence: where, what still agrees, which mistake explains it."""
from .substages import inputs_of


def sentence(config, finding, rows):
    """rows: of the stages that depart together."""
    worst = max(rows, key=lambda row: row.departure)
    return (f"{_place(config, finding.stages)}: {finding.stages[0].suspects} (cosine "
            f"{worst.cosine:.4f}, error {worst.departure:.1e} of its scale, limit "
            f"{worst.limit:.1e}); {_cause(finding)}")


def sample_sentence(finding, row):
    """About a sample of the reference at which plain NumPy departs from it too."""
    return (f"{row.stage.name} is the first of the reference's samples that departs (cosine "
            f"{row.cosine:.4f}, error {row.departure:.1e} of its scale, limit {row.limit:.1e}), "
            "and plain NumPy departs from it too: the file as it is read here, or the reference; "
            f"{_cause(finding)}")


def _place(config, group):
    """layer 0: q and k after RoPE depart while q and k before it agree"""
    layer = group[0].layer
    where = "" if layer is None else f"layer {layer}: "
    departs = "depart" if _plural(group) else "departs"
    return f"{where}{_members(group)} {departs} while {_before(config, group)}"


def _before(config, group):
    """What the group is computed from, which agrees."""
    if group[0].kind in ("bias", "rope", "values"):
        verb = "agree" if _plural(group) else "agrees"
        return f"{_and([s.part for s in group])} before it {verb}"
    inputs = list(dict.fromkeys(i for s in group for i in inputs_of(s, config)))
    if not inputs:
        return "the tensors agree"
    steps = [[i for i in inputs if (i.layer, i.step) == step]
             for step in dict.fromkeys((i.layer, i.step) for i in inputs)]
    verb = "agree" if len(steps) > 1 or _plural(steps[0]) else "agrees"
    return f"{_and([_members(s, group[0].layer) for s in steps])} {verb}"


def _members(group, layer=None):
    """q and k after RoPE; the residual after MLP of an earlier layer says which."""
    first = group[0]
    names = f"{_and([s.part for s in group])} {first.step}" if first.part else f"the {first.step}"
    earlier = layer is not None and first.layer is not None and first.layer != layer
    return f"{names} of layer {first.layer}" if earlier else names


def _plural(group):
    return len(group) > 1 or group[0].key == "logits"


def _cause(finding):
    if finding.side is None:
        return ("both sides compute it rightly from what each of them has before it: rounding that "
                "adds up, or differences below the limits")
    if finding.words is None:
        nearest = "".join(f" (nearest: {words}, {error:.1e})"
                          for _, words, error in finding.tried[:1])
        return f"none of the known hypotheses reproduces what {finding.side} holds{nearest}"
    how = f"to {finding.error:.0e}" if finding.error else "exactly"
    return f"what {finding.side} holds is reproduced {how} by {finding.words}"


def _and(words):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
