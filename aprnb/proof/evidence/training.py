"""What evidence keeps of a training run's folder."""
import json
from pathlib import Path

from .folder import attach

KEPT = ("config.json", "summary.json", "metrics.jsonl", "events.jsonl", "loss.svg")


def attach_run(folder, run_dir, root):
    """Copies of what a training run left, apart from its models and states."""
    run_dir = Path(run_dir)
    attach(folder, [*(run_dir / name for name in KEPT), *run_dir.glob("ckpt/*.metadata.json")],
           root)


def inputs_of_run(run_dir):
    """Files and folders that a training run read: --init, tokenizer, datasets. Of a dataset the
    manifest stands for the shards, whose lengths and checksums it lists."""
    settings = json.loads((Path(run_dir) / "config.json").read_text())["settings"]
    given = [settings[name]["value"] for name in ("init", "tokenizer", "dataset", "val_shard")]
    paths = [Path(path) for path in given if path]
    return [p / "manifest.json" if (p / "manifest.json").is_file() else p for p in paths]


def device_of_run(run_dir):
    """What a training run says that it ran on; None if it did not end."""
    file = Path(run_dir) / "summary.json"
    return json.loads(file.read_text())["device"] if file.is_file() else None
