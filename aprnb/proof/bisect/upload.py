"""Are the tensors that a side computes with those of the file? Tensor by tensor, by digest.

Held against the file: what stands on the device, in its storage type. Held against a reference that
carries digests: what the file's reader makes of the bytes, in float32. Where two differ, known
misreadings are computed, and an equal digest names the one that was made.
"""
import hashlib
from dataclasses import dataclass

import numpy as np

from ...dtypes import BF16, F16, F32
from ...formats.names import HEAD

TYPES = ("bf16", BF16), ("f16", F16)


@dataclass(frozen=True)
class Difference:
    """One tensor that is not what it should be."""

    name: str
    what: str
    """Whose values differ from whose, and where."""
    misreading: str | None
    """What was made of the right values, in words."""
    got_sha256: str | None = None
    want_sha256: str | None = None

    @property
    def sentence(self):
        cause = (f"; reproduced bit by bit by {self.misreading}" if self.misreading else
                 "; none of the known misreadings reproduces it" if self.got_sha256 else "")
        return f"upload: {self.name}: {self.what}{cause}"


def compare_upload(source, model):
    """(number of tensors, Differences) between a file's tensors and those of a loaded model."""
    differences, side = [], f"{model.backend.name}, {model.backend.precision}"
    for name, array in source.weights():
        got = model.backend.download(model.weights[name])
        want = np.asarray(array, F32).astype(got.dtype)
        if (_bits(got) != _bits(want)).any():
            misreading = next((words for words, values in misreadings(source, name)
                               if (_bits(values.astype(got.dtype)) == _bits(got)).all()), None)
            differences.append(Difference(name, f"{side} holds other values than the file, "
                                          f"{_extent(got, want)}", misreading, sha256(got),
                                          sha256(want)))
    return len(source.names), differences


def compare_digests(source, digests):
    """Differences between the file as it is read here and a reference.

    digests: tensor name -> SHA-256 of its float32 values elsewhere; empty: nothing is known.
    """
    names = {name: None for name in (*digests, *source.names)} if digests else {}
    found = (_difference(source, name, digests.get(name)) for name in names)
    return [difference for difference in found if difference]


def _difference(source, name, want):
    """The Difference of one tensor from its digest `want`, or None."""
    if want is None:
        return Difference(name, "the file, as it is read here, has it, the reference has not", None)
    if name not in source.names:
        instead = ": the embedding is taken for the head" if name == HEAD else ""
        return Difference(name, "the reference has it, the file, as it is read here, has not"
                          + instead, None)
    got = sha256(np.asarray(source.array(name), F32))
    if got == want:
        return None
    misreading = next((words for words, values in undone(source, name)
                       if sha256(values) == want), None)
    return Difference(name, "the file, as it is read here, holds other values than the reference",
                      misreading, got, want)


def sha256(values):
    """Of the bytes, in row order."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _bits(x):
    return np.ascontiguousarray(x).view(f"u{x.itemsize}")


def _extent(got, want):
    """How many values differ in their bits, and the first of them."""
    wrong = _bits(got) != _bits(want)
    where = tuple(map(int, np.argwhere(wrong)[0]))
    return (f"{wrong.sum()} of {wrong.size}, first {list(where)}: {float(got[where]):.6g} for "
            f"{float(want[where]):.6g}")


def misreadings(source, name):
    """(words, float32 values) of what is known to have been made of a tensor."""
    array = np.asarray(source.array(name))
    values = array.astype(F32)
    yield from transposed(values)
    for mine, other, wrong in other_type(array):
        yield f"{mine} bits read as {other}", wrong
    yield "values cut off to bf16 instead of rounded", cut_off(values)
    yield "zeros that nobody wrote", np.zeros_like(values)
    yield "NaN that nobody wrote", np.full(values.shape, 0xFFFFFFFF, np.uint32).view(F32)
    yield from another_tensor(source, name)


def undone(source, name):
    """(words, float32 values): what a tensor was if it was misread here, and how it was."""
    array = np.asarray(source.array(name))
    yield from transposed(array.astype(F32))
    for mine, other, right in other_type(array):
        yield f"{other} bits read as {mine}", right
    yield from another_tensor(source, name)


def transposed(values):
    """Its own undoing, if the tensor is square; else the second undoes the first."""
    if values.ndim == 2:
        turned = values.shape[::-1]
        yield "the tensor transposed", np.ascontiguousarray(values.T).reshape(values.shape)
        yield "the tensor transposed", np.ascontiguousarray(values.reshape(turned).T)


def other_type(array):
    """(its type, the other type, float32 values) of 16-bit values whose bits are read as the
    other's; nothing if they can be of neither type."""
    for (mine, own), (other, foreign) in (TYPES, TYPES[::-1]):
        with np.errstate(over="ignore"):
            bits = array.astype(own)
        if (bits.astype(F32) == array.astype(F32)).all():
            yield mine, other, bits.view(foreign).astype(F32)


def cut_off(values):
    return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(F32)


def another_tensor(source, name):
    """Every other tensor of this shape."""
    shape = source.array(name).shape
    for other in source.names:
        if other != name and source.array(other).shape == shape:
            yield f"the values of {other}", np.asarray(source.array(other), F32)
