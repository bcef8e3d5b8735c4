"""Sessions that may lose their link and go on with another: by secret, and for how long without one.

What a client shows in its Hello is the session's secret, which only it and this edge have. Kept here is a digest,
so that looking one up takes no time that depends on how much of a guess was right.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections import deque
from typing import TYPE_CHECKING, Final

from quictunnel.wire.messages import SECRET

if TYPE_CHECKING:
    from edge_server.control import Guest

MAX_AWAY: Final = 1024
"""Sessions without a link. Each keeps what its visitors had in flight; beyond these the one that has been away for
longest is given up."""
MAX_SUPERSEDED: Final = 64
"""Secrets of one identity's sessions that are remembered for having lost their name to a newer one: more than
programs with one ticket that are out of reach at the same time."""


class Sessions:
    """See the module."""

    def __init__(self, hold: float) -> None:
        """``hold``: seconds for which a session without a link is kept."""
        self.hold = hold
        self._by_digest: dict[bytes, Guest] = {}
        self._away: dict[Guest, asyncio.TimerHandle] = {}
        self._superseded: dict[str, deque[bytes]] = {}
        """By identity; there are no more of those than the edge has tokens."""
        self.begun = 0
        """Sessions so far."""
        self.resumed = 0
        """How often one went on with another link."""
        self.given_up = 0
        """Those that did not come back in time."""

    def __len__(self) -> int:
        return len(self._by_digest)

    @property
    def away(self) -> int:
        """Those without a link now."""
        return len(self._away)

    def add(self, guest: Guest) -> bytes:
        """A new session; its secret."""
        self.begun += 1
        secret = secrets.token_bytes(SECRET)
        guest.digest = _digest(secret)
        self._by_digest[guest.digest] = guest
        return secret

    def find(self, secret: bytes) -> Guest | None:
        """Whose secret that is."""
        return self._by_digest.get(_digest(secret))

    def supersede(self, guest: Guest) -> None:
        """Remember that a newer session of the same program has this one's name, so that it is not taken back by a
        client which has not heard of that: one that was away, or one that takes the end of its session for the end
        of a link."""
        assert guest.identity is not None, "it holds a name"
        self._by_digest.pop(guest.digest, None)
        self._superseded.setdefault(guest.identity.key, deque(maxlen=MAX_SUPERSEDED)).append(guest.digest)

    def is_superseded(self, secret: bytes, key: str) -> bool:
        """Return True if the session of this identity with this secret has lost its name to a newer one."""
        return _digest(secret) in self._superseded.get(key, ())

    def leave(self, guest: Guest) -> None:
        """It has no link now; when it has none for too long, it is given up."""
        if len(self._away) >= MAX_AWAY:
            oldest = next(iter(self._away))
            oldest.give_up()
        loop = asyncio.get_running_loop()
        self._away[guest] = loop.call_later(self.hold, guest.give_up)

    def come_back(self, guest: Guest) -> None:
        """It has a link again."""
        timer = self._away.pop(guest, None)
        if timer is not None:
            timer.cancel()

    def remove(self, guest: Guest) -> None:
        """It is over."""
        self.come_back(guest)
        self._by_digest.pop(guest.digest, None)

    def give_up_all(self) -> None:
        """Those without a link are over now."""
        for guest in tuple(self._away):
            guest.give_up()


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
