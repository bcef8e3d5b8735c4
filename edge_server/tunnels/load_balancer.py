"""The load balancer, which chooses a client for each visitor of a shared name."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_MEMBERS: Final = 256
"""Clients that share one name. A choice compares all of them, which takes a tenth of a millisecond."""


class Candidate(Protocol):
    """A client that serves a name, as the load balancer uses it."""

    active: int
    """Visitors that it serves now."""

    @property
    def is_reachable(self) -> bool:
        """Return True if a visitor would most likely reach the client."""

    @property
    def is_healthy(self) -> bool:
        """Return True if the client is reachable and its origin has not refused a visitor lately."""


CandidateT = TypeVar("CandidateT", bound=Candidate)


class LoadBalancer(Generic[CandidateT]):
    """The clients of one name, all of the same identity."""

    def __init__(self) -> None:
        self.members: list[CandidateT] = []
        """The clients, oldest first."""
        self._turns: dict[CandidateT, int] = {}
        """Number of each member's latest choice, which increases with every choice."""
        self._counter = itertools.count()

    def add(self, member: CandidateT) -> None:
        """Add a member; among equals it is chosen last."""
        self.members.append(member)
        self._turns[member] = next(self._counter)

    def remove(self, member: CandidateT) -> None:
        """Remove a member. Raises ValueError if it is not one."""
        self.members.remove(member)
        del self._turns[member]

    def choose(self, besides: Collection[CandidateT] = ()) -> CandidateT | None:
        """Return the member for the next visitor, or None if there is none.

        Healthy members are preferred, then reachable ones whose origin has refused a visitor lately, then the
        others. Among these, the member with the fewest active visitors is chosen, and with equal numbers the one
        that was chosen least recently.

        Args:
            besides: members to exclude.
        """
        candidates = [member for member in self.members if member not in besides]
        if len(candidates) <= 1:
            return candidates[0] if candidates else None
        chosen = min(
            candidates,
            key=lambda each: (not each.is_reachable, not each.is_healthy, each.active, self._turns[each]),
        )
        self._turns[chosen] = next(self._counter)
        return chosen
