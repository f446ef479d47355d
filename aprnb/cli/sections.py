"""Long help in sections: options that belong together stand together."""
import click


class SectionedCommand(click.Command):
    """A command whose help lists each `Flag` under its section."""

    def format_options(self, ctx, formatter):
        sections = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                title = getattr(parameter, "section", None) or "Help"
                sections.setdefault(title, []).append(record)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl(rows)


class Flag(click.Option):
    """An option with the title of its section."""

    def __init__(self, *names, section=None, **settings):
        self.section = section
        super().__init__(*names, **settings)


def section(title, *rows):
    """A decorator that adds flags; each row is (names, help, settings of click.option)."""
    def add(command):
        for names, text, settings in reversed(rows):
            names = names.split()
            command = click.option(*names, cls=Flag, section=title, help=text, **settings)(command)
        return command
    return add
