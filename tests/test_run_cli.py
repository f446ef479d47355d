"""aprnb run and aprnb itself: what a user types first."""
import io
import json
import os
import re
import shutil
import sys

import numpy as np
import processes
import pytest
from shared import DATA, shared
from tokenizers import Tokenizer

from aprnb.backend import open_backend
from aprnb.cli import VERBS, main
from aprnb.config import ModelConfig
from aprnb.data.tokenizer import load_tokenizer
from aprnb.errors import LoadError
from aprnb.formats.model_file import open_model
from aprnb.generate.greedy import continue_greedy
from aprnb.generate.speak import stop_ids
from aprnb.model.instance import Model

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


def test_text_mode_says_how_fast_and_why_no_more_beside_the_text(capsys):
    code, out, err = call(capsys, "run", LLAMA, "x", "--max-tokens", 3, "--device", "cpu")
    assert code == 0 and out.startswith("x")
    whole = r"3 tokens at [\d,.]+ tokens/s behind a prompt of \d+; --max-tokens reached"
    assert re.fullmatch(rf"({whole}|\d tokens?.*; the text has ended); cpu, fp32: .*\n", err), err


def test_trained_model_continues_as_pytorch_does(capsys):
    folder = shared("data", "qwen2-py-10m")
    greedy = np.load(folder / "reference.npz")["greedy"][0]
    code, out, _ = call(capsys, "run", folder, "def fib(n):\n    ", "--max-tokens", 64,
                        "--device", "cpu", "--json")
    assert code == 0 and json.loads(out)["token_ids"] == greedy[-64:].tolist()


def greedy_of_pytorch():
    """(prompt ids, the 64 that follow) of "def fib(n):" and four spaces, kept beside the model."""
    with np.load(DATA / "parity" / "llama-f16" / "reference.npz") as reference:
        ids = reference["greedy"][0].tolist()
    return ids[:12], ids[12:]


@pytest.fixture(scope="module")
def llama():
    with open_model(LLAMA) as source:
        return Model.from_file(source, open_backend("cpu", "fp32"), trainable=False)


def test_an_untied_llama_continues_as_pytorch_does(capsys, record_property):
    """76 positions in all: the buffer of 64 is outgrown on the way."""
    prompt, want = greedy_of_pytorch()
    code, out, _ = call(capsys, "run", LLAMA, "def fib(n):\n    ", "--max-tokens", 64, "--device",
                        "cpu", "--json")
    report = json.loads(out)
    equal = sum(a == b for a, b in zip(report["token_ids"], want))
    record_property("equal_tokens", int(equal))
    assert code == 0 and report["prompt_tokens"] == len(prompt)
    assert report["token_ids"] == want and report["finish_reason"] == "length"
    assert report["text"] == load_tokenizer(LLAMA).decode(want)


@pytest.mark.parametrize("asked", [1, 2, 5, 52, 53])
def test_a_shorter_continuation_is_the_beginning_of_a_longer_one(asked, llama):
    prompt, want = greedy_of_pytorch()
    assert continue_greedy(llama, prompt, asked).tokens == want[:asked]


def test_a_token_that_ends_a_text_ends_the_continuation_and_is_not_returned(llama):
    prompt, want = greedy_of_pytorch()
    assert want[:6] == [5, 5, 5, 5, 62, 161]
    for ends, length in (((62,), 4), ((9, 161), 5), ((161, 9), 5), ((5,), 0)):
        got = continue_greedy(llama, prompt, 64, stop_ids=ends)
        assert (got.tokens, got.finish_reason) == (want[:length], "stop")
    got = continue_greedy(llama, [*prompt, 62], 3, stop_ids=(62,))  # in the prompt it ends nothing
    assert len(got.tokens) == 3


def test_all_ids_that_end_a_text_are_heeded(capsys, tmp_path):
    shutil.copytree(LLAMA, tmp_path / "m", ignore=shutil.ignore_patterns("generation*"))
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"eos_token_id": [0, 62]}))
    _, out, _ = call(capsys, "run", tmp_path / "m", "def fib(n):\n    ", "--device", "cpu",
                     "--json")
    assert json.loads(out)["token_ids"] == [5, 5, 5, 5]
    with open_model(tmp_path / "m") as source:
        tokenizer = load_tokenizer(LLAMA)
        assert stop_ids(source.config, tokenizer) == (0, 62)
        assert stop_ids(source.config.with_(eos_token_id=7), tokenizer) == (7,)
        assert stop_ids(source.config.with_(eos_token_id=None), tokenizer) == (0,)


def test_of_equal_logits_the_lowest_id_is_taken():
    config = ModelConfig("llama", 8, 1, 2, 1, 4, 8, 11, 16, 1e4, 1e-5, True)
    model = Model.random(config, open_backend("cpu", "fp32"), seed=0, trainable=False)
    model.weights["model.embed_tokens.weight"][...] = 0
    assert continue_greedy(model, [3, 4], 3).tokens == [0, 0, 0]
    model.weights["model.embed_tokens.weight"][[4, 9]] = 1  # both ahead of the rest, and equal
    assert continue_greedy(model, [4], 2).tokens == [4, 4]


def test_every_position_may_be_used_and_none_beyond(llama):
    assert len(continue_greedy(llama, [7] * 1020, 4).tokens) == 4
    with pytest.raises(LoadError, match="--max-tokens 4 or fewer"):
        continue_greedy(llama, [7] * 1020, 5)


def test_prompt_from_a_file_and_from_stdin(capsys, tmp_path, monkeypatch):
    (tmp_path / "prompt.txt").write_text("hello")
    args = (LLAMA, "--max-tokens", 4, "--device", "cpu")

    def said(*more):  # the line on stderr has the time in it
        code, out, _ = call(capsys, "run", *args, *more)
        return code, out
    from_file = said("--prompt-file", tmp_path / "prompt.txt")
    assert from_file == said("hello") and from_file[1].startswith("hello") and from_file[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello")))
    assert from_file == said("--prompt-file", "-")


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
        result = processes.run(command, text=False, **options)
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


def test_help_costs_no_more_than_the_command_line_library():
    """Modules, not seconds: what `--help` imports beside click is a handful of ours."""
    def modules(program):
        script = f"{program}\nimport sys\nprint(*sys.modules, sep='\\n', file=sys.stderr)"
        done = processes.run([sys.executable, "-c", script])
        assert done.returncode == 0, done.stderr
        return set(done.stderr.splitlines())
    ours = modules("import aprnb.cli\ntry:\n    aprnb.cli.main(['--help'])\n"
                   "except SystemExit:\n    pass")
    more = {name.partition(".")[0] for name in ours - modules("import click")}
    assert more - set(sys.stdlib_module_names) <= {"aprnb", "click"}
    assert len([name for name in ours if name.startswith("aprnb.")]) < 10


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
        result = processes.run([sys.executable, "-m", "aprnb", *arguments], stdout=writing)
        os.close(writing)
        assert (result.returncode, result.stderr) == (141, "")


def test_output_that_cannot_be_written_is_exit_7():
    with open("/dev/full", "w") as full:
        result = processes.run([sys.executable, "-m", "aprnb", "inspect", LLAMA], stdout=full)
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
