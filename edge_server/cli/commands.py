"""Commands of ``quictunnel-edge``, by their first word. Without one an edge is started."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click

from edge_server.cli.common import EXIT_CONFIG
from edge_server.config.program_name import error_name, usage_name
from quictunnel.errors import ConfigError
from quictunnel.shared.command_line import (
    LazyGroup,
    error_event,
    error_kind,
    error_text,
    is_json_requested,
    run,
    usage_hint,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

COMMANDS: Final = {
    "token": ("edge_server.cli.token", "create, list, show, change and revoke tokens"),
    "name": ("edge_server.cli.name", "list the owners of names and ports, release and ban them"),
    "admin": ("edge_server.cli.admin", "print a link to the operator's page"),
    "health": ("edge_server.cli.health", "check that the edge is ready"),
    "backup": ("edge_server.cli.backup", "write the state of the edge into one file"),
    "help": ("edge_server.cli.help_commands", "show the help of the edge or of a command"),
    "version": ("edge_server.cli.help_commands", "show the version"),
}
"""Module and summary of each command."""


def main(words: Sequence[str]) -> int:
    """Run the command that the first word names. Return its exit status."""
    group = LazyGroup("edge_server", COMMANDS)
    try:
        return run(group, words, usage_name())
    except click.UsageError as error:
        message, hint, kind = error.format_message(), usage_hint(error), error_kind(error)
    except ConfigError as error:
        message, hint, kind = str(error), "", error_kind(error)
    message = error_text(message, words)
    if is_json_requested(words):
        print(error_event(kind, message, hint, EXIT_CONFIG), flush=True)
    begin = f"{error_name()} {words[0]}" if words[0] in COMMANDS else error_name()
    print(f"{begin}: error: {message}" + (f"\n  {hint}" if hint else ""), file=sys.stderr)
    return EXIT_CONFIG
