"""Chat templates of a folder: one or several by name, in tokenizer_config.json or in files.

    tokenizer_config.json         "chat_template": text, or [{"name", "template"}, ...]
    chat_template.jinja           the one called "default"
    additional_chat_templates/    NAME.jinja, the others

Files win over tokenizer_config.json as a whole, as in transformers 4.57 and 5. Templates are text
here: nothing executes them.
"""
import re

from .hf_folder import read_text

DEFAULT, FILE, FOLDER = "default", "chat_template.jinja", "additional_chat_templates"
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")  # a name that may become a file's


def read_templates(folder, settings):
    """{name: Jinja text} of a folder; `settings` is its tokenizer_config.json."""
    found = {}
    if (folder / FILE).is_file():
        found[DEFAULT] = read_text(folder / FILE)
    for file in sorted((folder / FOLDER).glob("*.jinja")):
        if file.is_file():
            found[file.stem] = read_text(file)
    return found or templates_of(settings.get("chat_template"))


def templates_of(value):
    """{name: text} of what tokenizer_config.json holds; what is no template is left out."""
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, dict):
        value = [{"name": name, "template": text} for name, text in value.items()]
    rows = [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
    return {row["name"]: row["template"] for row in rows
            if isinstance(row.get("name"), str) and isinstance(row.get("template"), str)}


def with_templates(settings, templates):
    """tokenizer_config.json with these templates and no others."""
    settings = {key: value for key, value in settings.items() if key != "chat_template"}
    if templates.keys() == {DEFAULT}:
        settings["chat_template"] = templates[DEFAULT]
    elif templates:
        settings["chat_template"] = [{"name": name, "template": text}
                                     for name, text in templates.items()]
    return settings


def in_files(folder):
    """Whether a folder keeps its templates in files of their own."""
    return (folder / FILE).is_file() or (folder / FOLDER).is_dir()


def template_files(templates):
    """{file name: text} of templates by name; {} where a name is none that a file may have."""
    if not all(FILE_NAME.fullmatch(name) for name in templates):
        return {}
    return {FILE if name == DEFAULT else f"{FOLDER}/{name}.jinja": text
            for name, text in templates.items()}
