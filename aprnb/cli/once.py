"""An option that takes one value is given once; a second value is refused, never half dropped.

click keeps the last value and forgets the others without a word, so a dataset that was named is not
trained on. Equal values are refused too: whoever writes a value twice meant something by it. A flag
without a value may be repeated, since nothing of it can be lost, and an option that takes many
values (`multiple=True`) uses all of them.
"""
from functools import partial

import click


def once(command):
    """Make a verb, and every verb below it, refuse an option given twice; returns the verb."""
    command.make_parser = partial(_parser, command)
    for below in getattr(command, "commands", {}).values():
        once(below)
    return command


def _parser(command, context):
    """The parser of a verb, whose options each take their value once; it serves one command
    line."""
    parser = type(command).make_parser(command, context)
    options = (*parser._long_opt.values(), *parser._short_opt.values())
    for option in {id(option): option for option in options}.values():
        if option.action == "store":
            option.process = _guarded(option, context)
    return parser


def _guarded(option, context):
    """`process(value, state)` of an option that refuses its second call."""
    store, values = option.process, []

    def process(value, state):
        values.append(value)
        if len(values) > 1:
            name = max(option.obj.opts, key=len)
            first, second = (repr(v) if isinstance(v, str) else "no value" for v in values)
            raise click.UsageError(f"{name} given twice: {first} and {second}; give it "
                                   "once, with the value that is meant", context)
        store(value, state)
    return process
