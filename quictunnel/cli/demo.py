"""``quictunnel demo``: an edge, an app and a tunnel in one process, and a request that verifies the certificate.

This is the only module of the client that starts an edge. Only the demo imports it.
"""

from __future__ import annotations

import http.client
import importlib
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

from quictunnel.cli.demo_app import sample_app
from quictunnel.cli.events import JsonView
from quictunnel.cli.tunnel_runner import TunnelRequest, serve
from quictunnel.cli.views import printable

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from quictunnel.cli.door import Door, TunnelClient
    from quictunnel.cli.tunnel_runner import Inbox, Interrupts
    from quictunnel.cli.views import Opened, View
    from quictunnel.config.client_config import ClientConfig
    from quictunnel.tunnel import Tunnel

FETCH_TIMEOUT: Final = 10.0
"""Seconds for one request over loopback, on a busy machine."""
MAX_BODY: Final = 64 * 1024
"""Bytes of the response to read; the sample page has about two thousand."""


class Edge(Protocol):
    """Edge in this process."""

    @property
    def client_config(self) -> ClientConfig:
        """Configuration for clients of this edge."""


class Edges(Protocol):
    """The module with the embedded edge."""

    def EmbeddedEdge(self) -> AbstractContextManager[Edge]:  # noqa: N802  # a class there
        """Start an edge and stop it on exit."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Response to the demo's request."""

    status: int
    body: str
    seconds: float
    tls: str
    certificate_names: tuple[str, ...]


def load_edges() -> Edges:
    """Import and return the module with the embedded edge."""
    return cast("Edges", importlib.import_module("edge_server.embedded"))


def open_client(door: Door, config: ClientConfig) -> TunnelClient:
    """Create a client with a configuration."""
    return door.Client(edge=config.edge, token=config.token.reveal(), ca=config.ca)


class Demo:
    """The demo. ``failed`` has the error after :meth:`run`, or is empty."""

    def __init__(self, door: Door, edges: Edges, *, once: bool) -> None:
        self._door = door
        self._edges = edges
        self._once = once
        self.failed = ""

    def run(self, make_view: MakeView, inbox: Inbox, interrupts: Interrupts) -> None:
        """Start edge, app and tunnel, request the page, and serve until stopped."""
        with self._edges.EmbeddedEdge() as edge, sample_app() as port:
            config = edge.client_config
            client = open_client(self._door, config)
            view = make_view(client)
            view.note(f"An edge runs in this process at {config.edge} (QUIC).")
            view.note(f"A sample app listens on http://127.0.0.1:{port}.")

            def when_open(opened: Opened) -> bool:
                return self._visit(view, opened.tunnel, config.ca) and not self._once

            serve(
                self._door,
                client,
                TunnelRequest(port),
                view=view,
                inbox=inbox,
                interrupts=interrupts,
                when_open=when_open,
            )

    def _visit(self, view: View, tunnel: Tunnel, ca: Path | None) -> bool:
        """Request the page as the first visitor and show the response. Return True on success."""
        try:
            got = fetch(tunnel, ca)
        except (OSError, http.client.HTTPException) as error:
            self.failed = f"fetching {tunnel.url} failed: {printable(str(error) or type(error).__name__)}"
            return False
        if isinstance(view, JsonView):
            view.emit("fetched", url=tunnel.url, status=got.status, body=got.body, verified=True, tls=got.tls)
        else:
            view.note("")
            view.note(f"Fetched {tunnel.url}")
            names = ", ".join(got.certificate_names)
            view.note(
                f"  {got.status} in {got.seconds * 1000:.0f} ms, {got.tls}, certificate verified for {names}"
            )
            view.note("")
            for line in got.body.splitlines():
                view.note(f"  | {printable(line)}")
            view.note("")
        if got.status != http.client.OK:
            self.failed = f"fetching {tunnel.url} gave status {got.status}"
        return not self.failed


class MakeView(Protocol):
    """Factory of a view for a client."""

    def __call__(self, client: TunnelClient) -> View:
        """Return a view of a client."""


def fetch(tunnel: Tunnel, ca: Path | None) -> Fetched:
    """Request the tunnel's page as a visitor does: at its public address, with the certificate verified.

    Raises:
        OSError: the connection or the TLS handshake failed.
        http.client.HTTPException: the response is malformed.
    """
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
            return Fetched(
                status=response.status,
                body=body,
                seconds=time.monotonic() - begun,
                tls=secure.version() or "TLS",
                certificate_names=tuple(str(name[1]) for name in names),
            )
