"""The command line of an edge, made from the table of options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from edge_server.config.option_table import PREFIX
from edge_server.config.program_name import usage_name
from quictunnel.errors import ConfigError
from quictunnel.shared.command_line import SETTINGS, Command, error_text
from quictunnel.shared.output import escape_unprintable
from quictunnel.shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge_server.config.option_table import Option

HELP: Final = (
    "The public server of quictunnel. Without options it runs a development edge on loopback: it creates its own "
    "certificate authority and a token, and prints the settings for a client."
)
EPILOG: Final = """\
A public edge, with *.tunnel.example.com pointing to it:
  {program} --domain tunnel.example.com --quic 0.0.0.0:4433 \\
      --https 0.0.0.0:443 --cert fullchain.pem --key privkey.pem

Commands for the operator, each with --help:
  token      create, list, show, change and revoke tokens
  name       list the owners of names and ports, release and ban them
  admin      print a link to the operator's page
  health     check that the edge is ready
  backup     write the state of the edge into one file
  help       show the help of the edge or of a command
  version    show the version

Signals:
  SIGTERM    drain: active visitors may finish; a second SIGTERM ends at once
  SIGHUP     reload the configuration
  SIGUSR2    start the same command again with --takeover: for a new version, or
             options that SIGHUP cannot change, without downtime
"""
_OTHERS: Final = "sources of the options, and help"


def parse_arguments(options: Sequence[Option], argv: Sequence[str]) -> dict[str, Any]:
    """Return the values on a command line, by field; also those of ``config`` and ``check_config``.

    Raises:
        ConfigError: an option does not exist, or has no value.
        SystemExit: after ``--help`` and ``--version``.
    """
    settings: dict[str, Any] = dict(SETTINGS)
    try:
        with edge_command(options).make_context(usage_name(), list(argv), **settings) as context:
            return {name: value for name, value in context.params.items() if value is not None}
    except click.UsageError as error:
        message = escape_unprintable(error_text(error.format_message(), argv).removesuffix("."))
        raise ConfigError(f"{message}; `{usage_name()} --help` lists the options.") from None
    except click.exceptions.Exit as end:
        raise SystemExit(end.exit_code) from None


def edge_command(options: Sequence[Option]) -> click.Command:
    """Return the command, with an option for each row of the table."""
    params: list[click.Parameter] = []
    for option in options:
        default = f" (default: {option.default})" if option.default and option.kind.metavar else ""
        metavar = "|".join(option.kind.choices) or option.kind.metavar
        kind: dict[str, Any] = {"metavar": metavar} if metavar else {"is_flag": True, "flag_value": "true"}
        params.append(click.Option([option.flag], help=option.summary + default, **kind))
    file_help = (
        f"TOML file with the same names; variables such as {PREFIX}DOMAIN have precedence over it, and the "
        "command line over both"
    )
    check_help = (
        "check the configuration and the certificates, print the problems or the effective settings, and exit; "
        "opens no port"
    )
    params.append(click.Option(["--config"], metavar="FILE", help=file_help))
    params.append(click.Option(["--check-config"], is_flag=True, default=None, help=check_help))
    command = _EdgeCommand({option.field: option.group for option in options}, params)
    version = click.version_option(
        VERSION, "-V", "--version", message="quictunnel %(version)s", help="print the version and exit"
    )
    return version(command)


class _EdgeCommand(Command):
    """A command whose help groups the options under the headings of the table."""

    def __init__(self, headings: dict[str, str], params: list[click.Parameter]) -> None:
        program = usage_name()
        super().__init__(program, params=params, help=HELP, epilog=EPILOG.format(program=program))
        self._headings = headings

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            heading = self._headings.get(param.name or "", _OTHERS)
            if record := param.get_help_record(ctx):
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
