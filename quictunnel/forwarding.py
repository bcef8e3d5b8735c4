"""``forward()``: one object that works under ``with`` and ``async with``, wherever it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.client import Binding, Client
from quictunnel.connection.options import ForwardOptions
from quictunnel.connection.ticket_file import TicketFile
from quictunnel.errors import InvalidError
from quictunnel.inspect.factory import open_inspector
from quictunnel.origin.wait_option import wait_seconds
from quictunnel.shared.address import parse_address
from quictunnel.shared.event_loop import in_thread

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from quictunnel.inspect.inspector import Inspector
    from quictunnel.tunnel import Tunnel


class forward:  # noqa: N801 - a function to its users; a class so that it is both kinds of context manager
    """Expose a local port to the public while the ``with`` body runs.

    ::

        with quictunnel.forward(8000) as tunnel:
            print(tunnel.url)
            app.run(port=8000)

    The tunnel's own work runs on a background thread, so the body may block, and it works the same under
    ``with`` and ``async with``, in plain scripts, threads and running loops. When the body ends in any way,
    the public port is closed at once; visitors in flight get a few seconds to finish.

    Args:
        port: the local TCP port, dialled on 127.0.0.1 and ::1 for each visitor.
        unencrypted: also expose the port over plain TCP, on a public port number of its own.
        h2_enabled: offer HTTP/2 to TLS visitors; the local service must then speak HTTP/2 without TLS.
        name: the label below the edge's domain that the tunnel is to have, such as ``"my-app"``. It belongs to
            whoever has the same token, also while nobody uses it; a newer client takes it from an older one.
        domain: a whole domain of yours that it is to have instead, such as ``"app.example.com"``, once its DNS
            points to the edge and the token allows it. The edge gets a certificate for it; until that is here, a
            minute or so, visitors are refused.
        tcp_port: the public TCP port that it is to have, with ``unencrypted``. It belongs to somebody as a name
            does.
        pool: share the name with other clients of the same token that ask for the same. Visitors go to the one
            that has the fewest, and past those that do not answer or whose local service refuses.
        tls: where visitors' TLS ends: at the ``"edge"``, or ``"passthrough"``: at the local service, which has a
            certificate for the public name. The edge then reads nothing but the name that a visitor asks for.
        proxy_protocol: ``"v1"`` or ``"v2"``: tell the local service who its visitor is, in a header of the PROXY
            protocol before the visitor's first byte. It has to expect one.
        allow: networks in CIDR notation from which visitors may come; empty: from everywhere.
        deny: networks from which they may not, also when ``allow`` has them.
        ticket: a file that keeps the ticket of this tunnel: a program that is started again with it gets the same
            public name and port. Written when the tunnel opens; keep it as you keep a key.
        wait: seconds to wait for somebody to listen on the local port before the tunnel is opened; True: up to
            60. It is found out by connections that are closed at once, so that nobody comes before the service.
        inspect: open a page on this machine that shows HTTP/1 requests and responses as they pass, WebSockets, and
            other protocols as bytes: ``tunnel.inspector_url``. Needs the extra ``inspect``.
        inspect_address: ``host:port`` of that page; port 0 for any. None: loopback, any port.
        client: the connection to use; None means ``Client.from_env()``, shared by the whole process.

    Yields a :class:`Tunnel`. Raises InvalidError (arguments, a port that is forwarded already), ConfigError
    (no edge is configured, a file that is no ticket, no inspector to be had), AuthError (the edge refused the
    token), EdgeUnavailableError (no edge within 10 seconds) or OriginUnavailableError (nobody listened within
    ``wait``). Cancelling ``async with`` while it opens, or Ctrl-C, gives everything back.
    """

    def __init__(
        self,
        port: int,
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
        client: Client | None = None,
    ) -> None:
        self._wish = ForwardOptions(
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
        )
        self._ticket = None if ticket is None else TicketFile(ticket)
        self._wait = wait_seconds(wait)
        self._inspect = _inspect_address(inspect_address) if inspect else None
        if inspect_address is not None and not inspect:
            raise InvalidError("inspect_address is that of the inspector: give inspect=True as well.")
        self._inspector: Inspector | None = None
        self._client = client
        self._binding: Binding | None = None

    def _bind(self) -> Binding:
        if self._binding is not None:
            raise InvalidError("This forward() is in use already; call forward() again for another tunnel.")
        client = self._client or Client.from_env()
        if self._inspect is not None:
            self._inspector = open_inspector(self._inspect, self._wish.port)
        self._binding = Binding(client, self._wish, self._ticket, wait=self._wait, inspector=self._inspector)
        return self._binding

    def _let_go(self) -> tuple[Binding | None, Callable[[], None] | None]:
        """Forget the tunnel: what was open, and what closes its inspector, if there is one, in a moment."""
        inspector, self._inspector = self._inspector, None
        binding, self._binding = self._binding, None
        return binding, None if inspector is None else inspector.close

    def __enter__(self) -> Tunnel:
        binding = self._bind()
        try:
            return binding.open()
        except BaseException:
            _, close_inspector = self._let_go()
            if close_inspector is not None:
                close_inspector()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        binding, close_inspector = self._let_go()
        try:
            if binding is not None:
                binding.close()
        finally:
            if close_inspector is not None:
                close_inspector()

    async def __aenter__(self) -> Tunnel:
        binding = self._bind()
        try:
            return await binding.open_async()
        except BaseException:
            _, close_inspector = self._let_go()
            if close_inspector is not None:
                await in_thread(close_inspector)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        binding, close_inspector = self._let_go()
        try:
            if binding is not None:
                await binding.close_async()
        finally:
            if close_inspector is not None:
                await in_thread(close_inspector)  # goes on by itself when this is cancelled


def _inspect_address(text: str | None) -> tuple[str, int]:
    """Raises ConfigError."""
    return ("127.0.0.1", 0) if text is None else parse_address(text, what="inspect_address", any_port=True)
