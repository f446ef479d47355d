"""Two programs that take turns on one device, each in a process of its own.

A worker gets its settings as JSON in its last argument and answers one JSON line as soon as its
first step is done, then one for every line "N" on its input, after N more steps, or "look":

    {"seconds": of the N steps, "loss": of the last one, "memory_peak": bytes so far, ...}
    {what a look at a step that nobody times has found}
    {"error": what it met, "exit_code": of its class}

So a run measures each side's memory and start alone and lets the sides alternate.
"""
import json
import os
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from ..errors import AprnbError

PACKAGE = Path(__file__).parents[2]
PATIENCE_S = 300  # longest time without an answer: what compiles a model may take minutes


class Worker:
    """The parent's end."""

    def __init__(self, name, module, settings, python=sys.executable, patience_s=PATIENCE_S,
                 stderr=None):
        """stderr: a file for what the process says, in place of this one's stderr"""
        # the package's folder on the path: another interpreter may not have it installed
        path = os.pathsep.join(filter(None, [str(PACKAGE), os.environ.get("PYTHONPATH")]))
        self.name, self.begin, self.patience_s = name, time.perf_counter(), patience_s
        self.process = subprocess.Popen(
            [python, "-m", f"{__package__}.{module}", json.dumps(settings)], bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
            env={**os.environ, "PYTHONPATH": path})

    def answer(self):
        """The next answer.  Errors: AprnbError if the worker ended or keeps silent."""
        if not select.select([self.process.stdout], [], [], self.patience_s)[0]:
            raise AprnbError(f"bench: {self.name} gave no answer for {self.patience_s:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise AprnbError(f"bench: {self.name} ended with exit code {self.process.wait()}; "
                             "its own message stands above")
        answer = json.loads(line)
        if "error" in answer:
            error = AprnbError(f"{self.name}: {answer['error']}")
            error.exit_code = answer["exit_code"]
            raise error
        return answer

    def steps(self, count):
        """The answer after `count` more steps."""
        self.process.stdin.write(f"{count}\n".encode())
        return self.answer()

    def look(self):
        """The answer after one step that the worker looks into."""
        self.process.stdin.write(b"look\n")
        return self.answer()

    def elapsed(self):
        """Seconds since the process was started."""
        return time.perf_counter() - self.begin

    def close(self):
        """Let the process end; one that does not is killed."""
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


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
    # a library that prints must not answer for us
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        _answer_all(open_side(json.loads(sys.argv[-1])), answers)
    except AprnbError as error:
        print(json.dumps({"error": str(error), "exit_code": error.exit_code}), file=answers,
              flush=True)


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
