"""``quictunnel demo``: an edge, an app and a tunnel in one process, and a request that verifies the certificate.

This is the only module of the client that starts an edge. Only the demo imports it.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from quictunnel.cli.common_options import LOG_LEVEL, OUTPUT
from quictunnel.cli.demo_app import sample_app
from quictunnel.cli.json_reporter import JsonReporter
from quictunnel.cli.output_options import choose_reporter, take_output_options
from quictunnel.cli.reporter import one_line
from quictunnel.cli.tunnel_runner import Inbox, Interrupts, TunnelRequest, new_client, serve
from quictunnel.errors import Error
from quictunnel.shared.command_line import Command

if TYPE_CHECKING:
    from pathlib import Path

    from quictunnel.cli.reporter import OpenedTunnel, Reporter
    from quictunnel.tunnel import Tunnel

FETCH_TIMEOUT: Final = 10.0
"""Seconds for one request over loopback, on a busy machine."""
MAX_BODY: Final = 64 * 1024
"""Bytes of the response to read; the sample page has about two thousand."""


@dataclass(frozen=True, slots=True)
class PageResponse:
    """Response to the demo's request."""

    status: int
    body: str
    seconds: float
    tls: str
    certificate_names: tuple[str, ...]


@click.command(
    cls=Command,
    help="Start an edge on loopback, a sample web app and a tunnel between them, all in this process. Request the "
    "app's public address, verify its certificate, and show the response. Then run until Ctrl-C.",
    epilog="""\
Examples:
  quictunnel demo           run the demo, then open the address in a browser
  quictunnel demo --once    exit after the request: status 0 on success, 1 on failure
""",
)
@click.option("--once", is_flag=True, help="exit after the request")
@OUTPUT
@LOG_LEVEL
def demo(*, once: bool, **options: Any) -> int:
    """Run ``quictunnel demo`` and return its exit status.

    Raises:
        Error: the request failed.
    """
    from edge_server.embedded import EmbeddedEdge  # noqa: PLC0415 - no other command has an edge

    output = take_output_options(options)
    inbox = Inbox()
    interrupts = Interrupts(inbox)
    with interrupts.installed(), EmbeddedEdge() as edge, sample_app() as port:
        config = edge.client_config
        client = new_client(config)
        reporter = choose_reporter(client, output)
        reporter.note(f"An edge runs in this process at {config.edge} (QUIC).")
        reporter.note(f"A sample app listens on http://127.0.0.1:{port}.")

        def when_open(opened: OpenedTunnel) -> bool:
            show(fetch(opened.tunnel, config.ca), opened.tunnel, reporter)
            return not once

        return serve(
            client,
            TunnelRequest(port),
            reporter=reporter,
            inbox=inbox,
            interrupts=interrupts,
            output=output,
            when_open=when_open,
        )


def show(page: PageResponse, tunnel: Tunnel, reporter: Reporter) -> None:
    """Show the page.

    Raises:
        Error: its status is not 200.
    """
    if isinstance(reporter, JsonReporter):
        reporter.emit("fetched", url=tunnel.url, status=page.status, body=page.body, verified=True, tls=page.tls)
    else:
        names = ", ".join(page.certificate_names)
        summary = f"{page.status} in {page.seconds * 1000:.0f} ms, {page.tls}, certificate verified for {names}"
        body = [f"  | {one_line(line)}" for line in page.body.splitlines()]
        for line in ("", f"Fetched {tunnel.url}", f"  {summary}", "", *body, ""):
            reporter.note(line)
    if page.status != http.client.OK:
        raise Error(f"fetching {tunnel.url} gave status {page.status}")


def fetch(tunnel: Tunnel, ca: Path | None) -> PageResponse:
    """Request the tunnel's page as a visitor does: at its public address, with the certificate verified.

    Raises:
        Error: there is no response, or it is malformed.
    """
    try:
        return _fetch(tunnel, ca)
    except (OSError, http.client.HTTPException) as error:
        why = one_line(str(error) or type(error).__name__)
        raise Error(f"fetching {tunnel.url} failed: {why}") from None


def _fetch(tunnel: Tunnel, ca: Path | None) -> PageResponse:
    context = ssl.create_default_context(cafile=ca)
    begun = time.monotonic()
    # RFC 6761 section 6.3: names under localhost are loopback. Browsers implement this, glibc does not.
    is_local = tunnel.host.rpartition(".")[2] == "localhost"
    address = ("127.0.0.1" if is_local else tunnel.host, tunnel.port)
    with (
        socket.create_connection(address, timeout=FETCH_TIMEOUT) as plain,
        context.wrap_socket(plain, server_hostname=tunnel.host) as secure,
    ):
        connection = http.client.HTTPConnection(tunnel.host, tunnel.port)
        connection.sock = secure
        connection.request("GET", "/", headers={"User-Agent": "quictunnel-demo", "Connection": "close"})
        with connection.getresponse() as response:
            body = response.read(MAX_BODY).decode("utf-8", "replace")
            names = (secure.getpeercert() or {}).get("subjectAltName", ())
            return PageResponse(
                status=response.status,
                body=body,
                seconds=time.monotonic() - begun,
                tls=secure.version() or "TLS",
                certificate_names=tuple(str(name[1]) for name in names),
            )
