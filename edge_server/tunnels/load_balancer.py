"""Choice among the clients that share one name: which of them the next visitor goes to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_MEMBERS: Final = 256
"""Clients that share one name. Each choice looks at all of them, which takes a tenth of a millisecond."""


class Candidate(Protocol):
    """A client that serves a name, as far as the choice between several depends on it."""

    active: int
    """Visitors that it serves now."""

    @property
    def is_reachable(self) -> bool:
        """Return True if a visitor would most likely reach the client."""

    @property
    def is_well(self) -> bool:
        """Return True if a visitor would most likely be answered."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


class LoadBalancer(Generic[CandidateT]):
    """The clients of one name; all are of one identity."""

    def __init__(self) -> None:
        self.members: list[CandidateT] = []
        """In the order of coming."""
        self._turns: dict[CandidateT, int] = {}
        """Number of the last turn of each member."""
        self._counter = itertools.count()

    def add(self, member: CandidateT) -> None:
        """Add a member, which has its turn last."""
        self.members.append(member)
        self._turns[member] = next(self._counter)

    def remove(self, member: CandidateT) -> None:
        """Remove a member. Raises ValueError if it is none."""
        self.members.remove(member)
        del self._turns[member]

    def choose(self, besides: Collection[CandidateT] = ()) -> CandidateT | None:
        """Return the member for the next visitor, or None if there is none.

        Members that are well come first, then those whose client is reachable although its origin has just
        refused a visitor, then the others; among equals the one with the fewest visitors, and in turn where
        these are equal too.

        Args:
            besides: members that are not to be chosen.
        """
        candidates = [member for member in self.members if member not in besides]
        if len(candidates) <= 1:
            return candidates[0] if candidates else None
        chosen = min(
            candidates,
            key=lambda each: (not each.is_reachable, not each.is_well, each.active, self._turns[each]),
        )
        self._turns[chosen] = next(self._counter)
        return chosen
