"""The load balancer, which chooses a client for each visitor of a shared name."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

MAX_BACKENDS: Final = 256
"""Clients that share one name. A choice compares all of them, which takes a tenth of a millisecond."""


class BalancedBackend(Protocol):
    """A client that serves a name, as the load balancer uses it."""

    active: int
    """Visitors that it serves now."""

    @property
    def is_reachable(self) -> bool:
        """Return True if a visitor would most likely reach the client."""

    @property
    def is_healthy(self) -> bool:
        """Return True if the client is reachable and its origin has not refused a visitor lately."""


BackendT = TypeVar("BackendT", bound=BalancedBackend)


class LoadBalancer(Generic[BackendT]):
    """The clients of one name, all of the same identity."""

    def __init__(self) -> None:
        self.backends: list[BackendT] = []
        """The clients, oldest first."""
        self._latest_choices: dict[BackendT, int] = {}
        """Number of each backend's latest choice, which increases with every choice."""
        self._counter = itertools.count()

    def add(self, backend: BackendT) -> None:
        """Add a backend; among equals it is chosen last."""
        self.backends.append(backend)
        self._latest_choices[backend] = next(self._counter)

    def remove(self, backend: BackendT) -> None:
        """Remove a backend. Raises ValueError if it is not one."""
        self.backends.remove(backend)
        del self._latest_choices[backend]

    def choose(self, besides: Collection[BackendT] = ()) -> BackendT | None:
        """Return the backend for the next visitor, or None if there is none.

        Healthy backends are preferred, then reachable ones whose origin has refused a visitor lately, then the
        others. Among these, the backend with the fewest active visitors is chosen, and with equal numbers the one
        that was chosen least recently.

        Args:
            besides: backends to exclude.
        """
        eligible = [backend for backend in self.backends if backend not in besides]
        if len(eligible) <= 1:
            return eligible[0] if eligible else None
        chosen = min(
            eligible,
            key=lambda each: (not each.is_reachable, not each.is_healthy, each.active, self._latest_choices[each]),
        )
        self._latest_choices[chosen] = next(self._counter)
        return chosen
