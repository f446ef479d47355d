"""Small training runs on real text: a model of 2 layers and width 16, windows of 33 tokens."""
import contextlib
import io
import json
import subprocess
import sys

import hf_fixture
import numpy as np
import processes
from corpora import small_tokenizer, stdlib_ids

from aprnb.cli import main
from aprnb.formats.apr import read_apr
from aprnb.train.console import Console
from aprnb.train.run import pretrain

SEQ = 32
SETTINGS = {"num_steps": 20, "steps_per_epoch": 8, "batch_size": 4, "seq_length": SEQ, "lr": 3e-3,
            "device": "cpu", "val_windows": 8}


def shards(folder, *arrays, manifest=False):
    """A dataset folder of these token arrays."""
    folder.mkdir(parents=True)
    for i, ids in enumerate(arrays):
        np.asarray(ids).astype("<u4").tofile(folder / f"shard-{i:05d}.bin")
    if manifest:
        from aprnb.data.shards import repair_manifest
        repair_manifest(folder, small_tokenizer())
    return folder


def text_shards(folder, tokens=1_200):
    """Two shards of standard-library text, vocabulary 1024; by default 36 windows."""
    ids = stdlib_ids()[:tokens]
    return shards(folder, ids[:tokens // 2], ids[tokens // 2:])


def arch(path, **changes):
    """A config.json of the small model."""
    path.write_text(json.dumps(hf_fixture.config(vocab_size=1024, **changes)))
    return path


class Watcher(Console):
    """A quiet console that calls `at_step(record)` after every step."""

    def __init__(self, at_step=lambda record: None):
        super().__init__(io.StringIO())
        self.at_step, self.warnings, self.notes = at_step, [], []

    def step(self, record, steps):
        self.at_step(record)

    def warn(self, text):
        self.warnings.append(text)

    def note(self, text):
        self.notes.append(text)


def train(base, name="run", at_step=lambda record: None, resume=False, force=False, overrides=(),
          watcher=None, **given):
    """Report of a run in base/name on base/data; data and config.json are made when absent.

    watcher: a Watcher that is asked afterwards what was said, instead of `at_step`.
    """
    if not (base / "data").exists():
        text_shards(base / "data")
    if not (base / "config.json").exists():
        arch(base / "config.json")
    values = {"run_dir": str(base / name)}
    if resume in (False, "auto"):
        values |= SETTINGS | {"dataset": str(base / "data")}
        if "init" not in given:
            values["arch"] = str(base / "config.json")
    return pretrain(values | given, watcher or Watcher(at_step), resume, force, overrides)


def aprnb(*arguments, **options):
    """Run the command line in a process of its own."""
    command = [sys.executable, "-m", "aprnb", *map(str, arguments)]
    return processes.run(command, **options)


def aprnb_here(*arguments):
    """The same within this process: faster, for runs that are refused."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def flags(base, name="run", **given):
    """Command-line flags of the same run as `train`."""
    values = SETTINGS | {"dataset": base / "data", "arch": base / "config.json",
                         "run_dir": base / name} | given
    return [part for key, value in values.items() if value is not None
            for part in (f"--{key.replace('_', '-')}", str(value))]


def refused(result, code, *words):
    """The command ended with `code` and one `error:` line that holds all words."""
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == code, (result.returncode, result.stderr)
    assert len(errors) == 1 and "Traceback" not in result.stderr, result.stderr
    for word in words:
        assert word in errors[0], errors[0]


def loss_of(path, dataset):
    """Mean loss of a model file on all windows of a dataset."""
    from aprnb.backend import open_backend
    from aprnb.data.batches import Windows
    from aprnb.data.shards import open_dataset
    from aprnb.formats.model_file import open_model
    from aprnb.model.instance import Model
    from aprnb.train.evaluate import evaluate
    with open_model(path) as source:
        model = Model.from_file(source, open_backend("cpu", "fp32"), trainable=False)
        return evaluate(model, Windows(open_dataset(dataset), SEQ), 2).loss_nats


def numbers(report):
    """(step, loss, norm, rate) of every record: what a resumed run must repeat bit by bit."""
    return [tuple(r[k] for k in ("step", "loss_nats", "grad_norm", "lr"))
            for r in report["per_step_metrics"]]


def state(run):
    """(tensor bytes by name, position without wall times) of the newest state of a run."""
    newest = max((run / "ckpt").glob("state-*.apr"))
    with read_apr(newest) as file:
        saved = file.metadata["training_state"]
        tensors = {name: file.bytes_of(name).tobytes() for name in file.tensors}
    position = {k: v for k, v in saved["position"].items() if k != "wall_seconds"}
    return tensors, (position, saved["stream"], saved["optimiser_step"])


def leftovers(run):
    """Temporary files anywhere below a folder."""
    return [p for p in run.rglob("*") if p.name.endswith(".tmp")]
