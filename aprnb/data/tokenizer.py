"""Text <-> token ids, by the `tokenizers` library alone: no pre-tokeniser of our own.

A corpus and a prompt are read differently. In a corpus a control token that the text mentions
(`<|endoftext|>` in a page about GPT-2) is text, unless asked for otherwise; in a prompt it is the
control token, and the file's post-processor puts its own around it.
"""
import hashlib
import json
import re
from collections import Counter
from copy import copy
from functools import cached_property
from itertools import chain
from pathlib import Path

from ..errors import CheckError
from ..formats.tokenizer_folder import content_of, parse, read_tokenizer
from ..formats.tokenizer_library import (TokenizerFormatError, TokenizerStyleError,  # noqa: F401
                                         build, entered)
from ..formats.tokenizer_rules import RULES, rules_of_text
from ..formats.tokenizer_style import detect_style
from .cuts import cuttable, pieces

EOS_TOKENS = ("</s>", "<|endoftext|>", "<eos>", "<|eos|>", "<|end_of_text|>")
"""Spellings of end-of-text; the first that exists ends documents where no file names a token."""
SPECIAL_TOKENS = ("text", "control")


class Tokenizer:
    """A byte-level BPE vocabulary with its pre-tokeniser, as one tokenizer.json describes it."""

    def __init__(self, text, where="tokenizer.json", settings=None, ids=None, notes=()):
        """`text` is a whole tokenizer.json; `where` names it in error messages.

        settings: tokenizer_config.json, which names the special tokens;  ids: eos_token_id and
        others of generation_config.json or config.json, where it does not;  notes: what was
        guessed while it was read.
        """
        self.text = text
        self.where = str(where)
        self.settings = settings or {}
        spec = parse(text, where)
        self._library = build(text, where)  # first: it refuses what has not the form of the file
        self.special_tokens = "text"
        """What a control token that a corpus mentions becomes: "text" or "control"."""
        self.style = detect_style(spec, where)
        self.rules = rules_of_text(spec)
        self.digest = canonical_digest(spec)
        self.merges_count = len(spec["model"].get("merges") or [])
        self.controls = {t["content"]: t["id"] for t in spec.get("added_tokens") or []
                         if t.get("special")}
        """{control token: id}."""
        self.warnings = list(notes)
        """What a user should be told once."""
        self.eos_token = self._named("eos_token", ids or {}) or end_of_text(spec)
        """The token that ends a document, or None."""
        self.unk_token = spec["model"].get("unk_token")
        self._cuttable = cuttable(spec)
        self._parse_special_tokens(False)

    def _named(self, key, ids):
        """The special token that the files beside the vocabulary name, if they do and it is there.

        tokenizer_config.json first, then the first id of generation_config.json or config.json.
        """
        token = content_of(self.settings.get(key))
        if token in self.vocabulary:
            return token
        if token is not None:
            self.warnings.append(f"{self.where}: tokenizer_config.json names {token!r} as {key}, "
                                 "which the vocabulary does not hold; it is passed over")
        given = ids.get(f"{key}_id")
        first = next(iter(given), None) if isinstance(given, list) else given
        known = type(first) is int and 0 <= first < self.size
        return self._library.id_to_token(first) if known else None

    @cached_property
    def vocabulary(self):
        """{token: id}, added tokens included."""
        return self._library.get_vocab(with_added_tokens=True)

    @cached_property
    def size(self):
        """Largest id + 1, added tokens included: the least vocabulary a model must have."""
        return max(self.vocabulary.values()) + 1

    @property
    def eos_id(self):
        return self.vocabulary.get(self.eos_token)

    @property
    def unk_id(self):
        """Id of the model's unknown token, or None (byte-level vocabularies need none)."""
        return self.vocabulary.get(self.unk_token)

    def encode(self, text):
        """Token ids of `text` as part of a corpus; special tokens are never added."""
        with entered(self.where):
            return self._library.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text):
        """Token ids of a prompt, its control tokens parsed, with the special tokens that the file's
        post-processor puts around a text, such as Llama 3's begin-of-text, if there is one."""
        self._parse_special_tokens(True)
        try:
            with entered(self.where):
                return self._library.encode(text, add_special_tokens=True).ids
        finally:
            self._parse_special_tokens(self.special_tokens == "control")

    def taking_special_tokens_as(self, what):
        """A twin for which control tokens that a corpus mentions are "text" or "control"."""
        if what == self.special_tokens:
            return self
        twin = self.copy()
        twin.special_tokens = what
        twin._parse_special_tokens(what == "control")
        return twin

    def _parse_special_tokens(self, wanted):
        # added tokens that are not special, such as runs of blanks, are words: always parsed
        self._library.encode_special_tokens = not wanted

    def mentions(self, text):
        """Counter of the control tokens that are spelled out in a text."""
        if not self.controls:
            return Counter()
        return Counter(self._spellings.findall(text))

    @cached_property
    def _spellings(self):
        longest_first = sorted(self.controls, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    def encode_batch(self, texts):
        """Token ids of each text, in order; the same as `encode` gives, faster."""
        parts = [pieces(text) if self._cuttable else [text] for text in texts]
        # "fast" leaves out character offsets, which nobody here reads: 1.2 to 1.4 times the speed
        with entered(self.where):
            encodings = iter(self._library.encode_batch_fast(list(chain.from_iterable(parts)),
                                                             add_special_tokens=False))
        return [[i for _ in part for i in next(encodings).ids] for part in parts]

    def decode(self, ids):
        """Text of `ids`, special tokens spelled out; bytes that are no UTF-8 become U+FFFD."""
        return self._library.decode([int(i) for i in ids], skip_special_tokens=False)

    def copy(self):
        """An independent twin: the library's cache is shared state, so each thread gets its own."""
        twin = copy(self)  # what was checked and digested once is not read again
        twin._library = build(self.text, self.where)
        twin._parse_special_tokens(self.special_tokens == "control")
        return twin

    def save(self, folder):
        """Write tokenizer.json (unchanged), vocab.json, merges.txt and tokenizer_config.json."""
        folder = Path(folder)
        # bytes, not text mode: the file must come out as it came in on every platform
        (folder / "tokenizer.json").write_bytes(self.text.encode())
        self._library.model.save(str(folder))
        write_settings(folder, self.settings or self.own_settings())

    def own_settings(self):
        """tokenizer_config.json of a tokenizer that came without one."""
        config = {"tokenizer_class": self.rules.written_class if self.rules
                  else "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        if self.eos_token:
            config |= {"bos_token": self.eos_token, "eos_token": self.eos_token,
                       "pad_token": self.eos_token}
        return config


def write_settings(folder, settings):
    """Write tokenizer_config.json."""
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (Path(folder) / "tokenizer_config.json").write_bytes(text.encode())


def load_tokenizer(path):
    """Tokenizer of a tokenizer.json, or of a folder with it, or with vocab.json and merges.txt.

    Errors: NotFoundError, TokenizerFormatError (no valid JSON), TokenizerStyleError.
    """
    files = read_tokenizer(path)
    return Tokenizer(files.text, files.where, files.settings, files.ids, files.notes)


def from_json(text, where="embedded tokenizer.json", settings=None, ids=None):
    """Tokenizer of a tokenizer.json held as a string, such as the one inside an .apr file."""
    return Tokenizer(text, where, settings, ids)


def train_bpe(texts, vocab_size, min_frequency=2, family="qwen2"):
    """Byte-level BPE of at most `vocab_size` tokens learned from an iterator of texts.

    `<|endoftext|>` has id 0, the 256 byte tokens follow, then the merges in order. A pair seen
    fewer than `min_frequency` times is not merged, so a small corpus yields a smaller vocabulary.
    family: whose rules cut the words and normalise the text, one of tokenizer_rules.FAMILIES.
    The same texts give the same bytes. Errors: CheckError (no room for the bytes, no text).
    """
    import tokenizers
    rules, alphabet = RULES[family], tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 1:
        raise CheckError(f"vocabulary of {vocab_size}: 256 bytes and <|endoftext|> alone need "
                         f"{len(alphabet) + 1}; use a larger --vocab-size")
    library = build(json.dumps(rules.spec()), "trained tokenizer")
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(alphabet), show_progress=False)
    library.train_from_iterator(texts, trainer)
    trained = Tokenizer(library.to_str(pretty=True), "trained tokenizer")
    if not trained.merges_count:
        raise CheckError("the corpus holds no pair of bytes to merge: nothing to train on")
    return trained


def canonical_digest(spec):
    """SHA-256 of the JSON with sorted keys and no spaces: re-indenting a file keeps its digest."""
    text = json.dumps(spec, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def end_of_text(spec):
    """The first of EOS_TOKENS that exists as a control token, or None.

    A token that merges produce is ordinary text: Qwen2's vocabulary holds `</s>` as one (128247)
    while its documents end with <|endoftext|>.
    """
    added = {token["content"] for token in spec.get("added_tokens") or []}
    merges = spec["model"].get("merges") or []
    merged = {merge.replace(" ", "") if isinstance(merge, str) else "".join(merge)
              for merge in merges}
    words = spec["model"]["vocab"].keys() - merged
    return next((token for token in EOS_TOKENS if token in added or token in words), None)
