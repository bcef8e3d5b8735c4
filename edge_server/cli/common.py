"""Shared parts of the operator's commands (``quictunnel-edge token``, ``name``)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from edge_server.config.option_table import PREFIX
from quictunnel.errors import ConfigError
from quictunnel.shared.command_line import FilePath, combine_options
from quictunnel.shared.output import escape_unprintable
from quictunnel.shared.paths import default_state_dir

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EXIT_UNKNOWN: Final = 1
"""Exit status when the named object does not exist."""
EXIT_CONFIG: Final = 2
"""Exit status when the arguments are wrong or the state directory cannot be used."""


def _usual_state_dir() -> Path:
    try:
        return default_state_dir()
    except ConfigError as error:
        raise ConfigError(f"{error} Or set the directory for the edge's keys with --state-dir.") from None


STATE_DIR: Final = click.option(
    "--state-dir",
    type=FilePath(file_okay=False),
    metavar="DIR",
    envvar=PREFIX + "STATE_DIR",
    show_envvar=True,
    default=_usual_state_dir,
    show_default="the user's state directory, on Linux ~/.local/state/quictunnel",
    help="the edge's state directory",
)
QUERY: Final = combine_options(STATE_DIR, click.option("-j", "--json", "as_json", is_flag=True, help="print JSON"))
"""Options of the commands that print something of the state."""


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows in aligned columns; the first row is the header."""
    rows = [[escape_unprintable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def format_time(seconds: int) -> str:
    """Return seconds since the epoch as text for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
