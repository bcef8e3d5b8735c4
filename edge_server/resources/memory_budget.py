"""Memory of sessions for bytes in transit, shared by token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_server.resources.shares import Shares
from quictunnel.wire.credit import INITIAL_WINDOW

if TYPE_CHECKING:
    from quictunnel.wire.credit import MemoryShare

MAX_MEMORY: Final = 512 * 1024 * 1024
"""Bytes that all sessions together may hold beyond one initial window per stream and direction, for visitors that
do not read and clients that do not consume: the pools of sixteen sessions. When it is used up, streams continue
with their initial windows."""


class MemoryBudget:
    """The memory of the sessions, by token."""

    def __init__(self) -> None:
        self.shares = Shares(MAX_MEMORY)

    def share_of(self, owner: str) -> MemoryShare:
        """Return the share of one token, for one of its sessions."""
        return _OwnerMemory(self.shares, owner)


class _OwnerMemory:
    """The share of one token (a ``wire.credit.MemoryShare``)."""

    __slots__ = ("_owner", "_shares")

    def __init__(self, shares: Shares, owner: str) -> None:
        self._shares = shares
        self._owner = owner

    def lend(self, requested: int) -> int:
        """Take up to ``requested`` bytes; return the bytes taken."""
        lent = min(requested, self._shares.max_for(self._owner))
        self._shares.take(self._owner, lent)
        return lent

    def charge(self, more: int) -> None:
        """Take ``more`` bytes regardless of the share; give bytes back if negative."""
        if more > 0:
            self._shares.take(self._owner, more)
        else:
            self._shares.release(self._owner, -more)

    @property
    def is_used_up(self) -> bool:
        """Return True if not even one initial window is left for this token."""
        return not self._shares.may_take(self._owner, INITIAL_WINDOW)
