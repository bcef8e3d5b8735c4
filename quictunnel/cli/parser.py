"""The argument parser, built from the table in ``grammar``, and its error."""

from __future__ import annotations

import argparse
import difflib
import textwrap
from typing import TYPE_CHECKING, Final, NoReturn

from quictunnel.cli import grammar
from quictunnel.errors import ConfigError, InvalidError
from quictunnel.origin.wait_option import MAX_WAIT, wait_seconds
from quictunnel.shared.address import MAX_PORT, shown
from quictunnel.shared.paths import expanded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from quictunnel.cli.grammar import Argument, Command, Option

WIDTH: Final = 100
"""Columns of a help text."""


class UsageError(Exception):
    """Error of a command line that cannot be parsed. ``hint`` has the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class _Parser(argparse.ArgumentParser):
    """Argument parser that raises UsageError, where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"`{self.prog} --help` lists the arguments and options.")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help formatter with space for the longest command name, so that each summary is on its command's line."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=WIDTH)


def build() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    parser = _Parser(
        prog="quictunnel",
        description=textwrap.fill(grammar.DESCRIPTION, WIDTH),
        epilog=grammar.EPILOG,
        formatter_class=_Help,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", grammar.HELP.flag, action="help", help=grammar.HELP.summary)
    parser.add_argument(grammar.VERSION.flag, action="store_true", help=grammar.VERSION.summary)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands", parser_class=_Parser)
    for command in grammar.COMMANDS:
        _add_command(commands, command)
    return parser


def split_program(argv: list[str]) -> tuple[list[str], list[str]]:
    """Split the arguments into those of quictunnel and the program after ``--``.

    Raises:
        UsageError: the command needs a program and has none.
    """
    arguments, _, _ = _cut(argv)
    command = next((each for each in grammar.COMMANDS if arguments and each.name == arguments[0]), None)
    if command is None or not command.runs_program:
        return argv, []
    arguments, has_program, program = _cut(argv)
    is_help = "-h" in arguments or grammar.HELP.flag in arguments
    if not program and not is_help:
        raise UsageError(
            f"no program to {command.name}" if has_program else "the program must follow after --",
            f"Write the program after --, as in `quictunnel {command.name} -- python -m http.server 8000`.",
        )
    return arguments, program


def _cut(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return argv, False, []
    index = argv.index("--")
    return argv[:index], True, argv[index + 1 :]


def check_command(argv: list[str]) -> None:
    """Raise UsageError for an unknown command, with a suggestion, which argparse does not make."""
    name = next((argument for argument in argv if not argument.startswith("-")), None)
    names = [command.name for command in grammar.COMMANDS]
    if name is None or name in names:
        return
    near = difflib.get_close_matches(name, names, n=1)
    raise UsageError(
        f"unknown command {shown(name)}",
        f"Did you mean `quictunnel {near[0]}`?" if near else f"The commands are {', '.join(names)}.",
    )


def _add_command(commands: argparse._SubParsersAction[_Parser], command: Command) -> None:
    epilog = "\n".join(part for part in (command.examples, grammar.EXPLAINED.get(command.name)) if part)
    parser = commands.add_parser(
        command.name,
        help=command.summary,
        description=textwrap.fill(command.description, WIDTH),
        usage=f"quictunnel {command.name} [options] -- PROGRAM [ARGUMENT ...]" if command.runs_program else None,
        epilog=epilog,
        formatter_class=_Help,
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("-h", grammar.HELP.flag, action="help", help=grammar.HELP.summary)
    for argument in command.arguments:
        _add_argument(parser, argument)
    for option in command.options:
        _add_option(parser, option)


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    if argument is grammar.PORT:
        parser.add_argument("port", metavar=argument.name, type=_port, help=argument.summary)
    elif argument is grammar.LOCAL_PORT:
        parser.add_argument("port", metavar=argument.name, type=_port, nargs="?", help=argument.summary)
    else:
        parser.add_argument(
            argument.name.lower(), metavar=argument.name, choices=argument.choices, help=argument.summary
        )


def _add_option(parser: argparse.ArgumentParser, option: Option) -> None:
    if not option.metavar:
        parser.add_argument(option.flag, action="store_true", help=option.summary)
        return
    summary = option.summary
    if option.choices:
        summary += f": {', '.join(option.choices)}"
        summary += f" (default: {option.default})" if option.default else ""
    parser.add_argument(
        option.flag,
        metavar=option.metavar,
        type=_type(option),
        choices=option.choices or None,
        default=option.default,
        help=summary,
    )


def _type(option: Option) -> Callable[[str], object]:
    if option.is_file:
        return _path
    if option.is_port:
        return _port
    return _seconds if option.is_seconds else str


def _path(text: str) -> Path:
    try:
        return expanded(text, shown(text))  # a shell does not expand the ~ of --ca=~/ca.pem
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        return wait_seconds(float(text))
    except (ValueError, InvalidError):
        raise argparse.ArgumentTypeError(
            f"should be a number of seconds up to {MAX_WAIT:.0f}, not {shown(text)}"
        ) from None


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= MAX_PORT:
        raise argparse.ArgumentTypeError(f"should be a port from 1 to {MAX_PORT}, not {shown(text)}")
    return int(text)
