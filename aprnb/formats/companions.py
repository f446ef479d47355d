"""What stands beside the weights of a Hugging Face folder and travels with them: in, and out again.

    hf_config           keys of config.json that this engine does not write itself
    generation_config   generation_config.json, whole
    tokenizer_config    tokenizer_config.json without the chat templates
    chat_template       Jinja text, the one called "default";  chat_templates: the others, by name
    chat_template_files true where they came in files of their own

What came in goes out unless it would be untrue: sizes, RoPE, dtype and tying are written anew from
the model, and `auto_map` is left out, since the code that it names does not travel.
"""
from ..config import from_apr, to_apr
from .chat_templates import (DEFAULT, FILE, FOLDER, in_files, template_files, templates_of,
                             with_templates)
from .config_json import to_hf
from .hf_folder import INDEX
from .tokenizer_folder import settings_of
from .tokenizer_keys import generation_settings, tokenizer_settings

KEYS = ("hf_config", "generation_config", "tokenizer_config", "chat_template", "chat_templates",
        "chat_template_files")
TRAVELLING = {"config.json", "generation_config.json", "tokenizer_config.json",
              "special_tokens_map.json", INDEX, FILE, FOLDER}
IN_TOKENIZER = {"tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json"}
SHOWN = 12  # names
NOT_OURS = {"bos_token_id", "eos_token_id", "use_cache", "use_sliding_window", "initializer_range"}
UNTRUE = {"rope_parameters", "dtype", "transformers_version", "auto_map", "quantization_config"}


def companion_keys(model, config, ids, tokenizer):
    """(metadata keys, notes) of an HfModel.

    config: its ModelConfig;  ids: its `special_id_keys`;  tokenizer: (TokenizerFiles, {token: id}),
    or None where the model comes without: then tokenizer_config.json is the folder's own.
    """
    files, tokens = tokenizer or (None, {})
    settings = files.settings if files else settings_of(model.folder)
    source = model.json("config.json") or {}
    coded = [name for name, part in (("config.json", source), ("tokenizer_config.json", settings))
             if part.get("auto_map")]
    written = to_hf(from_apr({**to_apr(config), **ids}, model.folder))
    keys = {
        "hf_config": {key: value for key, value in foreign(source, written).items()
                      if key not in written or written[key] != value} or None,
        "generation_config": model.json("generation_config.json") or generation_settings(ids),
        "chat_template_files": in_files(model.folder) or None,
        **settings_keys(settings)}
    if tokens:
        keys["tokenizer_config"] = keys["tokenizer_config"] or tokenizer_settings(ids, tokens)
    return keys, [f"{name}: auto_map is left out: the code that it names does not travel"
                  for name in coded]


def left_behind(model, tokenizer):
    """Note about what stands in the folder of an HfModel and does not travel with it.

    tokenizer: its TokenizerFiles, or None
    """
    if model.path.is_file():
        return []  # its folder is not the model's own
    carried = {*TRAVELLING, *(file.path.name for file in model.files)}
    if tokenizer:
        carried |= IN_TOKENIZER
    names = [path.name for path in sorted(model.folder.iterdir())
             if path.name not in carried and not path.name.startswith(".")]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"not part of the model file, and of no export of it: {', '.join(names[:SHOWN])}{more}"
            ] if names else []


def settings_keys(settings):
    """Metadata keys of a tokenizer_config.json with its chat templates."""
    templates = templates_of(settings.get("chat_template"))
    return {"tokenizer_config": {key: value for key, value in settings.items()
                                 if key not in ("chat_template", "auto_map")},
            "chat_template": templates.pop(DEFAULT, None), "chat_templates": templates or None}


def without_tokenizer(metadata):
    """Metadata without what holds for its tokenizer alone."""
    kept = {key: value for key, value in metadata.items()
            if not key.startswith("tokenizer.") and key not in KEYS}
    config = _object(metadata, "hf_config") or {}
    ids = {key: value for key, value in config.items() if not key.endswith("_token_id")}
    return kept | ({"hf_config": ids} if ids else {})


def foreign(source, written):
    """The keys of a config.json that are not written by this engine from the model itself."""
    return {key: value for key, value in source.items()
            if key in NOT_OURS or key not in written and key not in UNTRUE}


def companion_files(metadata, config, dtype, ids, tokens):
    """{file name: text or object} beside the weights and tokenizer.json.

    metadata: of the model;  dtype: of the weights, as transformers spells it;  ids: special ids;
    tokens: {token: id}, or None for a model without a tokenizer, which gets the files that came in.
    """
    written = to_hf(config, dtype)
    files = {"config.json": written | foreign(_object(metadata, "hf_config") or {}, written),
             "generation_config.json": _object(metadata, "generation_config")
             or generation_settings(ids)}
    templates = templates_of(metadata.get("chat_template"))
    templates |= templates_of(_object(metadata, "chat_templates"))
    settings = _object(metadata, "tokenizer_config")
    if tokens is not None:
        settings = settings or tokenizer_settings(ids, tokens)
    if settings or templates:
        files["tokenizer_config.json"] = with_templates(settings or {}, templates)
    if metadata.get("chat_template_files") is True:
        files |= template_files(templates)
    return files


def _object(metadata, key):
    """An object of the metadata, or None."""
    return metadata[key] if isinstance(metadata.get(key), dict) else None
