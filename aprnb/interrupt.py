"""Signals that ask a program to end: Ctrl-C, a cluster's warning, a closed terminal, a shutdown.

Every verb stops at once: the handler raises Interrupted wherever the program is, and whatever is
being written removes its temporary file on the way out. A training run that has something to save
calls `arm`; from then on the first signal only asks, and the loop saves a state and stops after its
step. Several signals within SAME_EVENT_S are one event: systemd sends SIGTERM and SIGHUP together,
a closed terminal SIGHUP twice. A later one stops at once and says what is lost.
"""
import os
import signal
import threading
import time
from contextlib import contextmanager, suppress

from .errors import Interrupted

SIGNALS = tuple(getattr(signal, name) for name in (
    "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name))
SAME_EVENT_S = 1.0


class Interrupt:
    """A context in which the signals are handled.

    Outside the main thread it handles none, since only that thread can.
    """

    def __init__(self, unarmed="; nothing half-written was left"):
        """unarmed: what is true of a program that is stopped before `arm`, for the message."""
        self._unarmed = unarmed
        self.requested = None
        """What asked for the end, such as "SIGTERM"; None if nothing did."""
        self.at_stake = lambda: "what was not saved"
        """Names what a stop at once loses; the loop knows."""
        self._armed = self._at_once = False
        self._first = self._timer = self._overtime = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS
                            if not (number == signal.SIGHUP and _ignored(number))}  # nohup
        return self

    def __exit__(self, kind, error, trace):
        """An error that the stop itself led to, in a library that wraps what is raised in it, is
        still the stop."""
        if self._timer:
            self._timer.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, Exception) and self.requested and not self._armed:
            raise self._stopped() from error

    def arm(self):
        """From now on the first signal asks; the loop looks at `requested` after every step."""
        self._armed = True

    def limit(self, minutes):
        """Ask after so many minutes, as a signal would."""
        def over():
            self._overtime = f"--max-minutes {minutes:g}"
            os.kill(os.getpid(), signal.SIGUSR1)  # so that the main thread learns of it
        if self._before:
            self._timer = threading.Timer(minutes * 60, over)
            self._timer.daemon = True
            self._timer.start()

    @contextmanager
    def at_once(self):
        """In here nothing can be lost: the first signal raises Interrupted at once."""
        self._at_once = True
        try:
            if self.requested:
                raise Interrupted(self.requested)
            yield
        finally:
            self._at_once = False

    def _handle(self, number, frame):
        now, name = time.monotonic(), self._overtime or signal.Signals(number).name
        self._overtime = None
        if self._first is not None and now - self._first < SAME_EVENT_S:
            return
        again, self._first = self.requested, now
        self.requested = again or name
        if not self._armed:
            raise self._stopped()
        if again:
            raise Interrupted(f"interrupted twice ({again}, then {name}): stopped at once; "
                              f"lost: {self.at_stake()}")
        if self._at_once:
            raise Interrupted(self.requested)
        # not print: a handler may run in the middle of another print
        with suppress(OSError):  # nobody reads it any more
            os.write(2, f"\n{self.requested}: finishing this step and writing a state; once more "
                        f"after {SAME_EVENT_S:g} s stops at once\n".encode())

    def _stopped(self):
        return Interrupted(f"interrupted by {self.requested}{self._unarmed}")


def _ignored(number):
    return signal.getsignal(number) == signal.SIG_IGN
