"""Sessions that may lose their link and go on with another: by secret, and for how long without one.

What a client shows in its Hello is the session's secret, which only it and this edge have. Kept here is a digest,
so that looking one up takes no time that depends on how much of a guess was right.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from quictunnel.wire.messages import SECRET

if TYPE_CHECKING:
    from edge_server.control import Guest

MAX_AWAY: Final = 1024
"""Sessions without a link. Each keeps what its visitors had in flight; beyond these the one that has been away for
longest is given up."""


class Sessions:
    """See the module."""

    def __init__(self, hold: float) -> None:
        """``hold``: seconds for which a session without a link is kept."""
        self.hold = hold
        self._by_digest: dict[bytes, Guest] = {}
        self._away: dict[Guest, asyncio.TimerHandle] = {}
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
