"""What a usage error says was meant: like names, and names from other tools."""
import click
import pytest

from aprnb.cli import VERBS, group, usage_message
from aprnb.cli.hints import OPTIONS, WITHOUT
from aprnb.cli.hints import VERBS as ELSEWHERE


def said(line):
    """The message with which the command line is refused."""
    with pytest.raises(click.UsageError) as caught, group.make_context(
            "aprnb", line.split()) as context:
        group.invoke(context)
    return usage_message(caught.value)


@pytest.mark.parametrize("line, meant", [
    ("trian", "pretrain"), ("train", "pretrain"), ("Evaluate", "eval"),
    ("finetune", "pretrain --init"), ("tokenize encode", "encode-corpus"),
    ("tokenize import-token", "import-tokens"), ("encode-corpus", "tokenize encode-corpus")])
def test_a_verb_that_was_meant_is_named(line, meant):
    assert f"No such command '{line.split()[-1]}', did you mean {meant}; see `aprnb" in said(line)


@pytest.mark.parametrize("line, meant", [
    ("pretrain --learning-rate 1", "--lr"), ("pretrain --seq_length 3", "--seq-length"),
    ("pretrain --numsteps 1", "--num-steps"), ("pretrain --LR 1", "--lr"),
    ("pretrain --max-length 1", "--seq-length"), ("run m --max-length 1", "--max-tokens"),
    ("pretrain --output-dir r", "--run-dir"), ("import m --out-dir r", "--output"),
    ("eval m --per-device-eval-batch-size 1", "--batch-size"),
    ("tokenize encode-corpus --text-field t", "--content-field")])
def test_an_option_that_was_meant_is_named(line, meant):
    assert f", did you mean {meant}; see `aprnb " in said(line)


@pytest.mark.parametrize("line, words", [
    ("run m p --temperature 1", "the most likely token each time"),
    ("run m -p x", "is an argument"),
    ("pretrain --lora", "there are no adapters"), ("pretrain --optim x", "AdamW")])
def test_what_nothing_here_does_is_said(line, words):
    assert words in said(line)


@pytest.mark.parametrize("line", ["pretrain --zzz", "zzz", "eval m --temperature 1"])
def test_nothing_is_made_up(line):
    assert "did you mean" not in said(line) and "--help`" in said(line)


def test_every_name_that_is_offered_is_there():
    """And none that is listed as a name from elsewhere is one of ours in every verb."""
    def verbs_of(command, path=()):
        if not isinstance(command, click.Group):
            return {path: command}
        context = click.Context(command)
        return {p: c for name in command.list_commands(context)
                for p, c in verbs_of(command.get_command(context, name), (*path, name)).items()}
    verbs = verbs_of(group)
    options = {text for verb in verbs.values() for each in verb.params for text in each.opts}
    assert {name for names in OPTIONS.values() for name in names} <= options
    assert {name for _, names in WITHOUT for name in names}.isdisjoint(options)
    first = {" ".join(path[:2]) for path in verbs} | set(VERBS)
    for words in ELSEWHERE.values():
        for part in words.replace(" and ", ", ").replace("or ", "").split(", "):
            assert part.split(" --")[0] in first
