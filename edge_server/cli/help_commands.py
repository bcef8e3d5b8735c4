"""``quictunnel-edge help`` and ``quictunnel-edge version``."""

from __future__ import annotations

import click

from quictunnel.shared.command_line import Command, show_help
from quictunnel.shared.version import VERSION


@click.command("help", cls=Command, help="Show the help of the edge, or of one of its commands.")
@click.argument("command", nargs=-1, metavar="[COMMAND]", help="name of the command, such as token create")
@click.pass_context
def help(context: click.Context, command: tuple[str, ...]) -> int:  # noqa: A001 - the name of the command
    """Run ``quictunnel-edge help``. The help of the edge itself ends the program with SystemExit."""
    if command:
        return show_help(context, command)
    from edge_server.config.edge_config import read  # noqa: PLC0415 - no command needs the options

    read(["--help"], {})
    return 0


@click.command(cls=Command, help="Show the version.")
def version() -> None:
    """Run ``quictunnel-edge version``."""
    print(f"quictunnel {VERSION}")
