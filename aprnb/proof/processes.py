"""Processes that leave nothing running behind them, whatever ends them."""
import contextlib
import os
import signal
import subprocess
import time

GRACE = 5  # seconds between SIGTERM, at which a process can clear up, and SIGKILL
# ends a session whose opener was killed and so ends nothing: its pipe closes without a line
GUARD = f"read done || {{ kill -s TERM -- -$1; sleep {GRACE}; kill -s KILL -- -$1; }}"

_open = {}  # leader of a session that has not been ended -> its `reap`


@contextlib.contextmanager
def session(command, **options):
    """A Popen in a session of its own; on the way out, all that is left of the session is ended.

    options: of subprocess.Popen.
    """
    with subprocess.Popen(command, start_new_session=True, **options) as process:
        with led_by(process.pid, process.poll):
            yield process


@contextlib.contextmanager
def led_by(leader, reap=lambda: None):
    """A session that stands already, ended in the same way. Arguments: of end_session."""
    _open[leader], guard = reap, None
    try:
        guard = subprocess.Popen(  # not in our group: what kills that one spares it
            ["/bin/sh", "-c", GUARD, "guard", str(leader)], stdin=subprocess.PIPE, cwd="/",
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        yield
    finally:
        end_session(leader, reap)
        _open.pop(leader, None)
        if guard:
            guard.communicate(b"done\n")


def end_all_sessions():
    """End those of other threads too, which then need not be waited for."""
    for leader, reap in list(_open.items()):
        end_session(leader, reap)


def end_session(leader, reap=lambda: None):
    """SIGTERM for every process of a session, and after GRACE seconds SIGKILL for who is left.

    leader: the id of the session's first process;  reap: takes note of its end where it is a child
    of this process, since until then it counts as running.
    """
    reap()
    try:
        end = time.monotonic() + GRACE
        alive = _send(leader, signal.SIGTERM)
        while alive and time.monotonic() < end:
            time.sleep(0.005)
            reap()
            alive = _send(leader, 0)
    finally:  # a second Ctrl-C shortens the grace, and leaves nothing
        _send(leader, signal.SIGKILL)


def _send(leader, number):
    """Whether there was anybody."""
    try:
        os.killpg(leader, number)
    except ProcessLookupError:
        return False
    return True
