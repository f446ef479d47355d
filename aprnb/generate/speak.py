"""Text in, text out: tokenizer, greedy continuation, decoding."""
from ..data.tokenizer import from_json
from ..errors import LoadError
from ..model.instance import Model
from .greedy import continue_greedy


def speak(source, backend, prompt, max_tokens=None):
    """The JSON report of `aprnb run` for an opened model and a prompt.

    max_tokens: as in `continue_greedy`. Errors: LoadError if the model carries no tokenizer.
    """
    if source.tokenizer_json is None:
        raise LoadError(f"{source.path}: the model carries no tokenizer; import it again with "
                        "--tokenizer FILE")
    tokenizer = from_json(source.tokenizer_json)
    ids = tokenizer.encode_prompt(prompt)
    model = Model.from_file(source, backend, trainable=False)
    out = continue_greedy(model, ids, max_tokens, stop_ids(source.config, tokenizer))
    return {
        "schema": "aprnb-run-v1",
        "prompt_tokens": len(ids),
        "tokens": len(out.tokens),
        "token_ids": out.tokens,
        "text": tokenizer.decode(out.tokens),
        "finish_reason": out.finish_reason,
        "prefill_tokens_per_sec": len(ids) / out.prefill_seconds,
        "decode_tokens_per_sec": (len(out.tokens) - 1) / out.decode_seconds
        if len(out.tokens) > 1 else None,
        "device": backend.reason,
    }


def stop_ids(config, tokenizer):
    """End-of-text ids: the configuration's, else the tokenizer's."""
    eos = config.eos_token_id
    if eos is None:
        eos = tokenizer.eos_id
    return () if eos is None else eos if isinstance(eos, tuple) else (eos,)
