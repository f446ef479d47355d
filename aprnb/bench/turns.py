"""Two programs that take turns on one device, each in a process of its own.

A worker gets its settings as JSON in an argument, and as the last one the number of a pipe that is
for answers alone: whatever else a process prints, on either stream, cannot be taken for one. It
answers one JSON line as soon as its first step is done, then one for every line "N" on its input,
after N more steps, or "look":

    {"seconds": of the N steps, "loss": of the last one, "memory_peak": bytes so far, ...}
    {what a look at a step that nobody times has found}
    {"error": what it met, "exit_code": of its class}

So a run measures each side's memory and start alone and lets the sides alternate. What a worker
prints is kept: its last lines stand in the error that it ends with, and the words of one that did
its work are passed on when it is closed.
"""
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from ..errors import AprnbError, DeviceMemoryError, out_of_memory

PACKAGE = Path(__file__).parents[2]
PATIENCE_S = 300  # longest time without an answer: what compiles a model may take minutes
LOOK_S = 0.5  # how often a silent one is looked after
LAST_WORDS = 5  # lines


class Worker:
    """The parent's end."""

    def __init__(self, name, module, settings, python=sys.executable, patience_s=PATIENCE_S):
        """name: in errors, such as "torch eager";  python: interpreter of the worker"""
        # the package's folder on the path: another interpreter may not have it installed
        path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
        self.name, self.begin, self.patience_s = name, time.perf_counter(), patience_s
        self.failed = False
        self._said = tempfile.TemporaryFile()
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers, "rb", buffering=0)
        try:
            self.process = subprocess.Popen(
                [python, "-m", f"{__package__}.{module}", json.dumps(settings), str(theirs)],
                bufsize=0, stdin=subprocess.PIPE, stdout=self._said, stderr=self._said,
                pass_fds=[theirs], env={**os.environ, "PYTHONPATH": path})
        except BaseException:
            self._answers.close()
            self._said.close()
            raise
        finally:
            os.close(theirs)

    def answer(self):
        """The next answer.  Errors: AprnbError if the worker ended, refused or keeps silent."""
        until = time.monotonic() + self.patience_s
        while not self._has_answer(min(LOOK_S, self.patience_s)):
            # its own children may hold the pipe open when it is gone
            if self.process.poll() is not None and not self._has_answer(0):
                raise self._ended()
            if time.monotonic() > until:
                raise self._failure(f"gave no answer for {self.patience_s:g} s")
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            self.failed = True
            error = AprnbError(f"{self.name}: {answer['error']}")
            error.exit_code = answer["exit_code"]
            raise error
        return answer

    def _has_answer(self, wait_s):
        return bool(select.select([self._answers], [], [], wait_s)[0])

    def steps(self, count):
        """The answer after `count` more steps.  Errors: as of answer()."""
        return self._ask(str(count))

    def look(self):
        """The answer after one step that the worker looks into.  Errors: as of answer()."""
        return self._ask("look")

    def _ask(self, what):
        try:
            self.process.stdin.write(f"{what}\n".encode())
        except BrokenPipeError:  # it ended while it had nothing to do
            raise self._ended() from None
        return self.answer()

    def _ended(self):
        """The error of a worker that is gone, or that has closed its pipes and soon will be."""
        try:
            code = self.process.wait(self.patience_s)
        except subprocess.TimeoutExpired:
            return self._failure("closed its pipes and goes on")
        if code == -signal.SIGKILL:
            return self._failure("was ended by SIGKILL, probably out of memory (the system ends "
                                 "a process so): try fewer sequences or tokens, a smaller "
                                 "--preset, or --recompute", DeviceMemoryError)
        return self._failure(f"was ended by {signal_name(-code)}" if code < 0
                             else f"ended with exit code {code}")

    def _failure(self, what, kind=AprnbError):
        self.failed = True
        said = " | ".join(self.last_words())
        return kind(f"bench: {self.name} {what}; " + (f"it last said: {said}" if said
                                                      else "it said nothing"))

    def last_words(self):
        """The last lines that the process said, on either stream."""
        return [line for line in map(str.rstrip, self._words().splitlines()) if line][-LAST_WORDS:]

    def _words(self):
        # a position of our own: the file's is where the worker goes on writing
        size = os.fstat(self._said.fileno()).st_size
        return os.pread(self._said.fileno(), size, 0).decode(errors="replace")

    def elapsed(self):
        """Seconds since the process was started."""
        return time.perf_counter() - self.begin

    def close(self):
        """Let the process end; one that does not is killed. What it said is passed on, unless its
        end is an error that quotes it."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if not self.failed or os.environ.get("APRNB_TRACEBACK"):
            sys.stderr.write(self._words())
        self._answers.close()
        self._said.close()


def signal_name(number):
    """SIGSEGV for 11; a number that has no name here as it is."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def started(*arguments, **named):
    """A Worker whose process ends with the block."""
    worker = Worker(*arguments, **named)
    try:
        yield worker
    finally:
        worker.close()


def serve(open_side):
    """The worker's end: open_side(settings) -> (step, finish, state, look).

    step() does one optimiser step, finish() waits until all are done and returns the last loss,
    state() is a dict that every answer carries, look() does a step and is a dict of what it saw.
    """
    answers = os.fdopen(int(sys.argv[-1]), "w")
    os.set_inheritable(answers.fileno(), False)  # our own children must not hold it open
    try:
        _answer_all(open_side(json.loads(sys.argv[-2])), answers)
    except BrokenPipeError:
        raise SystemExit(1) from None  # nobody waits for an answer any more
    except Exception as error:
        known = error if isinstance(error, AprnbError) else _of_memory(error)
        if known is None:
            raise
        print(json.dumps({"error": str(known), "exit_code": known.exit_code}), file=answers,
              flush=True)


def _of_memory(error):
    """As errors.out_of_memory; knows PyTorch's own too, without importing it."""
    said = str(error).partition("\n")[0]
    if type(error).__name__ == "OutOfMemoryError":  # of the GPU
        return DeviceMemoryError(f"out of device memory: {said}; try fewer sequences or tokens, or "
                                 "a smaller --preset")
    if "can't allocate memory" in said:
        return out_of_memory(MemoryError(said))
    return out_of_memory(error)


def _answer_all(side, answers):
    step, finish, state, look = side

    def take(count):
        begin = time.perf_counter()
        for _ in range(count):
            step()
        loss = finish()
        return {"seconds": time.perf_counter() - begin, "loss": loss, **state()}

    print(json.dumps(take(1)), file=answers, flush=True)
    for line in sys.stdin:
        answer = look() if line.strip() == "look" else take(int(line))
        print(json.dumps(answer), file=answers, flush=True)
