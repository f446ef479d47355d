"""Signals that ask a program to end: Ctrl-C, a cluster's warning, a closed terminal, a shutdown.

Every verb stops at once: the handler raises Interrupted wherever the program is, and whatever is
being written removes its temporary file on the way out. A training run that has something to save
calls `arm`; from then on the first signal only asks, and the loop saves a state and stops after its
step. Several signals within SAME_EVENT_S are one event: systemd sends SIGTERM and SIGHUP together,
a closed terminal SIGHUP twice. A later one stops at once and says what is lost. A signal that the
parent had ignored stays ignored: SIGHUP under nohup, SIGINT in a background job of a script.
"""
import os
import signal
import sys
import threading
import time
from _thread import start_new_thread
from contextlib import contextmanager, suppress

from .errors import Interrupted

SIGNALS = tuple(getattr(signal, name) for name in (
    "SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name))
SAME_EVENT_S = 1.0
RAISE_AGAIN_S = 0.1
NUDGE = signal.SIGUSR1
"""What a thread of ours sends so that the main thread looks up."""


class Interrupt:
    """A context in which the signals are handled.

    Outside the main thread it handles none, since only that thread can.
    """

    _current = None  # the innermost one

    def __init__(self, unarmed="; nothing half-written was left", last=False):
        """unarmed: what is true of a program that is stopped before `arm`, for the message.

        last: the program ends with this context; what comes later changes nothing any more, where
        Python's own end would give the signals back to the system, which kills.
        """
        self._unarmed, self._last = unarmed, last
        self.requested = None
        """What asked for the end, such as "SIGTERM"; None if nothing did."""
        self.at_stake = lambda: "what was not saved"
        """Names what a stop at once loses; the loop knows."""
        self._armed = self._at_once = self._done = False
        self._asked = None  # the first signal, unlike `requested` never --max-minutes
        self._first = None  # when the newest event began
        self._stop = None  # the Interrupted that was raised and has not arrived yet
        self._open = threading.Lock()  # held where a thread may nudge, or must not any more
        self._nudge = None  # what a thread has to say
        self._before, self._unheard = {}, set()

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._outer, Interrupt._current = Interrupt._current, self
            self._hook, sys.unraisablehook = sys.unraisablehook, self._swallowed
            self._unheard = {number for number in SIGNALS if _ignored(number)}
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS
                            if number not in self._unheard or number == NUDGE}
        return self

    def __exit__(self, kind, error, trace):
        """An error that the stop itself led to, in a library that wraps what is raised in it, is
        still the stop."""
        self._stop = None
        if self._before:
            with self._open:
                before, self._before = self._before, {}
            for number, handler in before.items():
                signal.signal(number, signal.SIG_IGN if self._last else handler)
            sys.unraisablehook, Interrupt._current = self._hook, self._outer
            if self._outer:  # the run is done: what comes now must not cut off its report
                self._outer._done = self._armed and kind is None
        if isinstance(error, Exception) and self.requested and not self._armed:
            raise Interrupted(self._stopped()) from error

    def arm(self):
        """From now on the first signal asks; the loop looks at `requested` after every step."""
        self._armed = True

    def limit(self, minutes):
        """Ask after so many minutes, as a signal would."""
        def wait():
            time.sleep(minutes * 60)
            self._nudged(lambda: self._over(f"--max-minutes {minutes:g}"))
        if self._before:
            start_new_thread(wait, ())

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
            self._stop = None

    # ------------------------------------------------------------ what a signal does

    def _handle(self, number, frame):
        if number == NUDGE and self._nudge:
            what, self._nudge = self._nudge, None
            what()
        elif number not in self._unheard:
            self._signal(number, signal.Signals(number).name)

    def _over(self, reason):
        """The minutes are over. This is nobody's second signal, and a signal after it is a first:
        a shutdown may find a run that is writing its state."""
        if self.requested is None:
            self.requested = reason
            self._ask(f"{reason}: writing a state and stopping")

    def _signal(self, number, name):
        now = time.monotonic()
        if self._done or self._first is not None and now - self._first < SAME_EVENT_S:
            return
        if number == getattr(signal, "SIGXCPU", None) and self.requested:
            return  # the kernel repeats it every second
        self._first = now
        before, self._asked = self._asked, self._asked or name
        self.requested = self.requested or name
        if before and self._armed:
            self._raise(f"interrupted twice ({before}, then {name}): stopped at once; lost: "
                        f"{self.at_stake()}")
        self._ask(f"{name}: writing a state and stopping; once more after {SAME_EVENT_S:g} s "
                  "stops at once")

    def _ask(self, text):
        """Raise where nothing can be lost, else leave it to the loop."""
        if not self._armed:
            self._raise(self._stopped())
        # not print: a handler may run in the middle of another print
        with suppress(OSError):  # nobody reads it any more
            os.write(2, f"\n{text}\n".encode())
        if self._at_once:
            self._raise(self.requested)

    def _stopped(self):
        return f"interrupted by {self.requested}{self._unarmed}"

    # ------------------------------------------------------------ a stop that nobody swallows

    def _raise(self, message):
        """Raise Interrupted until it has arrived.

        Code in C that calls Python may drop whatever is raised there: Cython does so where it
        registers a type, the importer and ctypes do so in callbacks.
        """
        stop = self._stop = Interrupted(message)

        def again():
            if self._stop is stop and not _under_way(stop):
                raise stop

        def insist():
            time.sleep(RAISE_AGAIN_S)
            while self._stop is stop and self._nudged(again):
                time.sleep(RAISE_AGAIN_S)
        start_new_thread(insist, ())  # Thread takes locks, which the main thread may hold here
        raise stop

    def _nudged(self, what):
        """Have the main thread call `what` where it is; False if the context has ended."""
        with self._open:
            if self._before:
                self._nudge = what
                signal.pthread_kill(threading.main_thread().ident, NUDGE)
            return bool(self._before)

    def _swallowed(self, what):
        """Python's hook for an exception that it drops: ours is not lost, so nothing is said."""
        if what.exc_type is not Interrupted:
            self._hook(what)


def _under_way(stop):
    """Whether this exception is what the program is dealing with: code that clears up runs."""
    error = sys.exc_info()[1]
    while error is not None and error is not stop:
        error = error.__context__
    return error is stop


def _ignored(number):
    return signal.getsignal(number) == signal.SIG_IGN


@contextmanager
def unasked():
    """A process that is started in here never gets one of the signals: a terminal and a service
    manager send them to all processes of a job, and only one of them is to decide."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
