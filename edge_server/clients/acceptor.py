"""Acceptance of clients: each new QUIC connection gets a session, until the edge drains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.clients.session import ClientSession
from quictunnel.wire.codes import SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.clients.session import SessionContext
    from quictunnel.transport.engine import Connection
    from quictunnel.transport.link import Link


class ClientAcceptor:
    """The clients that are connected, including those that have not authenticated yet."""

    def __init__(self, context: SessionContext, is_banned: Callable[[str], bool]) -> None:
        """Start without clients.

        Args:
            context: what each session needs.
            is_banned: returns True for an address from which no client is accepted.
        """
        self._context = context
        self._is_banned = is_banned
        self.sessions: set[ClientSession] = set()
        self.is_draining = False
        """True once no new client is accepted, because the edge stops or a successor took over."""

    def accept(self, connection: Connection, schedule_transmit: Callable[[], None]) -> Link:
        """Return the link of a new connection, which is closed at once if its address is banned or the edge
        drains.

        Args:
            connection: with a client, whose handshake is done.
            schedule_transmit: makes the endpoint transmit.
        """
        client = ClientSession(self._context, connection, schedule_transmit, self.sessions.discard)
        if self._is_banned(client.peer):
            client.session.close(SessionCode.BANNED)
        elif self.is_draining:
            client.session.close(SessionCode.GOING_AWAY)
        self.sessions.add(client)
        return client.session.link

    def drain(self, grace: float) -> None:
        """Accept no more clients, and send GoAway with ``grace`` seconds to those that are connected."""
        self.is_draining = True
        for client in tuple(self.sessions):
            client.go_away(grace)

    def is_in_flight(self, now: float) -> bool:
        """Return True if a drain should wait for a visitor of any client. ``now``: the loop's time."""
        return any(client.session.is_active(now) for client in self.sessions)
