"""validate: every rule of the container and of the content, one finding a line.

Errors: the container breaks a rule (exit code 4); the content cannot be right: NaN or infinite
weights, tensors that contradict the hyper-parameters, bytes that are not those of their digest
(exit code 5). Warnings (exit code 0): what is untrue, missing or unlikely, but readable.
"""
from ..config import from_apr
from ..errors import FormatError, LoadError
from .apr_reader import AprFile
from .model_file import (check_weights, config_of_folder, open_tensors, settle_head,
                         untrusted_hyper_parameters)
from .names import EMBEDDING, HEAD, is_state
from .stats import stats_row, suspicion

ADJACENT_PAIRS = 0  # rope_type of GGUF's Llama order


def validate(path):
    """Report (schema aprnb-validate-v1): findings, and the exit code that they amount to."""
    findings = []
    try:
        model = open_tensors(path)
    except FormatError as error:
        findings.append(_finding("error", 4, type(error).__name__, str(error)))
        return _report(path, findings, 0)
    with model:
        findings += [_finding("warning", 0, "container", w) for w in
                     getattr(model, "warnings", [])]
        findings += list(_judge_configuration(model))
        rows = [stats_row(model, name) for name in model.tensors]
        findings += list(_judge_values(model, rows))
        return _report(path, findings, len(rows))


def _report(path, findings, tensors):
    """The document; a container error is the only finding, for nothing is read behind it."""
    code = max((f["exit_code"] for f in findings), default=0)
    return {"schema": "aprnb-validate-v1", "model": str(path), "tensors": tensors,
            "errors": sum(f["level"] == "error" for f in findings),
            "warnings": sum(f["level"] == "warning" for f in findings),
            "findings": findings, "exit_code": code, "ok": code == 0}


def _finding(level, exit_code, rule, message):
    """One line of the report."""
    return {"level": level, "exit_code": exit_code, "rule": rule, "message": message}


def _warning(rule, message):
    """A finding that does not change the exit code."""
    return _finding("warning", 0, rule, message)


def _judge_configuration(model):
    """Findings about hyper-parameters, and about the names and shapes that follow from them."""
    try:
        if isinstance(model, AprFile):
            yield from _judge_metadata(model)
            reason = untrusted_hyper_parameters(model)
            if reason:
                yield _warning("hyper-parameters", reason)
                return
            config = from_apr(model.metadata, model.path)
        elif (model.folder / "config.json").is_file():
            config, _ = config_of_folder(model)
        else:
            yield _warning("hyper-parameters", "there is no config.json beside the weights")
            return
    except LoadError as error:
        yield _warning("hyper-parameters", str(error))
        return
    claimed = config.tied
    config, notes = settle_head(model, config)
    if claimed != config.tied:
        yield _warning("tied_embeddings", f"says {str(claimed).lower()}, the tensors say "
                                          f"{str(config.tied).lower()}")
    try:
        notes += check_weights(model, config)
    except LoadError as error:
        yield _finding("error", 5, "shapes", str(error))
    for note in notes:
        yield _warning("tensors", note)


def _judge_metadata(file):
    """Warnings about keys of an .apr file that are missing or untrue."""
    metadata = file.metadata
    hf_names = EMBEDDING in file.tensors and metadata.get("original_format") != "gguf"
    if hf_names and metadata.get("rope_type") == ADJACENT_PAIRS:
        yield _warning("rope_type", "0 says adjacent pairs, but tensors with Hugging Face names "
                                    "are split halves (2); it is not believed")
    if HEAD not in file.tensors and hf_names and "tied_embeddings" not in metadata:
        yield _warning("tied_embeddings", "is missing; without a head the model is tied")
    weights = [t for t in file.tensors.values() if not is_state(t.name)]
    for key, true in (("param_count", sum(t.count for t in weights if not t.is_placeholder)),
                      ("total_size", sum(t.nbytes for t in file.tensors.values()))):
        if metadata.get(key) != true:
            yield _warning(key, f"says {metadata.get(key)}, the tensors hold {true}")
    vocabulary, words = metadata.get("vocab_size"), metadata.get("tokenizer.vocab_size")
    if isinstance(vocabulary, int) and isinstance(words, int) and words > vocabulary:
        yield _warning("tokenizer", f"has {words} ids, the model {vocabulary} rows")


def _judge_values(model, rows):
    """Findings about the payloads, from one streaming pass."""
    digests = getattr(model, "metadata", {}).get("source_digests")
    digests = digests if isinstance(digests, dict) else {}
    for row in rows:
        name = row["name"]
        if row["nan"] or row["inf"]:
            yield _finding("error", 5, "values", f"{name} holds {row['nan']} NaN and "
                                                 f"{row['inf']} infinite values")
        stored = digests.get(name)
        if isinstance(stored, dict) and stored.get("sha256") != row["sha256"]:
            yield _finding("error", 5, "source_digests", f"{name}: SHA-256 {row['sha256'][:16]}... "
                           f"is not that of its source, {str(stored.get('sha256'))[:16]}...")
        for flag in row["flags"]:
            # said already: as an error, or as a note about the head
            if not flag.endswith((" NaN", " infinite", "without bytes")):
                yield _warning("values", f"{name}: {flag}")
    swapped = suspicion(rows)
    if swapped:
        yield _warning("dtype", swapped)
