"""Faults of texts, tokens, shards and the order in which they are read."""
from ..fault import fault

AUDIT, BATCHES, CORPUS, CUTS, ENCODE, SHARDS, TOKENIZER = (
    f"aprnb/data/{part}.py" for part in ("audit", "batches", "corpus", "cuts", "encode", "shards",
                                         "tokenizer"))
LIBRARY = "aprnb/formats/tokenizer_library.py"
LEAVE_OUT_SHORT_END = """\
    finish_document()
    writer.close()
    if len(writer.shards) > 1 and writer.shards[-1]["tokens"] < options.shard_tokens:
        (writer.folder / writer.shards.pop()["file"]).unlink()
"""

TOKENS = [
    fault("unknown-vocabulary-encoded", "a hex-byte vocabulary passes for a byte-level one",
          "reference",
          cpu=[("aprnb/formats/tokenizer_style.py",
                "if not lacking and uses_byte_level(spec):", "if vocab:")]),
    fault("own-pre-tokeniser", "words are cut as GPT-2 cuts them, whatever the file says",
          "reference 0.72.3",
          cpu=[(LIBRARY, "    library.no_padding()\n",
                "    library.no_padding()\n    library.pre_tokenizer = "
                "tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)\n")]),
    fault("saved-max-length-kept", "a max_length in the file cuts documents without a word",
          "ours: tokenizer.json of many models holds 512",
          cpu=[(LIBRARY, "    library.no_truncation()", "    library.get_vocab_size()")]),
    fault("special-tokens-in-the-corpus", "every piece of a corpus gets a begin-of-text token",
          "ours: a post-processor is meant for prompts",
          cpu=[(TOKENIZER, "add_special_tokens=False))\n        return [[i for",
                "add_special_tokens=True))\n        return [[i for")]),
    fault("text-cut-anywhere", "long texts are cut at every line end, also within a word",
          "ours: faster, and other ids at the seams",
          cpu=[(CUTS, 'BREAK = re.compile(r"(?<=[0-9A-Za-z])\\r?\\n")',
                'BREAK = re.compile(r"\\n")')]),
    fault("special-tokens-not-decoded", "decoding leaves out special tokens",
          "ours: a sample of the corpus hides what separates documents",
          cpu=[(TOKENIZER, "skip_special_tokens=False)", "skip_special_tokens=True)")]),
    fault("merged-word-ends-texts", "a word that merges spell as </s> is taken for end-of-text",
          "ours: Qwen2's vocabulary has one, 128247",
          cpu=[(TOKENIZER, 'words = spec["model"]["vocab"].keys() - merged',
                'words = spec["model"]["vocab"].keys()')]),
]

TEXTS = [
    fault("crlf-normalised", "line ends become \\n on reading", "ours: Python's default",
          cpu=[(CORPUS, '(stream, "utf-8", newline="")', '(stream, "utf-8")')]),
    fault("byte-order-mark-dropped", "U+FEFF at the start of a file is dropped", "ours: utf-8-sig",
          cpu=[(CORPUS, '(stream, "utf-8", newline="")', '(stream, "utf-8-sig", newline="")')]),
    fault("text-stripped", "white space around the text of a record is cut off",
          "ours: indentation and last lines are text",
          cpu=[(CORPUS, "        return record[field]\n",
                "        return record[field].strip()\n")]),
    fault("folders-in-disk-order", "files are read in the reverse of their names",
          "ours: the order in which a folder lists them is the disk's own",
          cpu=[("aprnb/data/walk.py", "sorted(folder.iterdir(), reverse=True)",
                "sorted(folder.iterdir())")]),
    fault("bad-files-without-limit", "any share of files that are not UTF-8 is skipped",
          "ours: half a corpus gone, and a warning",
          cpu=[(CORPUS, "MAX_SKIPPED = 0.01 ", "MAX_SKIPPED = 1.00 ")]),
]

SHARD_FILES = [
    fault("ids-as-u16", "token ids are written in 16 bits", "ours: nanoGPT's files of GPT-2 do it",
          cpu=[("aprnb/data/maps.py", 'DTYPE = np.dtype("<u4")', 'DTYPE = np.dtype("<u2")')]),
    fault("ids-wrap-at-16-bits", "ids are counted modulo 65,536", "ours: a buffer of 16 bits",
          cpu=[(ENCODE, "[np.array(each, np.uint32) for each in ids]",
                "[np.array(each, np.uint32) & 0xFFFF for each in ids]")]),
    fault("last-shard-dropped", "a last shard that is not full is left out",
          "ours: drop_last, where nobody asked for it",
          cpu=[(ENCODE, "    finish_document()\n    writer.close()\n", LEAVE_OUT_SHORT_END)]),
    fault("token-count-off-by-one", "the manifest counts a token too many",
          "ours: the reader must not believe it",
          cpu=[(SHARDS, '"total_tokens": total("tokens"),',
                '"total_tokens": total("tokens") + 1,')]),
    fault("bytes-counted-as-characters", "the manifest counts characters as bytes",
          "ours: bits per byte would be too good for any text beyond ASCII",
          cpu=[(CORPUS, "Document(piece, len(piece.encode()),", "Document(piece, len(piece),")]),
    fault("end-of-text-left-out", "documents follow each other without a separator",
          "ours: the model learns to run on",
          cpu=[(ENCODE, 'if unfinished and options.eos_policy == "between":',
                'if unfinished and options.eos_policy == "never":')]),
    fault("end-of-text-before-the-first", "a separator stands before the first document too",
          "ours: one too many of what is counted between",
          cpu=[(ENCODE, 'if unfinished and options.eos_policy == "between":',
                'if options.eos_policy == "between":')]),
    fault("results-out-of-order", "batches are written in the order in which they are done",
          "ours: shards would depend on the number of workers",
          cpu=[(ENCODE, "waiting.append(pool.submit(encode, batch))",
                "waiting.appendleft(pool.submit(encode, batch))")]),
    fault("shard-crc-unchecked", "the checksum of a shard is not compared",
          "ours: a checksum nobody compares",
          cpu=[(SHARDS, 'if entry and entry["crc32"] != (crc := f"{crc32_of(shard):08x}"):',
                'if entry and entry["crc32"] == (crc := ""):')]),
    fault("tokenizer-digest-unchecked", "shards of another tokenizer are taken",
          "ours: every id in range and every word another",
          cpu=[(SHARDS, "if tokenizer_digest and made_with and tokenizer_digest != made_with:",
                "if tokenizer_digest and made_with and not made_with:")]),
]

JUDGED = [
    fault("one-id-accepted", "a corpus of 99.99 % one token passes",
          "reference: val_loss 0.0008 was true of such a corpus",
          cpu=[(AUDIT, "ONE_ID_SHARE = 0.99 ", "ONE_ID_SHARE = 1.01 ")]),
    fault("frequent-id-refused", "a corpus that is 97 % one token is refused",
          "ours: text with long runs of one token is text",
          cpu=[(AUDIT, "ONE_ID_SHARE = 0.99 ", "ONE_ID_SHARE = 0.95 ")]),
    fault("id-of-the-vocabulary-size-accepted", "an id equal to the vocabulary passes",
          "ours: the row behind the last",
          cpu=[(AUDIT, "limit = min(vocab_size or MAX_ID, MAX_ID)",
                "limit = min(vocab_size + 1 if vocab_size else MAX_ID, MAX_ID)")]),
    fault("entropy-in-nats", "entropy is computed in nats and called bits",
          "reference: units; its 17.21 was bits and was called nats",
          cpu=[(AUDIT, "float(-(shares * np.log2(shares)).sum())",
                "float(-(shares * np.log(shares)).sum())")]),
    fault("unknown-tokens-accepted", "any share of unknown tokens passes", "reference",
          cpu=[(AUDIT, "MAX_UNKNOWN = 0.01 ", "MAX_UNKNOWN = 1.00 ")]),
    fault("leak-unseen", "validation windows that stand in training are not counted",
          "ours: a validation loss that is too good",
          cpu=[("aprnb/data/ngrams.py",
                "return count_shared(hashes, others) / len(hashes) if len(hashes) else 0.0",
                "return 0.0")]),
    fault("validation-overlaps-training", "the windows of the validation are trained on too",
          "ours: a split that forgets its other half",
          cpu=[(BATCHES, "return range(n_windows - n_val), range(",
                "return range(n_windows), range("),
               (BATCHES, "    train[val] = False\n", "")]),
]

WINDOWS = [
    fault("windows-overlap", "a window begins with the last token of the one before",
          "ours: one token in seq is trained on twice, and counts differ from what was promised",
          cpu=[(BATCHES, "np.cumsum([0] + [len(shard) // width for",
                "np.cumsum([0] + [(len(shard) - 1) // seq_length for"),
               (BATCHES, "start = int(i - self._starts[shard]) * (self.seq_length + 1)",
                "start = int(i - self._starts[shard]) * self.seq_length")]),
    fault("windows-skip-a-token", "between two windows a token is lost",
          "ours: the stride is one too long",
          cpu=[(BATCHES, "np.cumsum([0] + [len(shard) // width for",
                "np.cumsum([0] + [len(shard) // (width + 1) for"),
               (BATCHES, "start = int(i - self._starts[shard]) * (self.seq_length + 1)",
                "start = int(i - self._starts[shard]) * (self.seq_length + 2)")]),
    fault("targets-two-ahead", "the target of a position is the token after the next",
          "ours: labels shifted by the data and by the loss",
          cpu=[(BATCHES, "np.ascontiguousarray(rows[:, 1:])",
                "np.ascontiguousarray(np.roll(rows, -1, axis=1)[:, 1:])")]),
]

FAULTS = TOKENS + TEXTS + SHARD_FILES + JUDGED + WINDOWS
