"""The argument parser, made from the table in ``grammar``, and the one error that it raises."""

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
"""Columns of the prose in a help text."""


class UsageError(Exception):
    """The command line cannot be understood. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class _Parser(argparse.ArgumentParser):
    """argparse prints its usage and exits; here errors are values, so that all of them end in one line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, f"`{self.prog} --help` shows what it takes.")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Room for the longest command name, so that each summary stands beside its command."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=WIDTH)


def build() -> argparse.ArgumentParser:
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
    """What is ours, and the program after ``--``. Raises UsageError where the command and that do not agree."""
    ours, _, _ = _cut(argv)
    command = next((each for each in grammar.COMMANDS if ours and each.name == ours[0]), None)
    if command is None or not command.runs_program:
        return argv, []
    ours, has_program, program = _cut(argv)
    is_help = "-h" in ours or grammar.HELP.flag in ours
    if not program and not is_help:
        raise UsageError(
            f"no command to {command.name}" if has_program else "the command has to stand after --",
            f"Write it after --, as in `quictunnel {command.name} -- python -m http.server 8000`.",
        )
    return ours, program


def _cut(argv: list[str]) -> tuple[list[str], bool, list[str]]:
    if "--" not in argv:
        return argv, False, []
    place = argv.index("--")
    return argv[:place], True, argv[place + 1 :]


def check_command(argv: list[str]) -> None:
    """Refuse an unknown command with a suggestion, which argparse would not make."""
    word = next((argument for argument in argv if not argument.startswith("-")), None)
    names = [command.name for command in grammar.COMMANDS]
    if word is None or word in names:
        return
    near = difflib.get_close_matches(word, names, n=1)
    raise UsageError(
        f"unknown command {shown(word)}",
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
        return expanded(text, shown(text))  # a shell leaves the ~ of --ca=~/ca.pem as it is
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
