"""The quickstart: corpus -> tokenizer -> shards -> training -> continuing -> a sample.

Every step is a command that a user could type, printed before it runs. Called by tools/quickstart.
"""
import json
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = Path("runs/quickstart")
CORPUS_BYTES = 12_000_000  # enough text for the steps below, little enough to encode in seconds
STEPS_A_LINE = 25
LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "__pycache__", "idlelib"}


def main():
    begin = time.time()
    shutil.rmtree(ROOT / OUT, ignore_errors=True)
    (ROOT / OUT).mkdir(parents=True)
    collect(ROOT / OUT / "corpus")
    aprnb("tokenize train --corpus {o}/corpus --vocab-size 4096 --output {o}/tokenizer")
    aprnb("tokenize encode-corpus --corpus {o}/corpus --tokenizer {o}/tokenizer "
          "--output {o}/shards")
    aprnb("pretrain --arch tiny --dataset {o}/shards --tokenizer {o}/tokenizer "
          "--run-dir {o}/pretrain --num-steps 700 --batch-size 8 --seq-length 128 --lr 3e-3 "
          "--steps-per-epoch 175 --val-windows 64", shown=progress)
    first = newest(ROOT / OUT / "pretrain")
    aprnb(f"pretrain --init {first} --dataset {{o}}/shards --run-dir {{o}}/continue "
          "--num-steps 60 --batch-size 8 --seq-length 128 --lr 1e-4 --steps-per-epoch 60 "
          "--val-windows 64", shown=progress)
    last = newest(ROOT / OUT / "continue")
    aprnb("run", str(last), "def read(self):\n        ", "--max-tokens", "48")
    report(first, last, time.time() - begin)


def collect(folder):
    """Copies of the standard library's Python files, in path order, up to CORPUS_BYTES."""
    library, total, count = Path(sysconfig.get_paths()["stdlib"]), 0, 0
    for file in sorted(library.rglob("*.py")):
        inner = file.relative_to(library)
        if LEFT_OUT & set(inner.parts) or not file.stat().st_size:  # an empty file is no document
            continue
        total += file.stat().st_size
        if total > CORPUS_BYTES:
            break
        target = folder / inner
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        count += 1
    print(f"corpus: {count} Python files of the standard library, {total / 1e6:.1f} MB", flush=True)


def aprnb(line, *words, shown=None):
    """Run one command of the package, after printing it.

    shown: which lines of its output are passed on, where that is not a terminal with a bar.
    """
    command = [*line.format(o=OUT).split(), *words]
    print(f"\n$ aprnb {shlex.join(command)}", flush=True)
    thinned = shown is not None and not sys.stdout.isatty()
    with subprocess.Popen([sys.executable, "-m", "aprnb", *command], cwd=ROOT, text=True,
                          stdout=subprocess.PIPE if thinned else None) as process:
        for output in process.stdout or ():
            if shown(output):
                print(output, end="", flush=True)
    if code := process.returncode:
        raise SystemExit(f"quickstart: the command above ended with exit code {code}")


def progress(line):
    """Whether a line of `pretrain` is shown: one step of STEPS_A_LINE, and all that is no step."""
    step = re.match(r"step +(\d+)/", line)
    return step is None or int(step[1]) == 1 or int(step[1]) % STEPS_A_LINE == 0


def newest(run):
    return sorted((run / "ckpt").glob("epoch-*.apr"))[-1].relative_to(ROOT)


def report(first, last, seconds):
    losses = [json.loads((ROOT / OUT / run / "summary.json").read_text())["final_val_loss"]
              for run in ("pretrain", "continue")]
    print(f"\nquickstart: validation loss {losses[0]:.3f} nats after pretraining, {losses[1]:.3f} "
          f"after continuing (ln 4096 = 8.318); {seconds:.0f} s")
    for path in (first, last, OUT / "pretrain/loss.svg", OUT / "pretrain/summary.json",
                 OUT / "continue/loss.svg", OUT / "continue/summary.json"):
        print(f"  {path}")
    if losses[1] >= 5.0:
        raise SystemExit("quickstart: the loss has not fallen below 5.0 nats; that is a fault")


if __name__ == "__main__":
    main()
