"""A tunnel with a test at both of its ends, and a check of the state that is left afterwards.

There are two implementations: one in this process, where sessions and tasks can be inspected, and one with edge
and client in processes of their own, whose sockets are counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
from typing import TYPE_CHECKING, Any, Self

import quictunnel
from quictunnel.shared import event_loop
from tests.harness.edge_process import embedded_edge, start_edge
from tests.harness.sockets import SOCKET_TIMEOUT, ClientProcess, End, TcpEnd, TlsEnd, sockets_of, verifying
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TunnelFixture:
    """Base: an origin's listener, and connections to it through the tunnel."""

    tunnel: quictunnel.Tunnel
    ca: Path

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.listener.settimeout(SOCKET_TIMEOUT)
        self.origin_port = self.listener.getsockname()[1]
        self._ends: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_ends()
        self.stack.close()

    def visitor(self, kind: str) -> End:
        """Connect a visitor over ``tcp`` or ``tls``."""
        if kind == "tcp":
            end: End = TcpEnd(socket.create_connection(self.tunnel.tcp_socket, SOCKET_TIMEOUT))
        else:
            raw = socket.create_connection(("127.0.0.1", self.tunnel.port), SOCKET_TIMEOUT)
            end = TlsEnd(raw, verifying(self.ca), self.tunnel.host)
        self._ends.append(end.sock)
        return end

    def accept(self) -> TcpEnd:
        """Return the origin's end of the next visitor."""
        end = TcpEnd(self.listener.accept()[0])
        self._ends.append(end.sock)
        return end

    def pair(self, kind: str) -> tuple[End, End]:
        """Return a visitor and its origin, after one byte in each direction."""
        visitor = self.visitor(kind)
        origin = self.accept()
        visitor.send(b"a")
        assert origin.receive() == b"a"
        origin.send(b"b")
        assert visitor.receive() == b"b"
        return visitor, origin

    def close_ends(self) -> None:
        """Close all connections."""
        for sock in self._ends:
            sock.close()
        self._ends.clear()

    def baseline(self) -> Any:
        """Return the state, to compare before and after."""
        raise NotImplementedError

    def check_nothing_left(self, before: Any) -> None:
        """Close all connections and wait until the state is as before."""
        self.close_ends()
        eventually(lambda: self.baseline() == before, f"left behind: {before} before, {self.baseline()} after")


class EmbeddedTunnel(TunnelFixture):
    """Edge and client in this process."""

    def __init__(self, *, admin: bool = False) -> None:
        super().__init__()
        self.edge = self.stack.enter_context(embedded_edge(admin=admin))
        self.ca = self.edge.server.ca
        self.client = self.stack.enter_context(quictunnel.Client.from_config(self.edge.client_config))
        self.forward = quictunnel.forward(self.origin_port, unencrypted=True, client=self.client)
        self.tunnel = self.stack.enter_context(self.forward)

    @property
    def edge_session(self) -> Any:
        """The edge's side of the session."""
        (client_session,) = self.edge.server.clients.sessions
        return client_session.session

    @property
    def client_session(self) -> Any:
        """The client's side of the session."""
        assert self.client._manager is not None
        assert self.client._manager._connection is not None
        return self.client._manager._connection.session

    def baseline(self) -> Any:
        gc.collect()
        threads = (self.edge._background, event_loop.shared_loop())
        sessions = (self.edge_session, self.client_session)

        async def quic_streams(session: Any) -> int:
            return session.stats().streams_open

        return {
            "visitors": (self.edge.server.visitors, self.client.snapshot().visitors_now),
            "streams": [session.stream_count for session in sessions],
            "quic streams": [
                thread.call(quic_streams(session)) for thread, session in zip(threads, sessions, strict=True)
            ],
            "registered": [len(session.link.streams) for session in sessions],
            "pool": [session.window_pool.used for session in sessions],
            "tasks": [len(asyncio.all_tasks(loop)) for loop in (t.loop for t in threads)],
            "sockets": sockets_of(os.getpid()),
        }


class ProcessTunnel(TunnelFixture):
    """Edge and client in processes of their own."""

    def __init__(self, directory: Path, *options: str) -> None:
        """``options``: more of the edge's."""
        super().__init__()
        self.edge = start_edge(directory / "state", "--grace", "0", *options)
        with contextlib.ExitStack() as opening:
            opening.callback(self.edge.stop)
            self.ca = self.edge.ca
            self.client = opening.enter_context(ClientProcess.start(self.edge, self.origin_port))
            self.stack.push(opening.pop_all())
        self.tunnel = self.client.tunnel

    def baseline(self) -> Any:
        return {"edge": sockets_of(self.edge.pid), "client": sockets_of(self.client.pid)}


@contextlib.contextmanager
def no_leftovers(rig: TunnelFixture) -> Iterator[None]:
    """Check that the state after a ``with`` block is as before."""
    before = rig.baseline()
    try:
        yield
    except BaseException:
        rig.close_ends()
        raise
    rig.check_nothing_left(before)
