"""A tunnel with a test at both of its ends, and a look at what is left behind when the ends are gone.

Two stages with one face: everything in this process, where sessions and tasks can be looked into, and edge
and client in processes of their own, where only the kernel is asked.
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
from tests.harness.sockets import PATIENCE, ClientProcess, End, TcpEnd, TlsEnd, sockets_of, verifying
from tests.harness.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Stage:
    """Base: an origin's listener, and connections through the tunnel to it."""

    tunnel: quictunnel.Tunnel
    ca: Path

    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.listener = self.stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=512))
        self.listener.settimeout(PATIENCE)
        self.origin_port = self.listener.getsockname()[1]
        self._ends: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_ends()
        self.stack.close()

    def visitor(self, kind: str) -> End:
        """A visitor over ``tcp`` or ``tls``."""
        if kind == "tcp":
            end: End = TcpEnd(socket.create_connection(self.tunnel.tcp_socket, PATIENCE))
        else:
            raw = socket.create_connection(("127.0.0.1", self.tunnel.port), PATIENCE)
            end = TlsEnd(raw, verifying(self.ca), self.tunnel.host)
        self._ends.append(end.sock)
        return end

    def accept(self) -> TcpEnd:
        """The origin's end of the next visitor."""
        end = TcpEnd(self.listener.accept()[0])
        self._ends.append(end.sock)
        return end

    def pair(self, kind: str) -> tuple[End, End]:
        """A visitor and its origin, with one byte exchanged each way."""
        visitor = self.visitor(kind)
        origin = self.accept()
        visitor.send(b"a")
        assert origin.receive() == b"a"
        origin.send(b"b")
        assert visitor.receive() == b"b"
        return visitor, origin

    def close_ends(self) -> None:
        for sock in self._ends:
            sock.close()
        self._ends.clear()

    def baseline(self) -> Any:
        """Return counts of everything that exists while there is no visitor."""
        raise NotImplementedError

    def check_nothing_left(self, before: Any) -> None:
        """Wait until everything of the visitors is gone."""
        self.close_ends()
        eventually(lambda: self.baseline() == before, f"left behind: {before} before, {self.baseline()} after")


class EmbeddedStage(Stage):
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
        (guest,) = self.edge.server._guests
        return guest.session

    @property
    def client_session(self) -> Any:
        assert self.client._manager is not None
        assert self.client._manager._connection is not None
        return self.client._manager._connection.session

    def baseline(self) -> Any:
        gc.collect()
        threads = (self.edge._background, event_loop.shared())
        sessions = (self.edge_session, self.client_session)

        async def quic_streams(session: Any) -> int:
            return session.stats().streams_open

        return {
            "visitors": (self.edge.server.visitors, self.client.snapshot().visitors_now),
            "streams": [session.streams for session in sessions],
            "quic streams": [
                thread.call(quic_streams(session)) for thread, session in zip(threads, sessions, strict=True)
            ],
            "registered": [len(session.link.streams) for session in sessions],
            "pool": [session.pool.used for session in sessions],
            "tasks": [len(asyncio.all_tasks(loop)) for loop in (t.loop for t in threads)],
            "sockets": sockets_of(os.getpid()),
        }


class ProcessStage(Stage):
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
def nothing_left(stage: Stage) -> Iterator[None]:
    """Around a conversation: afterwards the stage is as it was before."""
    before = stage.baseline()
    try:
        yield
    except BaseException:
        stage.close_ends()
        raise
    stage.check_nothing_left(before)
