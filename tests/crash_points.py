"""Kill a run at its k-th step towards a durable file, for every k, and go on from what is left.

Usage: python crash_points.py FOLDER. Prints one JSON object a crash point: the call, the files in
ckpt/ that cannot be read, and whether the resumed run ended with the numbers of one that was never
killed. Each run is a forked child of this process, which itself never computes: no threads.
"""
import json
import os
import signal
import sys
from pathlib import Path

from runs import arch, numbers, state, text_shards, train

from aprnb.errors import AprnbError
from aprnb.formats.apr import read_apr

CALLS = ("fsync", "replace", "unlink", "ftruncate")  # what makes files durable, or goes


def in_child(work):
    """Exit status of a function run in a child process; negative when a signal ended it."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0 if sys.exc_info()[0] is None else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(base, name, kill_before=None, resume=False):
    """One small run, killed by itself before its k-th call; its numbers go to base/name.json."""
    counted = 0

    def shim(real):
        def call(*args, **kwargs):
            nonlocal counted
            counted += 1
            if counted == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call

    for call in CALLS:
        setattr(os, call, shim(getattr(os, call)))
    size = {} if resume else {"num_steps": 3, "steps_per_epoch": 2, "keep": 1}
    report = train(base, name, resume=resume, **size)
    tensors, position = state(base / name)
    digest = {n: hash(data) for n, data in tensors.items()}
    (base / f"{name}.json").write_text(json.dumps(
        [numbers(report), digest, position, counted]))


def unreadable(folder):
    """Files under their final names that are not whole."""
    bad = []
    for file in folder.glob("*.apr"):
        try:
            read_apr(file).close()
        except AprnbError:
            bad.append(file.name)
    return bad


def main(base):
    text_shards(base / "data")
    arch(base / "config.json")
    assert in_child(lambda: run(base, "whole")) == 0
    *whole, calls = json.loads((base / "whole.json").read_text())
    for k in range(1, calls + 1):
        name = f"cut{k}"
        status = in_child(lambda: run(base, name, k))
        ckpt = base / name / "ckpt"
        torn, has_state = unreadable(ckpt), any(ckpt.glob("state-*.apr"))
        same = None
        if has_state:
            in_child(lambda: run(base, name, resume=True))
            *again, _ = json.loads((base / f"{name}.json").read_text())
            same = again == whole
        left = [p.name for p in ckpt.glob(".*")] if has_state else []
        print(json.dumps({"call": k, "status": status, "torn": torn, "state": has_state,
                          "same": same, "left": left}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
