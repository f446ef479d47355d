"""Faults of what a run is given: validation windows, corpora, token files, the command line."""
from ..fault import fault

AUDIT, BATCHES, CORPUS, ENCODE, JSON_VALUES, MAPS, UNPACK, WALK = (
    f"aprnb/data/{part}.py" for part in ("audit", "batches", "corpus", "encode", "json_values",
                                         "maps", "unpack", "walk"))
INPUTS, LOOP, SCORE, SETTINGS = (f"aprnb/train/{part}.py" for part in ("inputs", "loop", "score",
                                                                       "settings"))
ONCE = "aprnb/cli/once.py"

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

FOLDERS = [
    fault("suffix-in-capitals-not-read", "a .JSONL is another suffix than .jsonl", "ours",
          cpu=[(WALK, 'stem, packing = file.name.lower(), ""', 'stem, packing = file.name, ""')]),
    fault("frames-behind-the-first-lost", "of a .zst only the first frame is read",
          "common: python-zstandard without read_across_frames",
          cpu=[(UNPACK, "self._frame.unused_data if self._frame and self._frame.eof else b\"\"",
                "b\"\"")]),
    fault("cut-zst-is-whole", "a .zst that was cut just ends early", "common: python-zstandard",
          cpu=[(UNPACK, "if self._frame and not self._frame.eof:", "if not self._beneath:")]),
    fault("array-is-one-record", "a .json that is an array is no record",
          "ours: 50 documents of 250",
          cpu=[(JSON_VALUES, 'if self._next() != "[":', 'if self._next() != "{}":')]),
    fault("links-to-folders-not-followed", "a folder behind a link is not read",
          "common: os.walk",
          cpu=[(WALK, "if target in seen or root.startswith(",
                "if target in seen or os.path.islink(entry) and os.path.isdir(entry) or "
                "root.startswith(")]),
    fault("links-read-twice", "a file is read under each of its names", "ours",
          cpu=[(WALK, "if target in seen or root.startswith(", "if root.startswith(")]),
    fault("dangling-links-unsaid", "a link to nothing is passed over in silence",
          "ours: after a cache was cleaned up",
          cpu=[(WALK, "        self.left_out.setdefault(reason, []).append(str(name))",
                '        if reason != "dangling link":\n'
                "            self.left_out.setdefault(reason, []).append(str(name))")]),
    fault("held-out-folders-trained-on", "folders called test are read like any other",
          "common: a validation loss that is too good",
          cpu=[(WALK, "entry.name.casefold() in HELD_OUT", "entry.name in CACHES")]),
    fault("include-of-nothing-accepted", "--include of a name that is not there is ignored",
          "ours: a spelling mistake leaves the folder out",
          cpu=[(WALK, "        if self._unmet:", "        if not self:")]),
    fault("manifest-without-what-was-skipped", "the manifest lists what was read alone", "ours",
          cpu=[(ENCODE, '        "skipped": corpus.left_out_summary(),\n',
                '        "skipped": {},\n')]),
]

FAULTS = COMMAND_LINE + VALIDATION + SHARDS_KEPT + FOLDERS
