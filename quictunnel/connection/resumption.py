"""A client's session while it has no link: the secret that identifies it to the edge, and the time that it waits.

``manager`` dials; the session itself agrees with the edge on the offsets at which its streams continue.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quictunnel.errors import ProtocolError
from quictunnel.transport.engine import LOST, CloseCause, Closed
from quictunnel.wire.codes import SessionCode

if TYPE_CHECKING:
    from quictunnel.connection.edge_connection import EdgeConnection
    from quictunnel.transport.session import Session


@dataclass(slots=True)
class ReconnectCounters:
    """Counts since the client was created."""

    resumed: int = 0
    """Sessions resumed on another link."""
    migrated: int = 0
    """Moves of the link to another socket."""
    reconnected: int = 0
    """New sessions that replaced an earlier one."""


class ResumableSession:
    """The session of a client that a new connection is to resume, if there is one, and its secret."""

    def __init__(self) -> None:
        self.session: Session | None = None
        """The session without a link."""
        self._secret = b""
        self._presented_by: EdgeConnection | None = None
        """The only connection that presents the secret now: two would take the session from each other."""
        self._was_presented = False
        """True once the secret was presented: the edge may have moved the session to another link, although its
        answer did not arrive."""
        self._hold = 0
        """Seconds for which the edge keeps the session without a link."""
        self._expiry: asyncio.TimerHandle | None = None
        self._is_overdue = False
        """True if the hold ended while a connection presented the secret: without that one the session ends."""

    def retain(self, connection: EdgeConnection, closed: Closed) -> bool:
        """Keep the session of this connection, whose link was lost, for another one. Return False if it has
        ended."""
        welcome = connection.welcome
        if welcome is None or not welcome.hold or not welcome.session:
            return False
        is_replaced = closed.cause is CloseCause.PEER and closed.code == SessionCode.REPLACED
        is_own_link = is_replaced and (self._was_presented or welcome.version >= 2)
        if closed.cause not in LOST and not is_own_link:
            return False
        self.session, self._secret, self._hold = connection.session, welcome.session, welcome.hold
        self._start_expiry()
        return True

    def _start_expiry(self) -> None:
        self._expiry = asyncio.get_running_loop().call_later(self._hold, self._expired)

    def _expired(self) -> None:
        """End the session, unless a connection has presented its secret: the session may have been resumed
        there, and that connection's own timeout ends the wait."""
        self._expiry = None
        if self._presented_by is None:
            self.give_up()
        else:
            self._is_overdue = True

    def offer(self, connection: EdgeConnection) -> None:
        """Let another connection take over the session of this one, whose link is suspect."""
        if connection.welcome is not None and connection.welcome.session:
            welcome = connection.welcome
            self.session, self._secret, self._hold = connection.session, welcome.session, welcome.hold

    def secret_for(self, connection: EdgeConnection) -> bytes | None:
        """Return the secret for a connection to present: empty without a session, None when another one has it."""
        if self.session is None:
            return b""
        if self._presented_by is not None:
            return None
        self._presented_by = connection
        self._was_presented = True
        return self._secret

    @property
    def is_presented(self) -> bool:
        """True if a connection has presented the secret and its result is unknown.

        That connection must not be cancelled although the old link seems to work again: the edge may have moved
        the session already."""
        return self._presented_by is not None

    def session_for(self, connection: EdgeConnection) -> Session:
        """Return the session whose secret this connection has presented. Raises ProtocolError if there is none."""
        if self.session is None or connection is not self._presented_by:
            raise ProtocolError("the edge resumes a session whose secret was not presented")
        return self.session

    def connection_failed(self, connection: EdgeConnection) -> None:
        """Let another connection present the secret, if time is left.

        The session may have moved from an older link to this one, so that its time starts now."""
        if self._presented_by is connection:
            self._presented_by = None
            if self._is_overdue:
                self.give_up()
            elif self.session is not None and self.session.is_away and self._expiry is None:
                self._start_expiry()

    def take_session(self) -> Session | None:
        """Return the session and keep nothing: it has a link again, or ends."""
        session, self.session, self._presented_by = self.session, None, None
        self._is_overdue = False
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return session

    def give_up(self) -> None:
        """End the session and reset its visitors: no link came in time, or the edge does not have it any more."""
        session = self.take_session()
        self._was_presented = False
        if session is not None:
            session.end(Closed(CloseCause.TIMEOUT, 0, ""))
