"""Which styles of vocabulary are read: byte-level BPE alone (GPT-2, Qwen, Llama 3).

Every byte that UTF-8 can contain has a token of its own there, so no text can become <unk>. A
hex-byte vocabulary ("00".."ff" as the 256 base tokens) is recognised and refused: its files do not
say how text is cut before the merges, so its ids could only be guessed. Any other is unknown.
"""
from .tokenizer_library import TokenizerFormatError, TokenizerStyleError

HEX_BYTES = {f"{byte:02x}" for byte in range(256)}
HEX_BYTES_ENOUGH = 200  # of 256, the reference's threshold
NEVER_IN_UTF8 = {0xC0, 0xC1, *range(0xF5, 0x100)}


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
