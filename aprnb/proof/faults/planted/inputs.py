"""Faults of what a run is given: validation windows, corpora, token files, the command line."""
from ..fault import fault

AUDIT, BATCHES, ENCODE, INPUTS, LOOP, MAPS, ONCE, SCORE, SETTINGS = (
    f"aprnb/{part}.py" for part in ("data/audit", "data/batches", "data/encode", "train/inputs",
                                    "train/loop", "data/maps", "cli/once", "train/score",
                                    "train/settings"))

COMMAND_LINE = [
    fault("last-value-wins", "of two values of an option the last is used",
          "common: click, argparse",
          cpu=[(ONCE, "if len(values) > 1:", "if len(values) > 9:")]),
    fault("verbs-below-a-group-unguarded", "only the verbs of the front door are guarded",
          "ours: tokenize and bench are groups",
          cpu=[(ONCE, 'getattr(command, "commands", {}).values()', "()")]),
]

VALIDATION = [
    fault("validation-depends-on-the-batch-size", "as many windows validate as fit 16 batches",
          "ours: 4.30 to 4.57 nats for the same weights",
          cpu=[(SETTINGS, "return self.val_windows or self.val_batches * self.batch_size",
                "return (self.val_batches or 16) * self.batch_size")]),
    fault("validation-is-the-tail", "the last windows in path order validate",
          "ours: the last folder of a corpus is another kind of text",
          cpu=[(BATCHES, "generator.permutation(n_windows)[:wanted]",
                "np.arange(n_windows)[::-1][:wanted]")]),
    fault("drawn-windows-known-by-their-number", "a resumed run may train on other windows",
          "ours: a count is no identity",
          cpu=[(BATCHES, '{"count": len(indices), "sha256": digest}',
                '{"count": len(indices), "sha256": digest[:0].rjust(64)}')]),
    fault("old-runs-get-the-new-split", "a run begun on the tail goes on with drawn windows",
          "ours: its validation windows were trained on",
          cpu=[(SETTINGS, '"val_order": "sequential"}', '"val_order": "shuffled"}')]),
    fault("ends-of-shards-unsaid", "tokens that fill no window are not counted",
          "ours: 240 of 300 documents gone, exit 0",
          cpu=[(BATCHES, "for shard in self._shards if len(shard) % width}",
                "for shard in self._shards if not shard}")]),
    fault("rest-of-the-validation-data-unsaid", "windows of --val-shard that are not used",
          "ours: 64 of 400 windows, and no word",
          cpu=[(INPUTS, "len(self.val) - len(self.val_indices) if own else 0", "0")]),
    fault("leak-without-a-shard-unseen", "only a --val-shard is compared with the training data",
          "ours: what the tail could hold, a draw over the whole holds more often",
          cpu=[(INPUTS, "shared = count_shared(val.hashes",
                "shared = 0 and count_shared(val.hashes")]),
    fault("no-loss-before-step-0", "the first validation is that of the first epoch",
          "ours: nobody knows where a run came from",
          cpu=[(LOOP, "if at.step == 0 and at.initial_val_nats is None:",
                "if at.step == 0 and at.recorded:")]),
    fault("loss-before-step-0-not-saved", "the state forgets the first validation",
          "ours: a summary that depends on how often a run was resumed",
          cpu=[(LOOP, "loss = self.position.initial_val_nats = self._evaluate(",
                "loss = self.initial_val_nats = self._evaluate(")]),
    fault("eval-draws-the-first-windows", "--windows takes the first ones",
          "ours: another set than the run's",
          cpu=[(SCORE, "indices = draw(len(windows), drawn, seed)",
                "indices = range(min(len(windows), drawn))")]),
]

SHARDS_KEPT = [
    fault("a-map-for-every-shard", "every shard keeps its map, and with it a file descriptor",
          "common: np.memmap", cpu=[(MAPS, "lru_cache(OPEN_MAPS)(map_file)",
                                     "lru_cache(None)(map_file)")]),
    fault("refused-shards-deleted", "what was encoded goes when the audit refuses it",
          "ours: hours of work thrown away after they were done",
          cpu=[(ENCODE, "    os.replace(folder, kept)\n", "")]),
    fault("unaudited-shards-deleted", "what was encoded goes when the audit fails",
          "ours: 1,300 shards, and too many open files",
          cpu=[(ENCODE, '        kept = keep_beside(folder, output, "unaudited")\n',
                "        kept = output\n")]),
    fault("degenerate-unrecorded", "nothing says that the audit was overruled",
          "ours: whoever trains on it later does not know",
          cpu=[(AUDIT, 'bool(report["findings"] and allowed)', "False")]),
    fault("separators-count-as-tokens-of-text", "end-of-text tokens stand for bytes",
          "ours: numbers of one digit a token were refused",
          cpu=[(AUDIT, "(1 - separators) / known", "1 / known")]),
]

FAULTS = COMMAND_LINE + VALIDATION + SHARDS_KEPT
