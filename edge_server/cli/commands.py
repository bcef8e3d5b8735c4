"""Commands of ``quictunnel-edge``, by their first word. Without one an edge is started."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from edge_server.cli.common import EXIT_CONFIG
from edge_server.config.program_name import error_name, usage_name
from quictunnel.errors import ConfigError
from quictunnel.shared.command_line import LazyGroup, run, usage_hint

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "token": ("edge_server.cli.token", "create, list, show and revoke tokens"),
    "name": ("edge_server.cli.name", "list the owners of names and ports, withdraw and ban them"),
    "admin": ("edge_server.cli.admin", "print a link to the operator's page"),
    "health": ("edge_server.cli.health", "check that the edge is ready"),
    "backup": ("edge_server.cli.backup", "write the state of the edge into one file"),
}
"""Module and summary of each command."""


def main(words: Sequence[str]) -> int:
    """Run the command that the first word names. Return its exit status."""
    group = LazyGroup("edge_server", COMMANDS)
    try:
        return run(group, words, usage_name())
    except click.UsageError as error:
        message, hint = error.format_message(), f"\n  {usage_hint(error)}"
    except ConfigError as error:
        message, hint = str(error), ""
    print(f"{error_name()} {words[0]}: error: {message}{hint}", file=sys.stderr)
    return EXIT_CONFIG
