"""Shared parts of the commands beside the edge (``python -m edge_server token``, ``name``)."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from edge_server.config.option_table import PREFIX
from quictunnel.errors import ConfigError
from quictunnel.shared.output import visible
from quictunnel.shared.paths import default_state_dir, expanded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

EXIT_UNKNOWN: Final = 1
"""Exit status when the named object does not exist."""
EXIT_CONFIG: Final = 2
"""Exit status when the state directory cannot be used."""


def build_parser(
    name: str, description: str
) -> tuple[argparse.ArgumentParser, Callable[[str, str], argparse.ArgumentParser]]:
    """Return the parser of ``python -m edge_server NAME``, and a function that adds a command by name and help
    text."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_state_dir(common)
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(
        prog=f"python -m edge_server {name}", description=description, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(command: str, what: str) -> argparse.ArgumentParser:
        return commands.add_parser(command, parents=[common], help=what, description=what, allow_abbrev=False)

    return parser, add


def add_state_dir(parser: argparse.ArgumentParser, environ: Mapping[str, str] = os.environ) -> None:
    """Add ``--state-dir``, by default that of an edge started in the same environment without it."""
    try:
        given = environ.get(PREFIX + "STATE_DIR")
        usual = expanded(given, PREFIX + "STATE_DIR") if given else default_state_dir()
    except ConfigError:  # a user without a home directory has to set it
        parser.add_argument(
            "--state-dir", metavar="DIR", type=_path, required=True, help="the edge's state directory"
        )
    else:
        parser.add_argument(
            "--state-dir",
            metavar="DIR",
            type=_path,
            default=usual,
            help="the edge's state directory (default: %(default)s)",
        )


def _path(text: str) -> Path:
    try:
        return expanded(text, text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns; the first row is the header."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def format_time(seconds: int) -> str:
    """Return seconds since the epoch as text for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
