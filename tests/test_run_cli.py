"""aprnb run and aprnb itself: what a user types first."""
import io
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from shared import DATA, shared
from tokenizers import Tokenizer

from aprnb.cli import VERBS, main
from aprnb.data.tokenizer import load_tokenizer

LLAMA = str(DATA / "parity" / "llama-f16")


def call(capsys, *args):
    """(exit code, stdout, stderr) of the command line in this process."""
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in args])
    out = capsys.readouterr()
    return caught.value.code, out.out, out.err


def test_json_names_tokens_and_rates(capsys):
    code, out, _ = call(capsys, "run", LLAMA, "hello", "--max-tokens", 5, "--device", "cpu",
                        "--json")
    report = json.loads(out)
    assert code == 0 and report["schema"] == "aprnb-run-v1"
    assert report["tokens"] == len(report["token_ids"]) <= 5
    assert report["finish_reason"] in ("length", "stop")
    assert report["prefill_tokens_per_sec"] > 0


def test_trained_model_continues_as_pytorch_does(capsys):
    folder = shared("data", "qwen2-py-10m")
    import numpy as np
    greedy = np.load(folder / "reference.npz")["greedy"][0]
    code, out, _ = call(capsys, "run", folder, "def fib(n):\n    ", "--max-tokens", 64,
                        "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["token_ids"] == greedy[-64:].tolist()


def test_prompt_from_a_file_and_from_stdin(capsys, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("hello")
    args = (LLAMA, "--max-tokens", 4, "--device", "cpu")
    from_file = call(capsys, "run", *args, "--prompt-file", tmp_path / "prompt.txt")
    assert from_file == call(capsys, "run", *args, "hello") and from_file[1].startswith("hello")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello")))
    assert from_file == call(capsys, "run", *args, "--prompt-file", "-")


def test_bad_input(capsys, tmp_path):
    assert call(capsys, "run", tmp_path / "absent.apr", "x")[0] == 3
    assert call(capsys, "run", LLAMA)[0] == 2
    assert call(capsys, "run", LLAMA, "x", "--max-tokens", "0")[0] == 2
    assert call(capsys, "run", LLAMA, "x", "--device", "tpu")[0] == 2
    assert call(capsys, "run", LLAMA, "x", "--prompt-file", tmp_path / "absent.txt")[0] == 2
    assert call(capsys, "run", LLAMA, "--prompt-file", tmp_path / "absent.txt")[0] == 3
    code, _, message = call(capsys, "run", LLAMA, "hello", "--max-tokens", 5000, "--device", "cpu")
    assert code == 6 and "1024 positions" in message and "--max-tokens 1019" in message
    bare = tmp_path / "bare"
    shutil.copytree(LLAMA, bare)
    (bare / "tokenizer.json").unlink()
    code, _, message = call(capsys, "run", bare, "hello", "--device", "cpu")
    assert code == 6 and "--tokenizer" in message and message.count("\n") == 1


def small_context(folder, positions):
    """The small Llama with fewer positions."""
    shutil.copytree(LLAMA, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {
        "max_position_embeddings": positions, "rope_scaling": None}))
    return folder


def test_the_default_length_stops_where_the_positions_end(capsys, tmp_path):
    folder = small_context(tmp_path / "small", 16)
    code, out, _ = call(capsys, "run", folder, "hello", "--device", "cpu", "--json")
    report = json.loads(out)
    assert code == 0 and report["finish_reason"] == "length"
    assert report["prompt_tokens"] + report["tokens"] == 16


def test_a_prompt_longer_than_the_positions_is_named_as_the_cause(capsys, tmp_path):
    folder = small_context(tmp_path / "small", 16)
    for more in ([], ["--max-tokens", 1]):
        code, _, message = call(capsys, "run", folder, "q" * 50, "--device", "cpu", *more)
        assert code == 6 and "the prompt alone has 50 tokens" in message
        assert "--max-tokens" not in message


def test_a_post_processor_puts_its_tokens_around_the_prompt_alone(capsys, tmp_path):
    folder = tmp_path / "bos"
    shutil.copytree(LLAMA, folder)
    spec = json.loads((folder / "tokenizer.json").read_text())
    eos = "<|endoftext|>"
    spec["post_processor"] = {
        "type": "TemplateProcessing", "pair": [],
        "single": [{"SpecialToken": {"id": eos, "type_id": 0}}, {"Sequence": {"id": "A",
                                                                            "type_id": 0}}],
        "special_tokens": {eos: {"id": eos, "ids": [0], "tokens": [eos]}}}
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    args = ("hello", "--max-tokens", 8, "--device", "cpu", "--json")
    with_it, without = (json.loads(call(capsys, "run", model, *args)[1])
                        for model in (folder, LLAMA))
    assert with_it["prompt_tokens"] == without["prompt_tokens"] + 1
    assert with_it["token_ids"] != without["token_ids"]
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ours = load_tokenizer(folder)
    assert ours.encode_prompt("hello") == library.encode("hello").ids
    assert ours.encode_batch(["hello"]) == [ours.encode("hello")] == [
        library.encode("hello").ids[1:]]


def test_a_prompt_that_is_no_text_is_a_usage_error(capsys, tmp_path):
    def refused(*args, word, **options):
        command = [sys.executable, "-m", "aprnb", "run", LLAMA, "--device", "cpu", *args]
        result = subprocess.run(command, capture_output=True, **options)
        message = result.stderr.decode()
        assert result.returncode == 2 and word in message, message
        assert message.startswith("error: ") and message.count("\n") == 1

    refused(b"caf\xe9", word="not UTF-8: byte 0xe9 at position 3")
    refused("--prompt-file", "-", word="not UTF-8: byte 0xe9", input=b"caf\xe9")
    refused("--prompt-file", "-", word="standard input is closed",
            preexec_fn=lambda: os.close(0))
    (tmp_path / "empty").write_bytes(b"")
    for args in ([""], ["--prompt-file", tmp_path / "empty"]):
        code, _, message = call(capsys, "run", LLAMA, *args)
        assert code == 2 and "the prompt is empty" in message


def test_help_of_every_verb_has_examples_and_exit_codes(capsys):
    for verb in VERBS:
        code, out, _ = call(capsys, verb, "--help")
        assert code == 0, verb
        assert "Exit codes" in out, verb
        assert out.count(f"aprnb {verb}") >= 2, verb


def test_help_answers_in_under_300_ms():
    """The best of five: a busy machine must not fail what the imports do not cost."""
    def seconds():
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-m", "aprnb", "--help"], check=True, capture_output=True)
        return time.perf_counter() - begin
    assert min(seconds() for _ in range(5)) < 0.3


def test_unknown_verbs_and_flags_are_usage_errors(capsys):
    for args, words in ((["trian"], ("trian", "`aprnb --help`")),
                        (["run", LLAMA, "x", "--fast"], ("--fast", "`aprnb run --help`")),
                        (["run", LLAMA, "x", "--precision", "fp8"], ("fp8", "bf16")),
                        (["run"], ("MODEL",)), (["tokenize", "train"], ("--corpus",)),
                        (["run", LLAMA], ("PROMPT",))):  # the last is found by us, not by click
        code, out, message = call(capsys, *args)
        assert code == 2 and out == "", message
        assert message.startswith("error: ") and message.count("\n") == 1, message
        assert all(word in message for word in words), message


def test_no_verb_is_answered_with_the_help(capsys):
    code, _, message = call(capsys)
    assert code == 2 and "Commands:" in message


def test_a_reader_that_has_enough_ends_the_verb_quietly():
    for arguments in (["--help"], ["inspect", LLAMA], ["run", "--help"]):
        reading, writing = os.pipe()
        os.close(reading)
        result = subprocess.run([sys.executable, "-m", "aprnb", *arguments], stdout=writing,
                                stderr=subprocess.PIPE, text=True)
        os.close(writing)
        assert (result.returncode, result.stderr) == (141, "")


def test_output_that_cannot_be_written_is_exit_7():
    with open("/dev/full", "w") as full:
        result = subprocess.run([sys.executable, "-m", "aprnb", "inspect", LLAMA], stdout=full,
                                stderr=subprocess.PIPE, text=True)
    assert result.returncode == 7
    assert result.stderr.startswith("error: No space left") and result.stderr.count("\n") == 1


def test_an_unexpected_error_is_one_line(capsys, monkeypatch):
    import aprnb.cli.run as verb
    monkeypatch.setattr(verb, "read_prompt", lambda *_: 1 / 0)
    code, _, message = call(capsys, "run", LLAMA, "x")
    assert code == 1 and message.startswith("error: unexpected ZeroDivisionError")
    assert message.count("\n") == 1


def test_ctrl_c_is_exit_130(capsys, monkeypatch):
    import aprnb.cli.run as verb

    def interrupted(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(verb, "read_prompt", interrupted)
    assert call(capsys, "run", LLAMA, "x")[0] == 130
