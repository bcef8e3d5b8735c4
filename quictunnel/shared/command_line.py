"""Parts of the command lines of client and edge, on click: help pages, commands imported when chosen, errors."""

from __future__ import annotations

import contextlib
import json
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import click

from quictunnel.errors import MIN_SECRET, ConfigError, Error, redact
from quictunnel.shared.address import short_repr
from quictunnel.shared.help_pages import HelpContext, HelpFormatter
from quictunnel.shared.lazy_imports import import_module
from quictunnel.shared.paths import expand_home

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeVar

    Decorated = TypeVar("Decorated")

SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
"""Settings of a command."""

_JSON_FLAGS: Final = re.compile("-[ijqV]*j[ijqV]*")
"""``-j``, perhaps together with other short options that have no value."""
MIN_REST: Final = 8
"""Characters from which an argument after a secret counts as its rest: less of a secret gives nothing away."""
_REST: Final = re.compile(rf"(?!--)[\w.-]{{{MIN_REST},}}|[\w.-]{{{MIN_SECRET},}}", re.ASCII)
"""An argument that may be the rest of the credential before it, and is no option."""
MAX_UNLIKENESS: Final = 0.1
"""Difference of similarity, from 0 to 1, by which a suggestion may be worse than the best one."""
MAX_SUMMARY: Final = 200
"""Characters of a command's summary in a list: more than the longest has."""


class Command(click.Command):
    """Command whose epilog is printed as written, so that examples keep their lines."""

    context_class = HelpContext

    def __init__(self, name: str | None, **attributes: Any) -> None:
        """Create the command. ``attributes``: arguments of ``click.Command``."""
        super().__init__(name, context_settings=dict(SETTINGS), **attributes)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the arguments. Every error of usage names its context, which click forgets for some."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise click.NoSuchOption(
                error.option_name, error.message, closest(error.option_name, error.possibilities or ()), ctx
            ) from None
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
        """Write the epilog. Only lines that are too long for the terminal are wrapped."""
        if self.epilog:
            assert isinstance(formatter, HelpFormatter), "made by a HelpContext"
            formatter.write("\n")
            formatter.write_lines(self.epilog.removesuffix("\n"))


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


def closest(word: str, candidates: Sequence[str]) -> list[str]:
    """Return those of the candidates that are about as similar to a word as the most similar one."""
    import difflib  # noqa: PLC0415 - only mistakes need it

    likeness = {each: difflib.SequenceMatcher(None, word, each).ratio() for each in candidates}
    best = max(likeness.values(), default=0.0)
    return [each for each, ratio in likeness.items() if ratio > best - MAX_UNLIKENESS]


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


def show_help(context: click.Context, words: Sequence[str]) -> int:
    """Print the help of the command that ``words`` name, or of the program. Return the exit status.

    Raises:
        click.UsageError: there is no such command, or a word follows the command.
    """
    root = context.find_root()
    assert isinstance(root.command, click.Group), "only a group has commands"
    with contextlib.ExitStack() as parents:
        parent, rest = root, list(words)
        while rest and isinstance(parent.command, click.Group):
            name, command, rest = parent.command.resolve_command(parent, rest)
            assert command is not None, "an unknown one is an error, unless the parsing is resilient"
            parent = parents.enter_context(click.Context(command, parent, name))
        if rest:
            many = "s" if len(rest) > 1 else ""
            raise click.UsageError(f"Got unexpected extra argument{many} ({' '.join(rest)})", context)
    return run(root.command, [*words, "--help"], str(root.info_name))


def is_json_requested(words: Sequence[str]) -> bool:
    """Return True if a command line has ``--json`` or ``-j`` before ``--``.

    The words may be wrong otherwise, so they cannot be parsed.
    """
    end = words.index("--") if "--" in words else len(words)
    return any(word == "--json" or _JSON_FLAGS.fullmatch(word) for word in words[:end])


def error_text(message: str, words: Sequence[str]) -> str:
    """Return the message of an error without the secrets of the command line that led to it.

    The rest of a credential that a line break took apart is an argument of its own. It can be recognised only by
    the argument before it.

    Args:
        message: the message.
        words: the arguments of the program.
    """
    is_rest = False
    for before, word in pairwise(words):
        is_rest = (is_rest or "qt1" in before.lower()) and _REST.fullmatch(word) is not None
        if is_rest:  # the message may have been cut within the word
            shown = rf"(?<![\w.-]){re.escape(word[:MIN_SECRET])}[\w.-]*"
            message = re.sub(shown, "...", message, flags=re.ASCII)
    return redact(message)


def error_event(kind: str, message: str, hint: str, exit_status: int) -> str:
    """Return an error as a JSON object on one line, for a program that has asked for JSON."""
    return json.dumps(
        {
            "event": "error",
            "kind": kind,
            "message": redact(message),
            "hint": redact(hint),
            "exit_status": exit_status,
        }
    )


def error_kind(error: Exception) -> str:
    """Return the kind of an error for :func:`error_event`: ``edge_unavailable`` for EdgeUnavailableError."""
    if isinstance(error, click.UsageError):
        return "usage"
    public = (kind.__name__ for kind in type(error).__mro__ if kind.__module__ == Error.__module__)
    name = next(public, type(error).__name__).removesuffix("Error")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() or "other"


def usage_hint(error: click.UsageError) -> str:
    """Return the sentence that follows an error of usage."""
    assert error.ctx is not None, "errors of a Command have their context"
    return f"`{error.ctx.command_path} --help` lists the arguments and options."
