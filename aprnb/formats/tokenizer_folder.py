"""A tokenizer as it lies on disk, with what the files beside it say about it.

Either tokenizer.json, or vocab.json and merges.txt, which do not say how a text is cut into words:
there the class that tokenizer_config.json names decides, and one that is unknown is refused.
tokenizer_config.json (special_tokens_map.json where it is silent) also names the tokens that begin,
end and pad a text, and generation_config.json and config.json their ids.
"""
import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import NotFoundError
from .chat_templates import read_templates, with_templates
from .hf_folder import read_json, snapshot_of
from .tokenizer_library import TokenizerFormatError, TokenizerStyleError, build
from .tokenizer_rules import CLASS_OF_MODEL, CLASSES, RULES, rules_of_class
from .tokenizer_style import detect_style

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token",
         "mask_token")  # in the order in which transformers adds those that a vocabulary lacks


FOLDER = "give the folder that holds it"
NOT_ALONE = {  # files that are no tokenizer by themselves: what they are, and what to give
    "vocab.json": ("a vocabulary without its merges", f"{FOLDER} and merges.txt"),
    "merges.txt": ("merges without their vocabulary", f"{FOLDER} and vocab.json"),
    "tokenizer_config.json": ("the settings of a tokenizer", FOLDER),
    "special_tokens_map.json": ("the names of special tokens", FOLDER),
    "added_tokens.json": ("the added tokens alone", FOLDER),
    "tokenizer.model": ("a SentencePiece model, which is not read", "transformers' save_pretrained "
                        "writes tokenizer.json from it"),
    "vocab.txt": ("a WordPiece vocabulary", "models of this kind are not trained here"),
}


@dataclass(frozen=True)
class TokenizerFiles:
    """What a tokenizer folder holds; nothing of it is checked against a model yet."""

    text: str
    """tokenizer.json, as it is or as built from vocab.json and merges.txt."""
    where: Path
    """The file or folder, for messages."""
    settings: dict
    """tokenizer_config.json, chat templates included, whichever file they came in."""
    ids: dict
    """bos_token_id, eos_token_id, pad_token_id of generation_config.json, else config.json."""
    notes: tuple = ()
    """What was guessed."""


def read_tokenizer(path):
    """TokenizerFiles of a tokenizer.json, of a folder with it, or with vocab.json and merges.txt.

    Errors: NotFoundError; TokenizerFormatError, FormatError for damaged files; TokenizerStyleError
    where the files do not say how words are cut.
    """
    path = snapshot_of(Path(path))
    if not path.exists():
        raise NotFoundError(f"{path}: no such tokenizer; need a tokenizer.json, or a folder with "
                            "tokenizer.json or with vocab.json and merges.txt")
    if path.is_file():
        refuse_part(path)
    if path.is_file() and path.name != "tokenizer.json":
        another = (path.parent / "tokenizer.json").is_file()  # of which the neighbours speak
        return TokenizerFiles(read_text(path), path, {} if another else settings_of(path.parent),
                              {})
    folder = path.parent if path.is_file() else path
    if not holds_tokenizer(folder):
        parts = [f"; {name} is {what}: {tip}" for name, (what, tip) in NOT_ALONE.items()
                 if (folder / name).is_file() and tip != FOLDER]
        raise NotFoundError(f"{path}: holds no tokenizer; need tokenizer.json, or vocab.json and "
                            f"merges.txt{''.join(parts[:1])}")
    settings, config = settings_of(folder), _json(folder / "config.json")
    generation = _json(folder / "generation_config.json")
    ids = {key: source[key] for source in (config, generation)
           for key in ("bos_token_id", "eos_token_id", "pad_token_id")
           if source.get(key) is not None}
    if (folder / "tokenizer.json").is_file():
        file = folder / "tokenizer.json"
        return TokenizerFiles(read_text(file), file, settings, ids)
    text, notes = from_vocab_and_merges(folder, settings, config.get("model_type"))
    return TokenizerFiles(text, folder, settings, ids, notes)


def refuse_part(file):
    """TokenizerFormatError for a file that belongs to a tokenizer and is none by itself."""
    if file.name in NOT_ALONE:
        what, tip = NOT_ALONE[file.name]
        raise TokenizerFormatError(f"{file}: is {what}; need tokenizer.json, or {tip}")
    try:
        spec = parse(read_text(file), file)
    except TokenizerFormatError:
        return  # damaged: said by whoever reads it
    if not isinstance(spec.get("model"), dict):
        raise TokenizerFormatError(
            f"{file}: is no tokenizer.json, which has an object \"model\"; it has "
            f"{', '.join(repr(key) for key in list(spec)[:5]) or 'nothing'}; need tokenizer.json, "
            "or a folder with it or with vocab.json and merges.txt")


def holds_tokenizer(folder):
    """Whether one of the two layouts is there."""
    folder = Path(folder)
    return (folder / "tokenizer.json").is_file() or all(
        (folder / name).is_file() for name in ("vocab.json", "merges.txt"))


def settings_of(folder):
    """tokenizer_config.json of a folder, completed by special_tokens_map.json and the templates."""
    settings = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    return with_templates(settings, read_templates(folder, settings))


# ---------------------------------------------------------------- vocab.json and merges.txt

def from_vocab_and_merges(folder, settings, model_type=None):
    """(tokenizer.json as text, notes) of the two files, by the rules of the class.

    model_type: of a config.json beside them, which decides where no class is named, as in
    transformers. Where nobody says anything the files are GPT-2's, which is noted.
    """
    vocab_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    rules, notes = class_rules(folder, settings, model_type)
    vocab = parse(read_text(vocab_file), vocab_file)
    merges = [line.split(" ") for line in read_text(merges_file).splitlines()
              if line and not line.startswith("#version")]
    spec = rules.spec(vocab, merges, add_prefix_space=settings.get("add_prefix_space") is True)
    detect_style(spec, vocab_file)
    spec["added_tokens"] = added_tokens(folder, settings, vocab, rules)
    library = build(json.dumps(spec), f"{merges_file}, with {vocab_file.name}")
    moved = [t for t in spec["added_tokens"] if library.token_to_id(t["content"]) != t["id"]]
    if moved:
        raise TokenizerFormatError(
            f"{folder}: added token {moved[0]['content']!r} is given id {moved[0]['id']}, the "
            f"vocabulary puts it at {library.token_to_id(moved[0]['content'])}; the files are not "
            "of one tokenizer, or ids are left out between them")
    return library.to_str(), notes


def class_rules(folder, settings, model_type):
    """(Rules, notes) for a folder of vocab.json and merges.txt. Errors: TokenizerStyleError."""
    name = settings.get("tokenizer_class")
    rules = rules_of_class(name if name is not None else CLASS_OF_MODEL.get(str(model_type)))
    if rules:
        return rules, ()
    if name is None and model_type is None:
        return RULES["gpt2"], (
            f"{folder}: vocab.json and merges.txt alone do not say how words are cut; GPT-2's "
            "rules are taken; put the model's tokenizer_config.json or tokenizer.json there",)
    said = f"tokenizer_config.json names {name!r}" if name is not None else (
        f"config.json says {model_type!r}")
    raise TokenizerStyleError(
        f"{folder}: holds vocab.json and merges.txt, and {said}, which does not say how words are "
        f"cut before the merges; known classes: {', '.join(sorted(CLASSES))}; put the model's "
        "tokenizer.json there (transformers' save_pretrained writes it)")


def added_tokens(folder, settings, vocab, rules):
    """The list `added_tokens` of a tokenizer.json: what is listed with ids, by id, then the named
    tokens that are not, which get the ids behind the vocabulary, as in transformers."""
    listed, where = settings.get("added_tokens_decoder"), folder / "tokenizer_config.json"
    if listed is None:
        where = folder / "added_tokens.json"
        listed = {i: {"content": token} for token, i in _json(where).items()}
    named = named_tokens(settings, rules)
    found = {}
    try:
        for i, token in sorted(((int(i), token) for i, token in listed.items()),
                               key=lambda row: row[0]):
            found[token["content"]] = _added(i, token["content"], token, token["content"] in named)
        free = max([*vocab.values(), *(token["id"] for token in found.values())], default=-1) + 1
    except (TypeError, ValueError, KeyError, AttributeError):
        raise TokenizerFormatError(f"{where}: added tokens are not {{id: {{content}}}}, or ids of "
                                   "the vocabulary no integers") from None
    for token in named:
        if token not in found:
            found[token] = _added(vocab.get(token, free), token, {}, True)
            free += token not in vocab
    return sorted(found.values(), key=lambda token: token["id"])


def _added(i, content, token, special):
    if not isinstance(content, str) or not content:
        raise ValueError
    flags = {key: token.get(key) is True for key in ("single_word", "lstrip", "rstrip",
                                                     "normalized")}
    return {"id": i, "content": content, **flags,
            "special": special or token.get("special") is True}


def named_tokens(settings, rules):
    """Special tokens that tokenizer_config.json names, or the class where the file is silent, in
    order and each once."""
    filled = {key: "<|endoftext|>" for key in rules.filled}
    named = [content_of((filled | settings).get(key)) for key in NAMED]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        value = settings.get(key)
        value = list(value.values()) if isinstance(value, dict) else value
        named += map(content_of, value if isinstance(value, list) else [])
    return list(dict.fromkeys(token for token in named if token))


def content_of(token):
    """Text of a token given as text or as an object with its content, else None."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


# ---------------------------------------------------------------- files

def read_text(path):
    """A UTF-8 text. Errors: TokenizerFormatError."""
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise TokenizerFormatError(f"{path}: not UTF-8 at byte {error.start}; "
                                   "need a tokenizer.json") from error


def parse(text, where):
    """The JSON object in `text`. Errors: TokenizerFormatError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerFormatError(f"{where}: not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise TokenizerFormatError(f"{where}: need a JSON object, got {type(value).__name__}")
    return value


def _json(path):
    """The JSON object in a file, {} where there is none."""
    return read_json(path) if path.is_file() else {}
