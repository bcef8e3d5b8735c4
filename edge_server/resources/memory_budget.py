"""Memory that sessions keep for bytes on their way, of which each token has its share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_server.resources.shares import Shares
from quictunnel.wire.credit import INITIAL_WINDOW

if TYPE_CHECKING:
    from quictunnel.wire.credit import MemoryShare

MAX_MEMORY: Final = 512 * 1024 * 1024
"""Bytes that all sessions together may keep beyond an initial window a stream and direction, for visitors that do
not read and for clients that do not consume: as many as the pools of sixteen sessions. Where it is used up,
streams go on with their initial windows."""


class MemoryBudget:
    """How much the sessions of each token keep."""

    def __init__(self) -> None:
        self.shares = Shares(MAX_MEMORY)

    def of(self, owner: str) -> MemoryShare:
        """The share of one token, for a session of its."""
        return _OwnersMemory(self.shares, owner)


class _OwnersMemory:
    """Share of one token (a wire.credit.MemoryShare)."""

    __slots__ = ("_owner", "_shares")

    def __init__(self, shares: Shares, owner: str) -> None:
        self._shares = shares
        self._owner = owner

    def lend(self, wanted: int) -> int:
        lent = min(wanted, self._shares.most_for(self._owner))
        self._shares.take(self._owner, lent)
        return lent

    def keep(self, more: int) -> None:
        if more > 0:
            self._shares.take(self._owner, more)
        else:
            self._shares.give_back(self._owner, -more)

    @property
    def is_used_up(self) -> bool:
        return not self._shares.may_take(self._owner, INITIAL_WINDOW)
