"""A client's session while it has no link: the secret that proves it to the edge, and the time it waits.

``manager`` dials; the session itself agrees with the edge on where its streams go on.
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
    """Counts since the client was made."""

    resumed: int = 0
    """The session went on with another link."""
    migrated: int = 0
    """The link went on from another socket."""
    reconnected: int = 0
    """A new session took the place of one before."""


class ResumableSession:
    """At most one session, and its secret."""

    def __init__(self) -> None:
        self.session: Session | None = None
        """The session without a link."""
        self._secret = b""
        self._shown_by: EdgeConnection | None = None
        """The one connection that presents the secret: two would take the session from each other."""
        self._was_shown = False
        """The edge may have taken the session to another link at any time since, whether we heard of it or not."""
        self._hold = 0
        """Seconds for which the edge keeps it without a link."""
        self._expiry: asyncio.TimerHandle | None = None
        self._is_overdue = False
        """True if the hold ended while a connection presented the secret: without that one the session ends."""

    def keep(self, connection: EdgeConnection, closed: Closed) -> bool:
        """Return True if the session of this connection, whose link was lost, waits for another."""
        welcome = connection.welcome
        if welcome is None or not welcome.hold or not welcome.session:
            return False
        is_replaced = closed.cause is CloseCause.PEER and closed.code == SessionCode.REPLACED
        is_ours = is_replaced and (self._was_shown or welcome.version >= 2)
        if closed.cause not in LOST and not is_ours:
            return False
        self.session, self._secret, self._hold = connection.session, welcome.session, welcome.hold
        self._expire_later()
        return True

    def _expire_later(self) -> None:
        self._expiry = asyncio.get_running_loop().call_later(self._hold, self._expired)

    def _expired(self) -> None:
        """End the session, unless a connection has presented its secret: the session may have continued there, and
        that one's own deadline ends the wait."""
        self._expiry = None
        if self._shown_by is None:
            self.give_up()
        else:
            self._is_overdue = True

    def offer(self, connection: EdgeConnection) -> None:
        """Let another connection take over the session of this one, whose link looks sick."""
        if connection.welcome is not None and connection.welcome.session:
            welcome = connection.welcome
            self.session, self._secret, self._hold = connection.session, welcome.session, welcome.hold

    def secret_for(self, connection: EdgeConnection) -> bytes | None:
        """Return the secret for a connection to present: empty without a session, None when another one has it."""
        if self.session is None:
            return b""
        if self._shown_by is not None:
            return None
        self._shown_by = connection
        self._was_shown = True
        return self._secret

    @property
    def is_shown(self) -> bool:
        """Return True if a connection has presented the secret and its outcome is unknown. It must not be given up
        for a link that seems to be well: the edge may have left that one already."""
        return self._shown_by is not None

    def session_for(self, connection: EdgeConnection) -> Session:
        """Return the session whose secret this connection has presented. Raises ProtocolError if there is none."""
        if self.session is None or connection is not self._shown_by:
            raise ProtocolError("a session goes on that was not asked for")
        return self.session

    def connection_failed(self, connection: EdgeConnection) -> None:
        """Let another connection present the secret, if time is left. The session may have left an older link for
        this one."""
        if self._shown_by is connection:
            self._shown_by = None
            if self._is_overdue:
                self.give_up()
            elif self.session is not None and self.session.is_away and self._expiry is None:
                self._expire_later()

    def hand_over(self) -> Session | None:
        """Return the session, which has a link again, and wait for nothing any more."""
        session, self.session, self._shown_by = self.session, None, None
        self._is_overdue = False
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        return session

    def give_up(self) -> None:
        """End the session and reset its visitors: it got no link in time, or the edge does not know it."""
        session = self.hand_over()
        self._was_shown = False
        if session is not None:
            session.end(Closed(CloseCause.TIMEOUT, 0, ""))
