"""The table of sessions, which may lose their link and resume on another one.

A session is found by its secret, is kept for a limited time without a link, and counts against the share of its
token. The client sends the secret in its Hello; only the client and this edge know it. The table stores digests,
so that the time of a lookup does not reveal how much of a guessed secret was right.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

from edge_server.resources.shares import Shares
from quictunnel.wire.messages import SECRET_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.auth.permissions import Identity

MAX_SESSIONS: Final = 5000
"""Sessions of one edge, of which a token has its share (:mod:`edge_server.resources.shares`). 5000 idle sessions
take half of a core and 160 MiB (docs/reference/edge-limits.md)."""
GUARANTEED_MIN: Final = 16
"""Sessions that each token may have in any case, while the edge has room for any."""
MAX_AWAY: Final = 1024
"""Sessions without a link, each of which retains the unacknowledged data of its visitors. Beyond this limit, the
oldest such session of the token that has the most of them is ended."""
MAX_SUPERSEDED: Final = 64
"""Superseded secrets that are remembered for each identity: more than there are processes with one ticket that are
unreachable at the same time."""

HOLD_EXPIRED: Final = "the client did not reconnect in time"
"""Reason for the log."""


class TableEntry(Protocol):
    """A session as the table uses it."""

    identity: Identity | None
    """Identity of the client; not None once its token has been checked."""
    digest: bytes
    """Digest of the session's secret, set by the table."""

    def end_without_link(self, reason: str) -> None:
        """End a session that has no link. ``reason``: for the log."""


SessionT = TypeVar("SessionT", bound=TableEntry)


class SessionTable(Generic[SessionT]):
    """Sessions by the digest of their secret, with those that have no link and the shares of tokens."""

    def __init__(self, hold: float) -> None:
        """``hold``: seconds for which a session without a link is kept."""
        self.hold = hold
        self._by_digest: dict[bytes, SessionT] = {}
        self._away: dict[SessionT, asyncio.TimerHandle] = {}
        self._superseded: dict[str, deque[bytes]] = {}
        """Digests by identity, until its token can never be valid again (:meth:`forget_superseded`)."""
        self._away_of: dict[str, dict[SessionT, None]] = {}
        """Sessions without a link by token, in the order in which they lost it."""
        self.shares = Shares(MAX_SESSIONS, minimum=GUARANTEED_MIN)
        """Sessions by token."""
        self._counted: set[SessionT] = set()
        """Sessions that are counted in :attr:`shares`."""
        self.begun = 0
        """Sessions begun so far."""
        self.resumed = 0
        """Times that a session was resumed on another link."""
        self.given_up = 0
        """Sessions that were ended without a link: not resumed in time, to make room, or because the edge ends."""
        self.refused = 0
        """New sessions that were refused at the limit."""

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def away(self) -> int:
        """Return the number of sessions without a link now."""
        return len(self._away)

    def make_room(self, owner: str) -> bool:
        """Make room for a new session of a token. Returns True if there is room.

        If there is none, a session without a link is ended: one of this token, or, if the whole table is full, one
        of the token that has the most of them. A resumed session needs no room, because it was counted all along.
        """
        if self.shares.may_take(owner):
            return True
        if self._away_of.get(owner):
            self._give_up_oldest(owner)
        elif self.shares.available <= 0 and self._away and self.shares.held_by(owner) < GUARANTEED_MIN:
            self._give_up_oldest(self._most_away())
        if self.shares.may_take(owner):
            return True
        self.refused += 1
        return False

    def refusal_reason(self, owner: str) -> str:
        """Return why :meth:`make_room` has found no room, for the client."""
        if self.shares.available <= 0:
            return f"it serves as many clients as it can, {self.shares.size}"
        held = self.shares.held_by(owner)
        return f"this token has {held} clients of the {self.shares.size} that the edge can serve, its share"

    def add(self, session: SessionT) -> bytes:
        """Add a new session and return its secret."""
        self.begun += 1
        self.shares.take(_owner(session))
        self._counted.add(session)
        secret = secrets.token_bytes(SECRET_SIZE)
        session.digest = _digest(secret)
        self._by_digest[session.digest] = session
        return secret

    def find(self, secret: bytes) -> SessionT | None:
        """Return the session with this secret, or None."""
        return self._by_digest.get(_digest(secret))

    def remember_superseded(self, session: SessionT) -> None:
        """Remember that a newer session with the same ticket has taken over this session's name.

        A client that has not been notified must not take the name back: its session had no link, or it mistakes
        the end of the session for the loss of a link.
        """
        assert session.identity is not None, "the session holds a name"
        self._by_digest.pop(session.digest, None)
        self._superseded.setdefault(session.identity.key, deque(maxlen=MAX_SUPERSEDED)).append(session.digest)

    def is_superseded(self, secret: bytes, key: str) -> bool:
        """Return True if the session of this identity with this secret has lost its name to a newer one."""
        return _digest(secret) in self._superseded.get(key, ())

    def forget_superseded(self, is_over: Callable[[str], bool]) -> None:
        """Forget the superseded sessions of identities whose tokens can never be valid again."""
        for key in [key for key in self._superseded if is_over(key)]:
            del self._superseded[key]

    def link_lost(self, session: SessionT) -> None:
        """Note that a session has lost its link; it is ended after :attr:`hold` seconds."""
        loop = asyncio.get_running_loop()
        self._away[session] = loop.call_later(self.hold, session.end_without_link, HOLD_EXPIRED)
        self._away_of.setdefault(_owner(session), {})[session] = None
        if len(self._away) > MAX_AWAY:
            self._give_up_oldest(self._most_away())

    def stop_away_timer(self, session: SessionT) -> None:
        """Stop the timer of a session without a link, because it has one again or has ended."""
        timer = self._away.pop(session, None)
        if timer is not None:
            timer.cancel()
            others = self._away_of[_owner(session)]
            del others[session]
            if not others:
                del self._away_of[_owner(session)]

    def remove(self, session: SessionT) -> None:
        """Remove a session that has ended."""
        self.stop_away_timer(session)
        self._by_digest.pop(session.digest, None)
        if session in self._counted:  # also a superseded one, which is not in the index any more
            self._counted.remove(session)
            self.shares.release(_owner(session))

    def _most_away(self) -> str:
        """Return the token with the most sessions without a link."""
        return max(self._away_of, key=lambda owner: len(self._away_of[owner]))

    def _give_up_oldest(self, owner: str) -> None:
        next(iter(self._away_of[owner])).end_without_link("no room for all sessions without a link")

    def give_up_all(self) -> None:
        """End every session without a link."""
        for session in tuple(self._away):
            session.end_without_link("the edge stops")


def _owner(session: TableEntry) -> str:
    assert session.identity is not None, "sessions in the table are authenticated"
    return session.identity.key


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
