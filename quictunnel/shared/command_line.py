"""Parts of the command lines of client and edge, on click: help pages, commands imported when chosen, errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from quictunnel.errors import ConfigError
from quictunnel.shared.address import short_repr
from quictunnel.shared.lazy_imports import import_module
from quictunnel.shared.paths import expand_home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeVar

    Decorated = TypeVar("Decorated")

SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 102}
"""Settings of a command. The lines of a help page have at most 100 columns, and fewer on a narrow terminal."""

MAX_SUMMARY: Final = 200
"""Characters of a command's summary in a list: more than the longest has."""


class Command(click.Command):
    """Command whose epilog is printed as written, so that examples keep their lines."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        """Create the command. ``attributes``: arguments of ``click.Command``."""
        super().__init__(name, context_settings=dict(SETTINGS), **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Every error of usage names its context, which click forgets for some."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return the option ``--help`` with a text in the style of the others."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.help = "show this help and exit"
        return option

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the summary, or the first sentence of the help, which may take several lines."""
        return super().get_short_help_str(max(limit, MAX_SUMMARY))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Write the epilog without wrapping its lines."""
        if self.epilog:
            formatter.write(f"\n{self.epilog}")


class Group(Command, click.Group):
    """Group that lists its commands in the order of their definition."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands."""
        return list(self.commands)


class LazyGroup(Group):
    """Group whose commands are imported only when one is chosen, and not for a list of all."""

    def __init__(self, name: str, modules: Mapping[str, tuple[str, str]], **attributes: Any) -> None:
        """Create the group.

        Args:
            name: name of the program.
            modules: for each command's name the module that has the command under this name, and a summary.
            attributes: arguments of ``click.Group``.
        """
        commands = [click.Command(command, short_help=summary) for command, (_, summary) in modules.items()]
        super().__init__(name, commands=commands, **attributes)
        self._modules = modules

    def load(self, name: str) -> click.Command:
        """Import and return a command."""
        command = getattr(import_module(self._modules[name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the chosen command with its name and arguments."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else self.load(name), rest


class FilePath(click.Path):
    """Path, with a leading ``~`` expanded, since no shell does that for ``--ca=~/ca.pem``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path."""
        try:
            return expand_home(value, short_repr(str(value)))
        except ConfigError as error:
            self.fail(str(error), param, ctx)


def combine_options(*decorators: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    """Return a decorator that adds several options, in the order of a help page."""

    def decorate(function: Decorated) -> Decorated:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def run(group: click.Group, words: Sequence[str], program: str) -> int:
    """Run a command line and return its exit status. click's own ``main`` would catch a broken pipe and Ctrl-C.

    Args:
        group: the commands.
        words: the arguments.
        program: the program as its help names it.

    Raises:
        click.UsageError: the arguments are wrong.
    """
    try:
        with group.make_context(program, list(words)) as context:
            return int(group.invoke(context) or 0)
    except click.exceptions.Exit as end:
        return end.exit_code


def usage_hint(error: click.UsageError) -> str:
    """Return the sentence that follows an error of usage."""
    assert error.ctx is not None, "errors of a Command have their context"
    return f"`{error.ctx.command_path} --help` lists the arguments and options."
