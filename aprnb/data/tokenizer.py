"""Text <-> token ids, by the `tokenizers` library alone: no pre-tokeniser of our own.

A vocabulary's style is detected before anything is encoded. Only byte-level BPE is accepted (GPT-2,
Qwen, Llama 3): every byte that UTF-8 can contain has a token of its own, so no text can become
<unk>. A hex-byte vocabulary ("00".."ff" as the 256 base tokens) is recognised and refused: its
files do not say how text is cut before the merges, so its ids could only be guessed. Any other
style is refused as unknown.
"""
import hashlib
import json
from copy import copy
from functools import cached_property
from itertools import chain
from pathlib import Path

import tokenizers

from ..errors import CheckError, FormatError, NotFoundError
from .cuts import cuttable, pieces

EOS_TOKENS = ("</s>", "<|endoftext|>", "<eos>", "<|eos|>")  # the first that exists ends documents
HEX_BYTES = {f"{byte:02x}" for byte in range(256)}
HEX_BYTES_ENOUGH = 200  # of 256, the reference's threshold
NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


class TokenizerFormatError(FormatError):
    """The file is not a tokenizer.json that the `tokenizers` library can read."""


class TokenizerStyleError(CheckError):
    """The vocabulary is not byte-level: encoding with it could lose text."""


class Tokenizer:
    """A byte-level BPE vocabulary with its pre-tokeniser, as one tokenizer.json describes it."""

    def __init__(self, text, where="tokenizer.json"):
        """`text` is a whole tokenizer.json; `where` names it in error messages."""
        self.text = text
        self.where = str(where)
        spec = parse(text, where)
        self._library = build(text, where)  # first: it refuses what has not the form of the file
        self.style = detect_style(spec, where)
        self.digest = canonical_digest(spec)
        self.merges_count = len(spec["model"].get("merges") or [])
        self.eos_token = end_of_text(spec)
        """The token that ends a document, or None."""
        self.unk_token = spec["model"].get("unk_token")
        self._cuttable = cuttable(spec)

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
        return self._library.encode(text, add_special_tokens=False).ids

    def encode_prompt(self, text):
        """Token ids of a prompt, with the special tokens that the file's post-processor puts around
        a text, such as Llama 3's begin-of-text; none where the file has no such processor."""
        return self._library.encode(text, add_special_tokens=True).ids

    def encode_batch(self, texts):
        """Token ids of each text, in order; the same as `encode` gives, faster."""
        parts = [pieces(text) if self._cuttable else [text] for text in texts]
        # "fast" leaves out character offsets, which nobody here reads: 1.2 to 1.4 times the speed
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
        return twin

    def save(self, folder):
        """Write tokenizer.json (unchanged), vocab.json, merges.txt and tokenizer_config.json."""
        folder = Path(folder)
        # bytes, not text mode: the file must come out as it came in on every platform
        (folder / "tokenizer.json").write_bytes(self.text.encode())
        self._library.model.save(str(folder))
        config = {"tokenizer_class": "PreTrainedTokenizerFast",
                  "clean_up_tokenization_spaces": False}
        if self.eos_token:
            config |= {"bos_token": self.eos_token, "eos_token": self.eos_token,
                       "pad_token": self.eos_token}
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def load_tokenizer(path):
    """Tokenizer of a tokenizer.json, or of a folder with it, or with vocab.json and merges.txt.

    Errors: NotFoundError, TokenizerFormatError (no valid JSON), TokenizerStyleError.
    """
    path = Path(path)
    if not path.exists():
        raise NotFoundError(f"{path}: no such tokenizer; need a tokenizer.json, or a folder with "
                            "tokenizer.json or with vocab.json and merges.txt")
    if path.is_file():
        return Tokenizer(read_text(path), path)
    if (path / "tokenizer.json").is_file():
        return Tokenizer(read_text(path / "tokenizer.json"), path / "tokenizer.json")
    if (path / "vocab.json").is_file() and (path / "merges.txt").is_file():
        return from_vocab_and_merges(path / "vocab.json", path / "merges.txt")
    raise NotFoundError(f"{path}: holds no tokenizer; need tokenizer.json, or vocab.json and "
                        "merges.txt")


def from_json(text, where="embedded tokenizer.json"):
    """Tokenizer of a tokenizer.json held as a string, such as the one inside an .apr file."""
    return Tokenizer(text, where)


def from_vocab_and_merges(vocab, merges):
    """Tokenizer of the two GPT-2 files, which by convention mean GPT-2's pre-tokeniser."""
    spec = {"model": {"type": "BPE", "vocab": parse(read_text(vocab), vocab),
                      "merges": [line for line in read_text(merges).splitlines()
                                 if line and not line.startswith("#version")]},
            "pre_tokenizer": {"type": "ByteLevel"}}
    detect_style(spec, vocab)
    try:
        library = byte_level(tokenizers.models.BPE.from_file(str(vocab), str(merges)))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerFormatError(f"{merges}: not a merges file of {vocab}: {error}") from error
    if end_of_text(spec):
        library.add_special_tokens([end_of_text(spec)])
    return Tokenizer(library.to_str(), vocab.parent)


def byte_level(model):
    """A library tokenizer around `model` with GPT-2's pre-tokeniser and no added prefix space."""
    library = tokenizers.Tokenizer(model)
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    return library


def train_bpe(texts, vocab_size, min_frequency=2):
    """Byte-level BPE of at most `vocab_size` tokens learned from an iterator of texts.

    `<|endoftext|>` has id 0, the 256 byte tokens follow, then the merges in order. A pair seen
    fewer than `min_frequency` times is not merged, so a small corpus yields a smaller vocabulary.
    The same texts give the same bytes. Errors: CheckError (no room for the bytes, no text).
    """
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(alphabet) + 1:
        raise CheckError(f"vocabulary of {vocab_size}: 256 bytes and <|endoftext|> alone need "
                         f"{len(alphabet) + 1}; use a larger --vocab-size")
    library = byte_level(tokenizers.models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(alphabet), show_progress=False)
    library.train_from_iterator(texts, trainer)
    trained = Tokenizer(library.to_str(pretty=True), "trained tokenizer")
    if not trained.merges_count:
        raise CheckError("the corpus holds no pair of bytes to merge: nothing to train on")
    return trained


def read_text(path):
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TokenizerFormatError(f"{path}: not UTF-8 at byte {error.start}; "
                                   "need a tokenizer.json") from error


def parse(text, where):
    """The JSON object in `text`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerFormatError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerFormatError(f"{where}: need a JSON object, got {type(value).__name__}")
    return value


def build(text, where):
    """The library's tokenizer, with everything switched off that would change or cut the text."""
    try:
        library = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # the library raises bare Exception
        raise TokenizerFormatError(f"{where}: the tokenizers library refuses it: "
                                   f"{error}") from error
    library.no_truncation()  # a saved max_length would cut documents without a word
    library.no_padding()
    if isinstance(library.model, tokenizers.models.BPE):
        library.model.dropout = None  # a training-time option that makes ids random
    return library


def canonical_digest(spec):
    """SHA-256 of the JSON with sorted keys and no spaces: re-indenting a file keeps its digest."""
    text = json.dumps(spec, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def detect_style(spec, where):
    """ "byte-level", or TokenizerStyleError for hex-byte and unknown vocabularies."""
    model = spec.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocab, dict | list):
        raise TokenizerFormatError(f"{where}: no model.vocab; need a tokenizer.json")
    if model.get("type", "BPE") == "BPE" and isinstance(vocab, dict):
        alphabet = byte_alphabet()
        lacking = [byte for byte in range(256)
                   if alphabet[byte] not in vocab and byte not in NEVER_IN_UTF8]
        if not lacking and uses_byte_level(spec):
            return "byte-level"
        if len(HEX_BYTES & vocab.keys()) >= HEX_BYTES_ENOUGH and lacking:
            raise TokenizerStyleError(
                f"{where}: a hex-byte vocabulary (base tokens 00..ff); its files do not say how "
                "text is cut before the merges, so ids would be guesses; train a byte-level one "
                "with `aprnb tokenize train`")
        why = (f"{len(lacking)} of 243 byte tokens are missing, the first is 0x{lacking[0]:02x}"
               if lacking else "no ByteLevel pre-tokeniser")
    else:
        why = f"model type {model.get('type')}"
    raise TokenizerStyleError(f"{where}: unknown style of vocabulary ({why}), text could become "
                              "<unk>; need byte-level BPE such as GPT-2, Qwen or Llama 3")


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


def uses_byte_level(spec):
    """Whether pre-tokeniser or normaliser, alone or in a sequence, is ByteLevel."""
    for stage, parts in (("pre_tokenizer", "pretokenizers"), ("normalizer", "normalizers")):
        value = spec.get(stage) or {}
        for part in [value, *(value.get(parts) or [])]:
            if part.get("type") == "ByteLevel":
                return True
    return False


def byte_alphabet():
    """The 256 characters that stand for bytes in a byte-level vocabulary (GPT-2, encoder.py)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(256) if byte not in printable)
    moved = {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [moved.get(byte, chr(byte)) for byte in range(256)]
