"""How many wrong tokens an address may try.

Counted by address and by the key that the token names, if there is such a key here: whoever guesses from behind an
address that many share locks out himself, and at most one key there, but none of his neighbours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_server.resources.peer_network import neighbourhood

if TYPE_CHECKING:
    from collections.abc import Callable

LIMIT: Final = 5
"""Wrong tokens in a minute that are looked at; a person who mistypes needs fewer."""
WINDOW: Final = 60.0
MAX_TRACKED: Final = 16_384
"""Addresses remembered, 300 bytes each; beyond these the one that tried last the longest ago is forgotten."""


class FailedAttempts:
    """The wrong tokens of the last minute."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._wrong: dict[tuple[str, str | None], list[float]] = {}
        self.wrong = 0
        """Tokens that were not good when they came. Never less than before, as a counter has to be."""
        self.refused = 0
        """Tokens that were not looked at."""

    def __len__(self) -> int:
        return len(self._wrong)

    def may_try(self, address: str, key: str | None) -> bool:
        """Whether a token from there is to be looked at. ``key``: of a token that exists here, else None."""
        recent = self._recent((neighbourhood(address), key))
        if len(recent) < LIMIT:
            return True
        self.refused += 1
        return False

    def was_wrong(self, address: str, key: str | None) -> None:
        """The token that was looked at was not good."""
        self.wrong += 1
        where = neighbourhood(address), key
        recent = self._recent(where)
        self._wrong.pop(where, None)  # to the end: the first in the table is the one to forget
        self._wrong[where] = [*recent, self._now()]
        if len(self._wrong) > MAX_TRACKED:
            del self._wrong[next(iter(self._wrong))]

    def was_right(self, address: str, key: str | None) -> None:
        """The token that was called wrong is good after all: it does not count towards the limit."""
        where = neighbourhood(address), key
        recent = self._wrong.pop(where, [])[:-1]
        if recent:
            self._wrong[where] = recent

    def _recent(self, where: tuple[str, str | None]) -> list[float]:
        since = self._now() - WINDOW
        return [at for at in self._wrong.get(where, ()) if at > since]
