"""Public TCP ports without sockets: the kernel's listening sockets, their handles, and who accepts from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from edge_server.tunnels.tunnel import Tunnel

PORTS: Final = range(20_000, 20_064)
"""More than one token of an episode can need: its share of what is left is never used up."""


class ListeningPorts:
    """The listening sockets of the machine on which all edges of an episode run."""

    def __init__(self) -> None:
        self.handles: list[ListeningSocket] = []

    def try_listen(self, host: str, port: int) -> ListeningSocket | None:
        """Return a new socket, or None if the port is taken (``edge_server.ingress.tcp_ports.try_listen``)."""
        if any(handle.port == port for handle in self.handles):
            return None
        return ListeningSocket(self, port)

    def accepting(self, port: int) -> list[AcceptingServer]:
        """Return the servers to which a connection to this port may go."""
        servers = [handle.server for handle in self.handles if handle.port == port]
        return [server for server in servers if server is not None]

    def taken(self) -> set[int]:
        """Return the ports on which somebody listens."""
        return {handle.port for handle in self.handles}


class ListeningSocket:
    """Handle of a listening socket: a ``socket.socket`` as far as the edge uses it."""

    def __init__(self, ports: ListeningPorts, port: int) -> None:
        self._ports = ports
        self.port = port
        self.server: AcceptingServer | None = None
        """The server that accepts from this handle."""
        ports.handles.append(self)

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    def fileno(self) -> int:
        """Return the number of no descriptor: there is nothing that a child process could inherit."""
        return -1

    def dup(self) -> ListeningSocket:
        return ListeningSocket(self._ports, self.port)

    def listen(self, backlog: int) -> None: ...

    def close(self) -> None:
        self.server = None
        if self in self._ports.handles:
            self._ports.handles.remove(self)


class AcceptingServer:
    """An ``asyncio.Server`` on one handle."""

    def __init__(self, factory: Callable[[], asyncio.BaseProtocol], sock: ListeningSocket) -> None:
        self.factory = factory
        self._sock = sock

    @property
    def tunnel(self) -> Tunnel:
        """Return the tunnel whose port that is."""
        bound: Any = self.factory
        tunnel: Tunnel = bound.__self__
        return tunnel

    def is_serving(self) -> bool:
        return self._sock.server is self

    async def start_serving(self) -> None:
        self._sock.server = self

    def close(self) -> None:
        self._sock.close()
