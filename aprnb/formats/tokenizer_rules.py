"""How each family of tokenizers cuts a text into words, as data; the merges then work inside words.

A byte-level vocabulary means nothing without its rules: the same merges give other ids behind
another pre-tokeniser. tokenizer.json holds them; vocab.json and merges.txt do not, and there the
class that tokenizer_config.json names decides. transformers 5 takes the class's rules for some
models even where a tokenizer.json says otherwise (`rules_elsewhere`); `difference` compares both.
Sources: tokenization_{qwen2,gpt2,codegen,gpt_neox}.py and auto/tokenization_auto.py of transformers
5.24; tokenizer.json of Qwen2.5 and Llama 3.
"""
import json
from dataclasses import dataclass

from .tokenizer_library import TokenizerFormatError, build, entered
from .tokenizer_style import byte_alphabet

WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
PROBES = (
    "It's 2024: x1234 = 3.14159, 1,000,000 and 0x1F; they've we'll I'M DON'T you'D",
    "def f(x):\n\n\n    if x:\n\t\treturn  x+1  # don't\n\n\n\n", "a\r\nb\r\n\r\n  c \n d\t\te   ",
    "naïve café e\u0301 A\u030a \u1100\u1161 ﬁ Ⅷ ² ½ ①②", "中文和日本語のテキスト 123号，한국어 텍스트 ٣٤٥",
    "🙂👩‍👩‍👧 🇩🇪 —“quoted”… <tag/> http://a.b/c?d=1&e=2 {'k': [1,2]};//**\n", "   \n   \n",
    " leading")
MOST_TOKENS = 4000  # of the vocabulary that are spelled out as probes, spread over all merges


@dataclass(frozen=True)
class Rules:
    """Normaliser and pre-tokeniser of one family of byte-level tokenizers."""

    name: str
    written_class: str
    """tokenizer_class with which transformers keeps these rules."""
    words: str | None = None
    """Regular expression of a word; None is GPT-2's, which the library holds."""
    nfc: bool = False
    """Whether text is brought to Unicode's normal form C first."""
    filled: tuple = ()
    """Keys of tokenizer_config.json that the class fills with <|endoftext|> if they are absent."""

    @property
    def normalizer(self):
        return {"type": "NFC"} if self.nfc else None

    def pre_tokenizer(self, add_prefix_space=False, trim_offsets=True):
        level = {"type": "ByteLevel", "add_prefix_space": add_prefix_space,
                 "trim_offsets": trim_offsets, "use_regex": self.words is None}
        if self.words is None:
            return level
        split = {"type": "Split", "pattern": {"Regex": self.words}, "behavior": "Isolated",
                 "invert": False}
        return {"type": "Sequence", "pretokenizers": [split, level]}

    def spec(self, vocab=None, merges=(), added_tokens=(), add_prefix_space=False):
        """A whole tokenizer.json, parsed, of a vocabulary under these rules."""
        return {"version": "1.0", "added_tokens": list(added_tokens),
                "normalizer": self.normalizer,
                "pre_tokenizer": self.pre_tokenizer(add_prefix_space),
                "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                            "use_regex": True},
                "model": {"type": "BPE", "vocab": vocab or {}, "merges": list(merges)}}


RULES = {rules.name: rules for rules in (
    Rules("qwen2", "Qwen2Tokenizer", WORDS % r"\p{N}", nfc=True,
          filled=("eos_token", "unk_token", "pad_token")),
    Rules("llama", "PreTrainedTokenizerFast", WORDS % r"\p{N}{1,3}"),
    Rules("gpt2", "GPT2Tokenizer", filled=("bos_token", "eos_token", "unk_token")),
    Rules("gpt-neox", "GPTNeoXTokenizer", nfc=True,
          filled=("bos_token", "eos_token", "unk_token")))}
FAMILIES = ("qwen2", "llama", "gpt2")  # that `tokenize train` offers

# tokenizer_class, without "Fast" -> rules that the class builds from vocab.json and merges.txt
CLASSES = {"Qwen2Tokenizer": RULES["qwen2"], "GPT2Tokenizer": RULES["gpt2"],
           "CodeGenTokenizer": RULES["gpt2"], "GPTNeoXTokenizer": RULES["gpt-neox"]}
# model_type of config.json -> the class that transformers' AutoTokenizer takes where none is named
CLASS_OF_MODEL = {"qwen2": "Qwen2Tokenizer", "gpt2": "GPT2Tokenizer",
                  "gpt_neox": "GPTNeoXTokenizer", "codegen": "CodeGenTokenizer"}


def rules_of_class(name):
    """Rules of a tokenizer_class, or None for one that is unknown or has no rules of its own."""
    return CLASSES.get(name.removesuffix("Fast")) if isinstance(name, str) else None


def rules_elsewhere(model_type, settings):
    """Rules by which transformers 5 builds a byte-level tokenizer of this model anew from its
    vocabulary and merges, or None where it keeps tokenizer.json as it is.

    A qwen2 model gets Qwen2's, whatever class stands in `settings` (tokenizer_config.json); any
    other model those of the class. transformers 4 keeps every tokenizer.json.
    """
    if model_type == "qwen2":
        return RULES["qwen2"]
    return rules_of_class(settings.get("tokenizer_class"))


def rules_of_text(spec):
    """Rules that the parsed tokenizer.json `spec` follows to the letter, or None."""
    return next((rules for rules in RULES.values() if spec.get("normalizer") == rules.normalizer
                 and spec.get("pre_tokenizer") in (rules.pre_tokenizer(trim_offsets=True),
                                                   rules.pre_tokenizer(trim_offsets=False))), None)


def identity_warnings(text, model_type, settings, where):
    """Sentences that say that a tokenizer.json is another tokenizer in transformers 5, or [].

    model_type: "qwen2" or "llama";  settings: tokenizer_config.json;  where: for messages.
    """
    rules = rules_elsewhere(model_type, settings)
    if rules is None:
        return []
    head = (f"{where}: transformers 5 builds the tokenizer of this {model_type} model anew by the "
            f"rules of {rules.written_class}")
    try:
        found = difference(text, rules, settings, where)
    except TokenizerFormatError as error:
        return [f"{head}, which cannot be compared with tokenizer.json: {error}"]
    if found is None:
        return []
    probe, ours, theirs = found
    k = next((k for k, (a, b) in enumerate(zip(ours, theirs)) if a != b),
             min(len(ours), len(theirs)))
    return [f"{head}, not by its tokenizer.json, and reads other ids with it: {probe[:40]!r} goes "
            f"on after {k} ids with {ours[k:k + 3]} here and {theirs[k:k + 3]} there; load it "
            "there with PreTrainedTokenizerFast(tokenizer_file='tokenizer.json'), or train with a "
            f"tokenizer of `aprnb tokenize train --family {rules.name}`"]


def difference(text, rules, settings, where="tokenizer.json"):
    """(probe, ids by the file, ids by the rules) where a byte-level tokenizer.json and `rules`
    first give other ids, or None.

    Probes are PROBES and tokens of the vocabulary. settings: tokenizer_config.json, whose
    add_prefix_space the classes of transformers follow. Errors: TokenizerFormatError.
    """
    spec = json.loads(text)
    prefix, added = settings.get("add_prefix_space") is True, spec.get("added_tokens") or []
    anew = rules.spec(spec["model"]["vocab"], spec["model"].get("merges") or [], added, prefix)
    if rules_of_text(spec) is rules and not prefix and not spec["model"].get("ignore_merges"):
        return None  # the same to the letter: nothing to build, of 150,000 tokens
    known = {token["content"] for token in added}
    probes = [*PROBES, *_spelled([t for t in spec["model"]["vocab"] if t not in known])]
    both = zip(probes, _ids(text, probes, where), _ids(json.dumps(anew), probes, where))
    return next((found for found in both if found[1] != found[2]), None)


def _ids(text, probes, where):
    library = build(text, where)
    with entered(where):
        return [e.ids for e in library.encode_batch_fast(probes, add_special_tokens=False)]


def _spelled(tokens):
    """Texts that byte-level tokens stand for, at most MOST_TOKENS of them."""
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    longer = [t for t in tokens if len(t) > 1 and all(c in byte_of for c in t)]
    step = -(-len(longer) // MOST_TOKENS) or 1
    texts = (bytes(byte_of[c] for c in t) for t in longer[::step])
    return [text.decode() for text in texts if _is_utf8(text)]


def _is_utf8(data):
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
