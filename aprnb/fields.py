"""Typed access to a parsed JSON object; what is absent or of another type is a LoadError.

`where` names the file in errors. Nothing is converted: "2" is no integer, and neither is true.
"""
from sys import float_info

from .errors import LoadError


class Fields:
    """Typed access to a parsed JSON object; what is absent or of another type is a LoadError."""

    def __init__(self, values, where):
        self.values, self.where = values, where

    def missing(self, name):
        raise LoadError(f"{self.where}: needed field {name!r} is missing; it is never guessed")

    def integer(self, name):
        if self.values.get(name) is None:
            self.missing(name)
        return integer_of(self.values[name], name, self.where)

    def number(self, name):
        if self.values.get(name) is None:
            self.missing(name)
        return number_of(self.values[name], name, self.where)


def integer_of(value, name, where):
    if isinstance(value, bool) or not isinstance(value, int):
        raise LoadError(f"{where}: {name} is {value!r}, need an integer")
    return value


def number_of(value, name, where):
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > float_info.max:
        raise LoadError(f"{where}: {name} is {value!r:.40}, need a finite number")
    return float(value)


def boolean_of(value, name, where):
    """False where the field is absent, as in both classes of transformers."""
    if value is not None and not isinstance(value, bool):
        raise LoadError(f"{where}: {name} is {value!r}, need true or false")
    return bool(value)


def object_of(value, name, where):
    if not isinstance(value, dict):
        raise LoadError(f"{where}: {name} is {value!r}, need an object")
    return value


def token_id_of(value, name, where, vocab_size):
    """An id of the vocabulary, or None where the field is absent."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise LoadError(f"{where}: {name} is {value!r:.60}, need the id of a token, an integer")
    if not 0 <= value < vocab_size:
        raise LoadError(f"{where}: {name} is {value!r:.60}, need an id below vocab_size "
                        f"{vocab_size:,} and not below 0; correct it, or write null for none")
    return value


def token_ids_of(value, name, where, vocab_size):
    """An id, or a list of them as a tuple, or None."""
    if not isinstance(value, list):
        return token_id_of(value, name, where, vocab_size)
    if None in value:
        raise LoadError(f"{where}: {name} is {value!r:.60}, need ids of tokens")
    return tuple(token_id_of(one, name, where, vocab_size) for one in value)
