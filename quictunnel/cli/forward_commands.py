"""``quictunnel http`` and ``quictunnel tcp``: expose a local port until Ctrl-C."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click

from quictunnel.cli.common_options import DOMAIN, EDGE_LOOKUP, ORIGIN, TUNNEL, forward_arguments, port, target
from quictunnel.cli.output_options import choose_reporter, take_output_options
from quictunnel.cli.tunnel_runner import Inbox, Interrupts, TunnelRequest, new_client, serve
from quictunnel.config.client_config import load as load_config
from quictunnel.shared.command_line import Command

if TYPE_CHECKING:
    from pathlib import Path

PORT: Final = click.argument(
    "port",
    type=target,
    help="the local service: a port, host:port, an http:// or https:// URL, or unix:PATH",
)


@click.command(
    cls=Command,
    help="Expose a local port at a public https:// address until Ctrl-C. The edge terminates TLS and forwards the "
    "bytes unchanged, so WebSockets, server-sent events and uploads of any size work.",
    epilog=f"""\
Examples:
  quictunnel http 8000                    a web app on port 8000
  quictunnel http localhost:3000          the same as 3000; http://localhost:3000 as well
  quictunnel http web:8000                port 8000 of another machine or container
  quictunnel http unix:/run/app.sock      a Unix socket
  quictunnel http https://localhost:8443 --insecure-origin     a service with its own certificate
  quictunnel http 50051 --h2              gRPC, or another server with HTTP/2 without TLS
  quictunnel http 8000 --name my-app      the same public address each time
  quictunnel http 8000 --domain app.example.com     your own domain
  quictunnel http 8000 --wait 60          a server that is still starting
  quictunnel http 8000 --inspect          with a page that shows the requests
  quictunnel http 8000 --json             for programs: the first line has the address
{EDGE_LOOKUP}""",
)
@PORT
@click.option(
    "--h2",
    "h2_enabled",
    is_flag=True,
    help="offer HTTP/2 to visitors; the local service must support it without TLS",
)
@click.option(
    "--passthrough",
    "tls",
    flag_value="passthrough",
    help="forward TLS to the local service, which must have a certificate for the public name",
)
@DOMAIN
@ORIGIN
@TUNNEL
def http(**options: Any) -> int:
    """Run ``quictunnel http`` and return its exit status."""
    return open_tunnel(**options)


@click.command(
    cls=Command,
    help="Expose a local port at a public TCP port, and at an https:// address as well, until Ctrl-C. The TCP "
    "connection between visitor and edge is not encrypted: use it for protocols with their own encryption, such "
    "as SSH.",
    epilog=f"""\
Examples:
  quictunnel tcp 22       then, from anywhere:  ssh -p TCP_PORT user@TCP_HOST
  quictunnel tcp 5432     a database, for a client that uses TLS itself
{EDGE_LOOKUP}""",
)
@PORT
@click.option("--tcp-port", type=port, help="the public TCP port to request")
@ORIGIN
@TUNNEL
def tcp(**options: Any) -> int:
    """Run ``quictunnel tcp`` and return its exit status."""
    return open_tunnel(unencrypted=True, **options)


def open_tunnel(
    port: int | str,
    edge: str | None,
    ca: Path | None,
    token_file: Path | None,
    profile: str | None,
    **options: Any,
) -> int:
    """Open a tunnel, serve until a signal arrives, and return the exit status. ``options``: arguments of
    ``forward()``, and those of the output."""
    output = take_output_options(options)
    config = load_config(edge=edge, ca=ca, token_file=token_file, profile=profile)
    inbox = Inbox()
    interrupts = Interrupts(inbox)
    with interrupts.installed():
        client = new_client(config)
        return serve(
            client,
            TunnelRequest(port, forward_arguments(options)),
            reporter=choose_reporter(client, output),
            output=output,
            inbox=inbox,
            interrupts=interrupts,
        )
