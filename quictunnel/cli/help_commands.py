"""``quictunnel help`` and ``quictunnel version``: what ``--help`` and ``--version`` print."""

from __future__ import annotations

import os

import click

from quictunnel.config.variables import ENGINE, ENGINES
from quictunnel.errors import ConfigError
from quictunnel.shared.address import short_repr
from quictunnel.shared.command_line import Command, show_help
from quictunnel.shared.version import VERSION
from quictunnel.transport.engines import installed_engine


def version_line() -> str:
    """Return the version of the package, with the engine in use.

    Raises:
        ConfigError: QUICTUNNEL_ENGINE names no engine.
    """
    engine = os.environ.get(ENGINE) or "auto"
    if engine not in ENGINES:
        raise ConfigError(f"{ENGINE} should be one of {', '.join(ENGINES)}, not {short_repr(engine)}.")
    return f"quictunnel {VERSION}, engine {installed_engine(engine)}"


@click.command(
    "help",
    cls=Command,
    help="Show the help of quictunnel, or of one of its commands.",
    epilog="""\
Examples:
  quictunnel help         the help of quictunnel
  quictunnel help http    the help of a command, as `quictunnel http --help` does
""",
)
@click.argument("command", nargs=-1, metavar="[COMMAND]", help="name of the command")
@click.pass_context
def help(context: click.Context, command: tuple[str, ...]) -> int:  # noqa: A001 - the name of the command
    """Run ``quictunnel help``."""
    return show_help(context, command)


@click.command(
    cls=Command,
    help="Show the version, and the QUIC engine in use.",
    epilog="""\
Examples:
  quictunnel version    as `quictunnel --version` does
""",
)
def version() -> None:
    """Run ``quictunnel version``."""
    print(version_line())
