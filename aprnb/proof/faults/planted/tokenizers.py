"""Faults of what stands beside a tokenizer and beside weights: rules, special tokens, settings."""
from ..fault import fault

COMPANIONS, FOLDER, OPENED, RULES, TEMPLATES = (
    f"aprnb/formats/{part}.py" for part in ("companions", "tokenizer_folder", "model_file",
                                            "tokenizer_rules", "chat_templates"))
AUDIT, ENCODE, SHARDS, TOKENIZER = (f"aprnb/data/{part}.py" for part in ("audit", "encode",
                                                                         "shards", "tokenizer"))

BESIDE = [
    fault("class-of-the-folder-unread", "vocab.json and merges.txt are always cut as GPT-2's",
          "ours: 1,241 ids for 1,211 of a Qwen2 folder",
          cpu=[(FOLDER, "    if rules:\n        return rules, ()\n",
                "    if rules:\n        return RULES[\"gpt2\"], ()\n")]),
    fault("unknown-class-as-gpt2", "a class that does not say how words are cut is taken for GPT-2",
          "ours: ids of the right vocabulary, and of no model",
          cpu=[(FOLDER, "    if name is None and model_type is None:\n",
                "    if rules is None:\n")]),
    fault("added-tokens-left-out", "added_tokens_decoder of a folder is not taken over",
          "ours: chat tokens become text",
          cpu=[(FOLDER, 'listed, where = settings.get("added_tokens_decoder"),',
                "listed, where = {},")]),
    fault("named-end-of-text-unread", "end-of-text is found by its spelling, whatever a file names",
          "ours: Llama 3 cannot separate documents, or is separated by </s>",
          cpu=[(TOKENIZER, 'self._named("eos_token", ids or {}) or end_of_text(spec)',
                "end_of_text(spec)")]),
    fault("settings-made-up-on-import", "import-hf writes a tokenizer_config.json of its own",
          "ours: bos, eos and pad become what the spelling suggests",
          cpu=[(TOKENIZER, "write_settings(folder, self.settings or self.own_settings())",
                "write_settings(folder, self.own_settings())")]),
    fault("untied-copy-tied", "a head that starts as a copy of the embedding is trained tied",
          "ours: config.json says untied",
          cpu=[(OPENED, "        if said_untied(source, config):\n",
                "        if said_untied(source, config) is None:\n")]),
]

FAMILIES = [
    fault("trained-by-gpt2s-rules", "tokenize train cuts words as GPT-2 does for every family",
          "ours: 1.888 bits per byte here were 2.382 in transformers 5",
          cpu=[(TOKENIZER, "rules, alphabet = RULES[family],",
                'rules, alphabet = RULES["gpt2"],')]),
    fault("other-ids-unsaid", "export says nothing where transformers 5 builds another tokenizer",
          "ours: the model reads ids there that it never saw",
          cpu=[(RULES, "    if found is None:\n        return []\n", "    return []\n")]),
    fault("qwen2-classes-believed", "the class of tokenizer_config.json is believed of qwen2",
          "ours: transformers 5 overrules it for them",
          cpu=[(RULES, '    if model_type == "qwen2":\n', '    if model_type == "qwen1":\n')]),
]

MENTIONS = [
    fault("mention-becomes-control", "a control token that a text mentions ends the document",
          "ours: 86 ends of text where 24 were put",
          cpu=[(TOKENIZER, "library.encode_special_tokens = not wanted",
                "library.encode_special_tokens = False")]),
    fault("prompt-not-parsed", "control tokens of a prompt are text", "ours: chats without turns",
          cpu=[(TOKENIZER, "        self._parse_special_tokens(True)\n", "")]),
    fault("mentions-not-counted", "nobody counts the control tokens that texts mention",
          "ours: manifest and report hide them",
          cpu=[(ENCODE, "            mentioned += tokenizer.mentions(document.text)\n", "")]),
    fault("separators-alone-counted", "eos_token_count leaves out those that texts brought",
          "ours: the manifest says 19, the shard holds 29",
          cpu=[(ENCODE, '"eos_token_count": eos_count + eos_in_text,',
                '"eos_token_count": eos_count,')]),
]

KEPT = [
    fault("config-keys-dropped", "export writes only the keys of config.json that it knows",
          "ours: pad_token_id is lost",
          cpu=[(COMPANIONS, 'written | foreign(_object(metadata, "hf_config") or {}, written)',
                "written")]),
    fault("config-overwritten-by-metadata", "kept keys of config.json win over the model's own",
          "ours: a lying file gives other sizes to an export",
          cpu=[(COMPANIONS, "            if key in NOT_OURS or key not in written and key not in "
                            "UNTRUE}", "            if key not in UNTRUE}")]),
    fault("named-templates-dropped", "export writes the template called default and no other",
          "ours: tool_use is gone",
          cpu=[(COMPANIONS, '    templates |= templates_of(_object(metadata, "chat_templates"))\n',
                "")]),
    fault("part-of-a-tokenizer-read", "a file named tokenizer.model or vocab.json is tried as JSON",
          "ours: the message was the library's",
          cpu=[(FOLDER, "    if file.name in NOT_ALONE:\n", "    if file.name in ():\n")]),
    fault("ordinary-separator-unsaid", "a word of the language may separate documents, unsaid",
          "ours: --eos-token the",
          cpu=[(ENCODE, "    if eos not in tokenizer.encode(token):", "    if token:")]),
    fault("template-name-as-path", "the name of a template is taken for a file name as it is",
          "ours: ../../ in a model's metadata",
          cpu=[(TEMPLATES, "if not all(FILE_NAME.fullmatch(name) for name in templates):",
                "if not all(templates):")]),
    fault("companions-left-by-training", "checkpoints carry the tokenizer and not its settings",
          "ours: generation_config.json is lost between import and export",
          cpu=[("aprnb/train/inputs.py", '("chat_format", "special_tokens", *companions.KEYS)',
                '("chat_format", "special_tokens", "chat_template")')]),
]

FAULTS = BESIDE + FAMILIES + MENTIONS + KEPT
