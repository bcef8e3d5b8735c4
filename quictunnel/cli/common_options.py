"""Options that several commands have, and the types of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from quictunnel.cli.stderr_log import set_up_logging
from quictunnel.errors import InvalidError
from quictunnel.origin.target import parse_target
from quictunnel.origin.wait_option import MAX_WAIT, wait_seconds
from quictunnel.shared.address import MAX_PORT, short_repr
from quictunnel.shared.command_line import FilePath, combine_options

if TYPE_CHECKING:
    from collections.abc import Callable

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
FILE: Final = FilePath(dir_okay=False)


def port(text: str) -> int:
    """Return a port number."""
    if not text.isascii() or not text.isdigit() or len(text) > 5 or not 1 <= int(text) <= MAX_PORT:
        raise click.BadParameter(f"should be a port from 1 to {MAX_PORT}, not {short_repr(text)}.")
    return int(text)


def target(text: str) -> int | str:
    """Return the local service that a user names: a port number, or a text for ``forward()``."""
    if text.isascii() and text.isdigit():
        return port(text)
    if ":" not in text and "/" not in text:
        raise click.BadParameter(
            f"should be a port from 1 to {MAX_PORT}, host:port, an http:// or https:// URL, or unix:PATH, not "
            f"{short_repr(text)}."
        )
    try:
        parse_target(text)
    except InvalidError as error:
        raise click.BadParameter(str(error)) from None
    return text


def seconds(text: str) -> float:
    """Return a time to wait."""
    try:
        return wait_seconds(float(text))
    except (ValueError, InvalidError):
        raise click.BadParameter(
            f"should be a number of seconds up to {MAX_WAIT:.0f}, not {short_repr(text)}."
        ) from None


def networks(text: str) -> list[str]:
    """Return the networks of a list with commas."""
    return text.split(",")


def not_empty(message: str) -> Callable[[str], str]:
    """Return the type of a value that may not be empty, as that of an unset shell variable would be."""

    def value(text: str) -> str:
        if not text.strip():
            raise click.UsageError(message)
        return text

    return value


def _log_level(context: click.Context, _: click.Parameter, level: str) -> None:
    if not context.resilient_parsing:
        set_up_logging(level)


JSON: Final = click.option("-j", "--json", "as_json", is_flag=True, help="print JSON, one object a line")
OUTPUT: Final = combine_options(
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        help="no lines about visitors and requests: only addresses, warnings, and a lost connection",
    ),
    click.option(
        "--requests/--no-requests",
        default=None,
        help="show each request (default: yes; with --json and in `run`, no)",
    ),
    JSON,
)
"""Options of the output. :func:`~quictunnel.cli.output_options.take_output_options` takes their values."""
LOG_LEVEL: Final = click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    default="warning",
    show_default=True,
    expose_value=False,
    callback=_log_level,
    help="log level on stderr",
)
EDGE: Final = combine_options(
    click.option("--edge", metavar="HOST:PORT", help="the edge to use (default: QUICTUNNEL_EDGE, see below)"),
    click.option(
        "--ca", type=FILE, help="PEM file of the certificate authority that signed the edge's certificate"
    ),
    click.option("--token-file", type=FILE, help="file with the token for the edge"),
    click.option("--profile", metavar="NAME", help="the edge that `quictunnel login --profile NAME` has stored"),
)
EDGE_LOOKUP: Final = """
Choice of the edge, first match wins:
  1. --profile; or --edge, with --ca (or QUICTUNNEL_CA) and --token-file (or QUICTUNNEL_TOKEN)
  2. QUICTUNNEL_CREDENTIAL, or QUICTUNNEL_EDGE, QUICTUNNEL_CA and QUICTUNNEL_TOKEN
  3. what `quictunnel login` has stored: the profile QUICTUNNEL_PROFILE, or else "default"
  4. your config file (on Linux ~/.config/quictunnel/config.toml: edge, token, ca)
  5. an edge that you run on this machine with `quictunnel-edge`, without --state-dir
  The token is never an argument, because all users of a machine can read arguments.
"""
"""End of the help of commands that use an edge."""
ORIGIN: Final = combine_options(
    click.option(
        "--insecure-origin",
        is_flag=True,
        help="do not check the certificate of a local service with https://",
    ),
    click.option(
        "--origin-ca",
        type=FILE,
        help="PEM file of the authority that signed the certificate of a local service with https://",
    ),
)
"""Options about the certificate of a local service with TLS."""
DOMAIN: Final = click.option(
    "--domain",
    type=not_empty("The domain is empty: leave --domain out for a name below the edge's domain."),
    metavar="DOMAIN",
    help="own domain whose DNS points to the edge, such as app.example.com",
)
TUNNEL: Final = combine_options(
    click.option(
        "-n",
        "--name",
        type=not_empty("The name is empty: leave --name out for a random one."),
        metavar="NAME",
        help="public name below the edge's domain, such as my-app",
    ),
    click.option(
        "--pool",
        is_flag=True,
        help="share the name with other clients of the same token that also use --pool (load balancing)",
    ),
    click.option(
        "--allow",
        type=networks,
        metavar="NETS",
        help="serve only visitors from these networks: 203.0.113.0/24,2001:db8::/32; others find no tunnel (404)",
    ),
    click.option(
        "--deny", type=networks, metavar="NETS", help="visitors from these networks find no tunnel (404)"
    ),
    click.option(
        "--proxy-protocol",
        type=click.Choice(("v1", "v2")),
        help="send visitors' addresses to the local service by the PROXY protocol, which it must support",
    ),
    click.option(
        "--ticket",
        type=FILE,
        help="file for the tunnel's ticket: a restart with it gets the same public address",
    ),
    click.option(
        "--wait",
        type=seconds,
        help="wait up to this many seconds until the local service listens (default: 0; in `run`, 60)",
    ),
    click.option(
        "-i", "--inspect", is_flag=True, help="open a page on this machine that shows requests and responses"
    ),
    click.option(
        "--inspect-address",
        metavar="HOST:PORT",
        help="address of that page (default: loopback, first free port from 4040)",
    ),
    EDGE,
    OUTPUT,
    LOG_LEVEL,
)
"""Options of every command that opens a tunnel. Those before ``--edge`` are arguments of ``forward()``."""


def forward_arguments(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``forward()`` that a command line gives."""
    given = {name: value for name, value in options.items() if value}
    if given.pop("insecure_origin", False):
        given["verify_origin"] = False
    return given | {"inspect": True} if "inspect_address" in given else given
