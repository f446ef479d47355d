"""Processes that tests start: each has a limit and default signals, and ends with its test.

It ends whatever the test comes to, and whatever it started itself ends with it. No limit here
measures anything: they end what hangs, on the busiest machine.
"""
import contextlib
import faulthandler
import os
import signal
import subprocess
import threading

import pytest
from campaign import TIMES

from aprnb.proof.processes import end_session, session

LIMIT = 300 * TIMES  # seconds of one process
TEST_LIMIT = 600 * TIMES  # seconds of one test with its fixtures
END_LIMIT = 2 * TEST_LIMIT  # seconds until the process of a test that does not hear of that ends


def run(command, input=None, check=False, limit=LIMIT, **options):
    """subprocess.run, by default of a program that reads nothing and of whose text all is kept;
    what is not done after `limit` seconds is ended, with all it started."""
    usual = {"stdin": subprocess.DEVNULL if input is None else subprocess.PIPE,
             "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with session(command, **usual | options) as process:
        out, err = process.communicate(input, limit)
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


@contextlib.contextmanager
def started(command, limit=LIMIT, **options):
    """A Popen that runs beside the test. Whoever reads from it waits `limit` seconds at most."""
    late = []

    def end():
        late.append(limit)
        end_session(process.pid, process.poll)
    with session(command, **options) as process:
        timer = threading.Timer(limit, end)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            if late:
                pytest.fail(f"not done after {limit} s: {command}")


def own_signals():
    """Whatever the parent ignores or blocks, a child of ours does not: tests of signals hold under
    nohup, in background jobs and in CI. SIGTERM and a closed terminal end the tests as Ctrl-C does,
    so that fixtures clear up.

    What was ignored is caught instead, and nothing done: an ignored signal is inherited by exec, a
    handler is not.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {signal.SIGPIPE, signal.SIGXFSZ}:  # Python's, and
        if signal.getsignal(number) == signal.SIG_IGN:                        # Popen restores them
            signal.signal(number, lambda *_: None)
        elif number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def time_limit(seconds, what):
    """The test of this thread fails, wherever it is, after so many seconds. One that comes back to
    no line of Python, and so cannot fail, ends with its process, which says where it stands."""
    def late(*_):
        pytest.fail(f"not done after {seconds} s: {what}")
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds / 2)  # once more for what clears up
    stderr = os.dup(2)  # pytest puts a file in its place while the test runs
    faulthandler.dump_traceback_later(END_LIMIT, exit=True, file=stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        os.close(stderr)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
