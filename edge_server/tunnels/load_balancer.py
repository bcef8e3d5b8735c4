"""Choice among the clients that share one name: which of them the next visitor goes to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Sized

MAX_MEMBERS: Final = 256
"""Clients that share one name. Each choice looks at all of them, which takes a tenth of a millisecond."""


class Backend(Protocol):
    """A client's hold on a name, as far as the choice between several depends on it."""

    @property
    def is_reachable(self) -> bool:
        """Return True if a visitor would most likely reach the client."""

    @property
    def is_well(self) -> bool:
        """Return True if a visitor would most likely be answered."""

    @property
    def visitors(self) -> Sized:
        """Return the visitors that it has now."""


BackendT = TypeVar("BackendT", bound=Backend)


class LoadBalancer(Generic[BackendT]):
    """The backends of one name; all are of one identity, and all asked to share the name."""

    def __init__(self) -> None:
        self.members: list[BackendT] = []

    def add(self, backend: BackendT) -> None:
        """Add a backend, which has its turn last."""
        self.members.append(backend)

    def remove(self, backend: BackendT) -> None:
        """Remove a backend. Raises ValueError if it is not a member."""
        self.members.remove(backend)

    def choose(self, besides: Collection[BackendT] = ()) -> BackendT | None:
        """Return the backend for the next visitor, or None if there is none.

        Backends that are well come first, then those whose client is reachable although its origin has just
        refused a visitor, then the others; among equals the one with the fewest visitors, and in turn where
        these are equal too.

        Args:
            besides: backends that are not to be chosen.
        """
        candidates = [backend for backend in self.members if backend not in besides]
        if not candidates:
            return None
        chosen = min(
            candidates, key=lambda backend: (not backend.is_reachable, not backend.is_well, len(backend.visitors))
        )
        self.members.remove(chosen)
        self.members.append(chosen)
        return chosen
