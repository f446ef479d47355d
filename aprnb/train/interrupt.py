"""Ctrl-C, SIGTERM and a closed terminal (SIGHUP): the first signal asks the loop to stop after its
step, the second stops at once.
"""
import os
import signal
from contextlib import suppress

from ..errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupt:
    """A context in which the signals are handled; `requested` says that one has come.

    Until `arm` is called there is nothing to save, so the first signal stops at once. A stop at
    once is an Interrupted raised wherever the program is: whatever is being written then removes
    its temporary file on the way out.
    """

    def __init__(self):
        self.requested = self._armed = False

    def __enter__(self):
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS
                        if not (number == signal.SIGHUP and _ignored(number))}  # nohup
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def arm(self):
        """From now on the loop looks at `requested` after every step."""
        self._armed = True

    def _handle(self, number, frame):
        if not self._armed:
            raise Interrupted("interrupted before the first step; nothing was written")
        if self.requested:
            raise Interrupted("interrupted twice: stopped at once; if ckpt/ holds a state-*, "
                              "--resume goes on from the newest")
        self.requested = True
        # not print: a handler may run in the middle of another print
        with suppress(OSError):  # nobody reads it any more
            os.write(2, b"\ninterrupted: finishing this step and writing a checkpoint; "
                        b"once more stops at once\n")


def _ignored(number):
    return signal.getsignal(number) == signal.SIG_IGN
