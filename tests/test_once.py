"""An option given twice is refused with both values, by every verb; flags and lists may repeat."""
import click
import pytest
from runs import aprnb_here, refused

from aprnb.cli import VERBS, group


def verbs(command=None, path=()):
    """(path, command) of every verb that does something, found through the front door."""
    if command is None:
        context = click.Context(group)
        for name in VERBS:
            yield from verbs(group.get_command(context, name), (name,))
    elif isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from verbs(below, (*path, name))
    else:
        yield path, command


def valued():
    """(path, longest name, a value) of every option that takes one value."""
    for path, command in verbs():
        for option in command.params:
            if isinstance(option, click.Option) and not (
                    option.is_flag or option.multiple or option.count):
                yield path, max(option.opts, key=len)


OPTIONS = list(valued())


def test_every_option_that_takes_one_value_is_refused_the_second_time():
    assert len(OPTIONS) > 100 and ("pretrain",) in dict(OPTIONS)
    for path, name in OPTIONS:
        result = aprnb_here(*path, name, "one", f"{name}=two")
        refused(result, 2, f"{name} given twice: 'one' and 'two'", "--help")


@pytest.mark.parametrize("first, second", [("--output", "-o"), ("-o", "--output"), ("-o", "-o")])
def test_short_and_long_name_are_one_option_and_equal_values_are_two(first, second):
    refused(aprnb_here("import", "x", first, "a", second, "a"), 2,
            "--output given twice: 'a' and 'a'")


def test_a_flag_may_be_repeated_and_a_list_uses_every_value(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"{name} text to count the pairs of, and more of it")
    result = aprnb_here("tokenize", "train", "--corpus", tmp_path / "a.txt", "--corpus",
                        tmp_path / "b.txt", "--vocab-size", 260, "--output", tmp_path / "tok",
                        "--json", "--json")
    assert result.returncode == 0, result.stderr


def test_two_command_lines_in_one_process_do_not_count_together():
    for _ in range(2):
        refused(aprnb_here("eval", "absent.apr", "--dataset", "d", "--seq-length", 4), 3, "absent")


def test_an_option_whose_value_may_be_left_out_is_given_once_too():
    refused(aprnb_here("pretrain", "--run-dir", "x", "--resume", "--resume", "auto"), 2,
            "--resume given twice: no value and 'auto'")
    refused(aprnb_here("pretrain", "--run-dir", "x", "--resume", ""), 2, "--resume ''", "auto")
