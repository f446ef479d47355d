"""Many kernels at once: processes that compile, one kernel after the other, until none is left.

Each is an interpreter of its own that runs build_worker.py and nothing else. It imports no file of
the caller's: multiprocessing would run the caller's script once more in every worker. It is not
forked: a driver context and the compiler's threads do not survive that. It ends with its input, so
no worker outlives the process that started it. Questions and answers have pipes of their own: what
else writes to stdout there, a sitecustomize.py for one, goes to this process's stderr.
"""
import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path

from ..interrupt import unasked
from .build import BuildError, build, entry_named
from .cubin import read_cubin

PACKAGE = __package__.partition(".")[0]
HOME = str(Path(__file__).parents[2])
# the package comes from where it came from here, everything else from the same path as here
START = ("import sys; home, asked, answered, *path = sys.argv[1:]; sys.path.insert(0, home); "
         f"import {PACKAGE}; sys.path[:] = path; from {__package__}.build_worker import main; "
         "main(int(asked), int(answered))")


def build_many(wanted, workers, is_there=lambda *key: False):
    """[(name, signature, architecture)] -> iterator of (that key, Cubin), on so many processes.

    A key for which is_there(*key) has become true when its turn comes is passed over: other
    processes build too. Errors: BuildError, MissingPackageError.
    """
    waiting = deque(wanted)
    crew = []
    try:
        if len(waiting) > 1:
            _hire(crew, min(workers, len(waiting)), _modules())
        if not crew:
            for key in waiting:
                yield key, _build_here(*key)
        while crew:
            for worker in [w for w in crew if not w.key]:
                worker.key = _next(waiting, is_there)
                if worker.key:
                    worker.say(worker.key)
                else:
                    crew.remove(worker)
                    worker.end()
            for worker in _ready(crew):
                key, cubin = worker.key, worker.answer()
                worker.key = None
                yield key, cubin
    finally:  # an error, Ctrl-C, a caller that wants no more
        for worker in crew:
            worker.kill()


def _next(waiting, is_there):
    """The next key that nobody has built meanwhile, or None."""
    while waiting:
        key = waiting.popleft()
        if not is_there(*key):
            return key


def _ready(crew):
    """Those that have answered; waits for one."""
    with selectors.DefaultSelector() as selector:
        for worker in crew:
            selector.register(worker, selectors.EVENT_READ)
        return [found.fileobj for found, _ in selector.select()] if crew else []


def _build_here(name, signature, architecture):
    return build(entry_named(name), signature, architecture)


def _modules():
    """Kernel files that were imported here: their entries are the catalogue."""
    return [name for name in sys.modules if name.startswith(__package__ + ".")]


def _hire(crew, count, modules):
    """Add so many workers, fewer where the system gives no more, none where it has no interpreter.
    """
    if sys.executable and not getattr(sys, "frozen", False):  # else Python lives in a program
        with suppress(OSError):  # no interpreter there, or no process more: the others do its work
            while len(crew) < count:
                crew.append(_Worker(modules))


class _Worker:
    """The parent's end of one process."""

    def __init__(self, modules):
        self.key = None
        with ExitStack() as ends:  # whatever goes wrong: a worker ends with its input
            asked, self.questions = _pipe(ends)
            self.answers, answered = _pipe(ends)
            theirs = asked.fileno(), answered.fileno()
            heard = 2 if sys.__stderr__ else subprocess.DEVNULL  # None: started without a stderr
            with unasked():
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", START, HOME, *map(str, theirs), *sys.path],
                    stdin=subprocess.DEVNULL, stdout=heard, stderr=heard, pass_fds=theirs,
                    env={**os.environ, "CUDA_CACHE_DISABLE": "1"})
            asked.close()
            answered.close()
            self.say(modules)
            ends.pop_all()

    def fileno(self):
        return self.answers.fileno()

    def say(self, value):
        """Give it a line."""
        try:
            self.questions.write(json.dumps(value).encode() + b"\n")
            self.questions.flush()
        except BrokenPipeError:
            pass  # it is dead: its answer will say so

    def answer(self):
        """The Cubin of its key.  Errors: what the build met, BuildError for one that died."""
        output = self.answers
        head = output.readline()
        answer = json.loads(head) if head.endswith(b"\n") else {}
        code = output.read(answer.get("size", 0))
        if not answer or len(code) < answer.get("size", 0):
            raise BuildError(self._obituary())
        if "error" in answer:
            error = BuildError(answer["error"])
            error.exit_code = answer["exit_code"]
            raise error
        return read_cubin(code, answer["spills"])

    def _obituary(self):
        self.end()
        code, (name, _, architecture) = self.process.returncode, self.key
        how = f"ended with exit code {code}; its own message stands above"
        if code < 0:
            how = (f"was ended by {signal.Signals(-code).name}; the system does that where memory "
                   "runs out: free some")
        return (f"{name} for {architecture}: the process that compiled it {how}; what was built "
                "before is kept, the next start goes on from there")

    def end(self):
        """Let it end by itself, and wait for that."""
        for pipe in (self.questions, self.answers):
            try:
                pipe.close()
            except BrokenPipeError:
                pass
        self.process.wait()

    def kill(self):
        self.process.kill()
        self.end()


def _pipe(ends):
    """A pipe: the files to read from and to write to.

    Their numbers are above those of the standard streams: where this process has closed these, the
    worker's own would take their place.
    """
    made = os.pipe()
    try:
        return [ends.enter_context(os.fdopen(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3), mode))
                for end, mode in zip(made, ("rb", "wb"))]
    finally:
        for end in made:
            os.close(end)
