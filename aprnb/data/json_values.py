"""The records of a .json file, one at a time: of an array, of one object, or line after line.

The format names two things: one JSON value, and (C4, Dolma, RedPajama) an object a line. Both are
values that follow each other, in an array with brackets and commas around them. Memory holds one
value and a block.
"""
import json
import re

BLOCK = 1 << 20  # characters read at a time
LONGEST = 1 << 28  # characters of one value: more is no record, or no JSON
SPACE = re.compile(r"[ \t\r\n]*")


class JsonValues:
    """Iterate for the values in a text stream. Errors: ValueError, saying where JSON ends."""

    def __init__(self, text):
        self._text, self._buffer, self._at = text, "", 0
        self._decoder = json.JSONDecoder()
        self._done = 0

    def __iter__(self):
        if self._next() == "\ufeff":
            self._at += 1
        if self._next() != "[":
            while self._next():
                yield self._value()
            return
        self._at += 1
        while self._next() != "]":
            yield self._value()
            if self._next() == ",":
                self._at += 1
            elif self._next() != "]":
                raise ValueError(f"after value {self._done} the array needs , or ]")
        self._at += 1
        if self._next():
            raise ValueError("there is more after the array")

    def _next(self):
        """The next character that is no space, or "" at the end."""
        while True:
            self._at = SPACE.match(self._buffer, self._at).end()
            if self._at < len(self._buffer) or not self._more():
                return self._buffer[self._at:self._at + 1]

    def _value(self):
        """The value that begins here; more is read until it is whole."""
        while True:
            try:
                value, self._at = self._decoder.raw_decode(self._buffer, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._buffer) - self._at < LONGEST and self._more():
                    continue
                raise ValueError(f"value {self._done + 1} is not valid JSON: {error}") from error
            self._done += 1
            return value

    def _more(self):
        """Read on, at least as much again as there is; whether there was more."""
        rest = self._buffer[self._at:]
        block = self._text.read(max(BLOCK, len(rest)))
        self._buffer, self._at = rest + block, 0
        return bool(block)
