"""Sessions that may lose their link and go on with another: by secret, and for how long without one; and how many
of them one token may have.

What a client shows in its Hello is the session's secret, which only it and this edge have. Kept here is a digest,
so that looking one up takes no time that depends on how much of a guess was right.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final

from edge_server.resources.shares import Shares
from quictunnel.wire.messages import SECRET_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.clients.session import ClientSession

MAX_SESSIONS: Final = 5000
"""Sessions of one edge, of which a token has its share (:mod:`edge_server.resources.shares`): so many idle ones
take half of a core and 160 MiB (OPERATIONS.md)."""
ALWAYS: Final = 16
"""Sessions that each token may have as long as there are any."""
MAX_AWAY: Final = 1024
"""Sessions without a link. Each keeps what its visitors had in flight. Beyond these, of the token that has most of
them the one that has been away for longest is given up."""
MAX_SUPERSEDED: Final = 64
"""Secrets of one identity's sessions that are remembered for having lost their name to a newer one: more than
programs with one ticket that are out of reach at the same time."""


class SessionTable:
    """See the module."""

    def __init__(self, hold: float) -> None:
        """``hold``: seconds for which a session without a link is kept."""
        self.hold = hold
        self._by_digest: dict[bytes, ClientSession] = {}
        self._away: dict[ClientSession, asyncio.TimerHandle] = {}
        self._superseded: dict[str, deque[bytes]] = {}
        """By identity, as long as its token may be good again (:meth:`forget_superseded`)."""
        self._away_of: dict[str, dict[ClientSession, None]] = {}
        """Sessions without a link by token, in the order in which they lost it."""
        self.shares = Shares(MAX_SESSIONS, always=ALWAYS)
        """Sessions by token."""
        self._counted: set[ClientSession] = set()
        """Sessions that are counted there."""
        self.begun = 0
        """Sessions so far."""
        self.resumed = 0
        """How often one went on with another link."""
        self.given_up = 0
        """Those that did not come back in time."""
        self.refused = 0
        """New sessions for which there was no room."""

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def away(self) -> int:
        """Those without a link now."""
        return len(self._away)

    def make_room(self, owner: str) -> bool:
        """Make room for a new session of a token; whether there is. A session without a link makes room first: the
        token's own, or where nothing at all is left one of the token that has most of those. One that goes on
        with another link needs no room: it has its place."""
        if self.shares.may_take(owner):
            return True
        if self._away_of.get(owner):
            self._give_up_oldest(owner)
        elif self.shares.left <= 0 and self._away and self.shares.held_by(owner) < ALWAYS:
            self._give_up_oldest(self._most_away())
        if self.shares.may_take(owner):
            return True
        self.refused += 1
        return False

    def add(self, guest: ClientSession) -> bytes:
        """A new session; its secret."""
        self.begun += 1
        self.shares.take(_owner(guest))
        self._counted.add(guest)
        secret = secrets.token_bytes(SECRET_SIZE)
        guest.digest = _digest(secret)
        self._by_digest[guest.digest] = guest
        return secret

    def find(self, secret: bytes) -> ClientSession | None:
        """Whose secret that is."""
        return self._by_digest.get(_digest(secret))

    def supersede(self, guest: ClientSession) -> None:
        """Remember that a newer session of the same program has this one's name, so that it is not taken back by a
        client which has not heard of that: one that was away, or one that takes the end of its session for the end
        of a link."""
        assert guest.identity is not None, "it holds a name"
        self._by_digest.pop(guest.digest, None)
        self._superseded.setdefault(guest.identity.key, deque(maxlen=MAX_SUPERSEDED)).append(guest.digest)

    def is_superseded(self, secret: bytes, key: str) -> bool:
        """Return True if the session of this identity with this secret has lost its name to a newer one."""
        return _digest(secret) in self._superseded.get(key, ())

    def forget_superseded(self, is_over: Callable[[str], bool]) -> None:
        """Forget the superseded sessions of identities that are over: nobody resumes anything as those."""
        for key in [key for key in self._superseded if is_over(key)]:
            del self._superseded[key]

    def leave(self, guest: ClientSession) -> None:
        """It has no link now; when it has none for too long, it is given up."""
        loop = asyncio.get_running_loop()
        self._away[guest] = loop.call_later(self.hold, guest.give_up)
        self._away_of.setdefault(_owner(guest), {})[guest] = None
        if len(self._away) > MAX_AWAY:
            self._give_up_oldest(self._most_away())

    def come_back(self, guest: ClientSession) -> None:
        """It has a link again."""
        timer = self._away.pop(guest, None)
        if timer is not None:
            timer.cancel()
            mine = self._away_of[_owner(guest)]
            del mine[guest]
            if not mine:
                del self._away_of[_owner(guest)]

    def remove(self, guest: ClientSession) -> None:
        """It is over."""
        self.come_back(guest)
        self._by_digest.pop(guest.digest, None)
        if guest in self._counted:  # also one that was superseded, which nobody finds any more
            self._counted.remove(guest)
            self.shares.give_back(_owner(guest))

    def _most_away(self) -> str:
        """The token with the most sessions without a link."""
        return max(self._away_of, key=lambda owner: len(self._away_of[owner]))

    def _give_up_oldest(self, owner: str) -> None:
        next(iter(self._away_of[owner])).give_up()

    def give_up_all(self) -> None:
        """Those without a link are over now."""
        for guest in tuple(self._away):
            guest.give_up()


def _owner(guest: ClientSession) -> str:
    assert guest.identity is not None, "a session is one of those whose token was good"
    return guest.identity.key


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
