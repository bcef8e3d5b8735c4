"""``forward()``: one object that works under ``with`` and ``async with``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NoReturn

from quictunnel.client import Client, TunnelHandle
from quictunnel.connection.options import ForwardOptions
from quictunnel.connection.ticket_file import TicketFile
from quictunnel.errors import InvalidError
from quictunnel.inspect.factory import open_inspector
from quictunnel.origin.wait_option import wait_seconds
from quictunnel.shared.address import parse_address
from quictunnel.shared.event_loop import in_thread
from quictunnel.tunnel import Tunnel

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from quictunnel.inspect.inspector import Inspector
    from quictunnel.inspect.request_queue import RequestSummary


TUNNEL_ATTRIBUTES: Final = frozenset({"close", *(name for name in dir(Tunnel) if not name.startswith("_"))})
"""Names that a program uses of a tunnel, and that ``forward()`` without ``with`` does not have."""


class NotOpenError(InvalidError, AttributeError):
    """Error of a program that uses ``forward()`` as if it were the tunnel. ``hasattr`` takes it for an
    AttributeError."""


class forward:  # noqa: N801 - a function to its users; a class so that it is both kinds of context manager
    """Expose a local port to the public while the ``with`` body runs.

    ::

        with quictunnel.forward(8000) as tunnel:
            print(tunnel.url)
            app.run(port=8000)

    The tunnel's own work runs on a background thread. So the body may block, and ``with`` and ``async with`` work
    in plain scripts, threads and running event loops. When the body ends, for whatever reason, the public port is
    closed at once; active visitors get a few seconds to finish.

    Args:
        port: the local service, dialled for each visitor: a TCP port of this machine (127.0.0.1 and ::1), or a
            text with another address. ``"web:8000"`` is a port of another machine or container,
            ``"http://localhost:3000"`` the same as 3000, ``"https://localhost:8443"`` a service with TLS and
            ``"unix:/run/app.sock"`` a Unix socket.
        unencrypted: also expose the port over plain TCP, on a separate public port.
        h2_enabled: offer HTTP/2 to TLS visitors; the local service must then speak HTTP/2 without TLS.
        name: the label below the edge's domain for the public name, such as ``"my-app"``. It is reserved for the
            token that used it first, also while no client uses it. A newer client of that token takes it from an
            older one.
        domain: your own domain as the public name instead, such as ``"app.example.com"``. Its DNS has to point to
            the edge, and the token has to allow it. The edge gets a certificate for it; until then, a minute or
            so, visitors are refused.
        tcp_port: the public TCP port, with ``unencrypted``. It is reserved for a token as a name is.
        pool: share the name with other clients of the same token that set ``pool`` too. The edge gives a visitor
            to the client with the fewest visitors, and tries another if that one does not answer or its local
            service refuses.
        tls: where visitors' TLS is terminated: ``"edge"``, or ``"passthrough"`` for the local service, which needs
            a certificate for the public name. With passthrough the edge reads only the server name of a visitor's
            ClientHello.
        proxy_protocol: ``"v1"`` or ``"v2"``: send the visitor's address to the local service, in a header of the
            PROXY protocol before the visitor's first byte. The service has to expect one.
        allow: networks in CIDR notation from which visitors are accepted; empty: all.
        deny: networks from which visitors are refused, even if ``allow`` contains them.
        ticket: a file for the ticket of this tunnel. A program that is started again with it gets the same public
            name and port. Written when the tunnel opens; protect it like a private key.
        wait: seconds to wait until the local port accepts connections, before the tunnel is opened; True: up to
            60. The port is probed by connections that are closed at once.
        inspect: open a page on this machine that shows HTTP/1 requests and responses, WebSocket messages, and
            other protocols as bytes, at ``tunnel.inspector_url``. Needs the extra ``inspect``.
        inspect_address: ``host:port`` of that page; port 0: any free port. None: loopback, the first free port
            from 4040.
        on_request: called with a :class:`RequestSummary` for each finished request of HTTP/1, and for each
            connection of another protocol. It runs on the client's background thread and must return at once;
            a ``quictunnel.RequestQueue()`` collects the summaries for another thread.
        verify_origin: False: accept any certificate of an ``https://`` service, such as a self-signed one.
            Otherwise it has to be valid for the host in the URL.
        origin_ca: PEM file with the authorities that may have signed that certificate; None: the system's.
        client: the connection to use; None means ``Client.from_env()``, shared by the whole process.

    Yields a :class:`Tunnel`. Raises InvalidError (arguments, a port that is forwarded already), ConfigError
    (no edge is configured, a file that is not a ticket, an inspector that cannot start), AuthError (the edge
    refused the token), EdgeUnavailableError (no edge within 10 seconds) or OriginUnavailableError (nobody listened
    within ``wait``). Cancelling ``async with`` while it opens, or Ctrl-C, releases everything.
    """

    def __init__(
        self,
        port: int | str,
        *,
        unencrypted: bool = False,
        h2_enabled: bool = False,
        name: str | None = None,
        domain: str | None = None,
        tcp_port: int | None = None,
        pool: bool = False,
        tls: str = "edge",
        proxy_protocol: str | None = None,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        ticket: str | os.PathLike[str] | None = None,
        wait: float | bool = False,
        inspect: bool = False,
        inspect_address: str | None = None,
        on_request: Callable[[RequestSummary], object] | None = None,
        verify_origin: bool = True,
        origin_ca: str | os.PathLike[str] | None = None,
        client: Client | None = None,
    ) -> None:
        self._options = ForwardOptions(
            port=port,
            unencrypted=unencrypted,
            h2=h2_enabled,
            name=name,
            domain=domain,
            tcp_port=tcp_port,
            pool=pool,
            tls=tls,
            proxy_protocol=proxy_protocol,
            allow=allow,
            deny=deny,
            verify_origin=verify_origin,
            origin_ca=origin_ca,
        )
        self._ticket = None if ticket is None else TicketFile(ticket)
        self._wait = wait_seconds(wait)
        self._inspects = inspect
        self._inspect_address = _inspect_address(inspect_address)
        if inspect_address is not None and not inspect:
            raise InvalidError("inspect_address is the address of the inspector: give inspect=True as well.")
        self._inspector: Inspector | None = None
        self._on_request = on_request
        self._client = client
        self._handle: TunnelHandle | None = None

    def _create_handle(self) -> TunnelHandle:
        if self._handle is not None:
            raise InvalidError("This forward() is in use already; call forward() again for another tunnel.")
        client = self._client or Client.from_env()
        if self._inspects:
            self._inspector = open_inspector(self._inspect_address, self._options.target)
        self._handle = TunnelHandle(
            client,
            self._options,
            self._ticket,
            wait=self._wait,
            inspector=self._inspector,
            on_request=self._on_request,
        )
        return self._handle

    def _release_handle(self) -> tuple[TunnelHandle | None, Callable[[], None] | None]:
        """Return the tunnel's handle and the function that closes its inspector, each if there is one; keep
        neither."""
        inspector, self._inspector = self._inspector, None
        handle, self._handle = self._handle, None
        return handle, None if inspector is None else inspector.close

    def __repr__(self) -> str:
        state = "not open: use it with `with`, or quictunnel.open()" if self._handle is None else "in use"
        return f"<forward({self._options.port!r}), {state}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name not in TUNNEL_ATTRIBUTES:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        raise NotOpenError(
            f"forward() does not open a tunnel by itself, so it has no {name}. Use it in a with statement (with "
            "quictunnel.forward(...) as tunnel: print(tunnel.url)), or open a tunnel without one (tunnel = "
            "quictunnel.open(...); tunnel.close() closes it)."
        )

    def __enter__(self) -> Tunnel:
        handle = self._create_handle()
        try:
            return handle.open()
        except BaseException:
            _, close_inspector = self._release_handle()
            if close_inspector is not None:
                close_inspector()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle, close_inspector = self._release_handle()
        try:
            if handle is not None:
                handle.close()
        finally:
            if close_inspector is not None:
                close_inspector()

    async def __aenter__(self) -> Tunnel:
        handle = self._create_handle()
        try:
            return await handle.open_async()
        except BaseException:
            _, close_inspector = self._release_handle()
            if close_inspector is not None:
                await in_thread(close_inspector)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        handle, close_inspector = self._release_handle()
        try:
            if handle is not None:
                await handle.close_async()
        finally:
            if close_inspector is not None:
                await in_thread(close_inspector)  # continues in its thread when this is cancelled


def _inspect_address(text: str | None) -> tuple[str, int] | None:
    """Parse the inspector's address. Raises ConfigError."""
    return None if text is None else parse_address(text, what="inspect_address", any_port=True)
