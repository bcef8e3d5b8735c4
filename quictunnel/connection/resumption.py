"""The session that a client saves for its next connection, with the secret that identifies it to the edge.

``manager`` dials. The session itself agrees with the edge on the offsets at which its streams continue.
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
    """The saved session of a client, if there is one, and its secret.

    It is saved when its link is lost or suspect (``save_lost_session``, ``save_suspect_session``). A new
    connection sends the secret in its Hello (``start_resuming``). If the edge resumes the session there, it is
    used again and no longer saved (``forget_session``). Otherwise it ends after the time for which the edge keeps
    it (``end_session``).
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        """The saved session; None if the next connection starts a new one."""
        self._secret = b""
        self._resuming_connection: EdgeConnection | None = None
        """The only connection that may send the secret now: two would take the session from each other."""
        self._was_secret_sent = False
        """True once the secret was sent: the edge may have moved the session to another link, although its answer
        did not arrive."""
        self._hold = 0
        """Seconds for which the edge keeps the session without a link."""
        self._expiry: asyncio.TimerHandle | None = None
        self._is_overdue = False
        """True if the hold ended while a connection was resuming the session: if that one fails, the session
        ends."""

    def save_lost_session(self, connection: EdgeConnection, closed: Closed) -> bool:
        """Save the session of a connection whose link was lost. Return False if the session has ended."""
        welcome = connection.welcome
        if welcome is None or not welcome.hold or not welcome.session:
            return False
        is_replaced = closed.cause is CloseCause.PEER and closed.code == SessionCode.LINK_REPLACED
        is_own_link = is_replaced and (self._was_secret_sent or welcome.version >= 2)
        if closed.cause not in LOST and not is_own_link:
            return False
        self.session, self._secret, self._hold = connection.session, welcome.session, welcome.hold
        self._start_expiry()
        return True

    def _start_expiry(self) -> None:
        self._expiry = asyncio.get_running_loop().call_later(self._hold, self._expired)

    def _expired(self) -> None:
        """End the session, unless a connection has sent its secret: the session may have been resumed there, and
        that connection's own timeout ends the wait."""
        self._expiry = None
        if self._resuming_connection is None:
            self.end_session()
        else:
            self._is_overdue = True

    def save_suspect_session(self, connection: EdgeConnection) -> None:
        """Save the session of a connection whose link is suspect, so that another one may resume it.

        There is no time limit, because the link is still in use."""
        if connection.welcome is not None and connection.welcome.session:
            welcome = connection.welcome
            self.session, self._secret, self._hold = connection.session, welcome.session, welcome.hold

    def start_resuming(self, connection: EdgeConnection) -> bytes | None:
        """Return the secret that this connection has to send. Empty without a saved session; None if another
        connection has sent the secret."""
        if self.session is None:
            return b""
        if self._resuming_connection is not None:
            return None
        self._resuming_connection = connection
        self._was_secret_sent = True
        return self._secret

    @property
    def is_resuming(self) -> bool:
        """True if a connection has sent the secret and the edge's answer is unknown.

        That connection must not be cancelled although the old link seems to work again: the edge may have moved
        the session already."""
        return self._resuming_connection is not None

    def session_to_resume(self, connection: EdgeConnection) -> Session:
        """Return the session whose secret this connection has sent. Raises ProtocolError if there is none."""
        if self.session is None or connection is not self._resuming_connection:
            raise ProtocolError("the edge resumes a session whose secret was not sent")
        return self.session

    def connection_failed(self, connection: EdgeConnection) -> None:
        """Let another connection resume the session, if time is left.

        The session may have moved from an older link to this one, so that its time starts now."""
        if self._resuming_connection is connection:
            self._resuming_connection = None
            if self._is_overdue:
                self.end_session()
            elif self.session is not None and self.session.is_away and self._expiry is None:
                self._start_expiry()

    def forget_session(self) -> None:
        """Stop saving the session: it has a link again, or ends."""
        self.session = self._resuming_connection = None
        self._is_overdue = False
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None

    def end_session(self) -> None:
        """End the session and reset its visitors: no link came in time, or the edge does not have it any more."""
        session = self.session
        self.forget_session()
        self._was_secret_sent = False
        if session is not None:
            session.end_if_away(Closed(CloseCause.TIMEOUT, 0, ""))
