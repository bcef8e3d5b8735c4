"""Limits on wrong tokens by address.

Failures are counted by address and by the key that the token names, if that key exists here. A guesser behind a
shared address therefore blocks only itself and at most one key, and not the other clients of that address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edge_server.resources.peer_network import peer_prefix

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FAILURES: Final = 5
"""Wrong tokens a minute that are checked before further ones are ignored; a person who mistypes needs fewer."""
WINDOW_SECONDS: Final = 60.0
"""Seconds for which a wrong token counts."""
MAX_TRACKED: Final = 16_384
"""Addresses remembered, 300 bytes each. Beyond that, the address with the oldest last failure is dropped."""


class FailedAttempts:
    """The wrong tokens of the last minute."""

    def __init__(self, now: Callable[[], float]) -> None:
        """``now``: a clock in seconds; only differences are used."""
        self._now = now
        self._failures: dict[tuple[str, str | None], list[float]] = {}
        self.wrong = 0
        """Tokens that were not good when they arrived. This counter never decreases."""
        self.refused = 0
        """Tokens that were ignored because of earlier failures."""

    def __len__(self) -> int:
        return len(self._failures)

    def can_try(self, address: str, key: str | None) -> bool:
        """Return True if a token from this address may be checked; otherwise count it as refused.

        Args:
            address: of the client.
            key: the key that the token names, if it exists here; else None.
        """
        recent = self._recent((peer_prefix(address), key))
        if len(recent) < MAX_FAILURES:
            return True
        self.refused += 1
        return False

    def record_failure(self, address: str, key: str | None) -> None:
        """Count a token that was checked and was not good."""
        self.wrong += 1
        where = peer_prefix(address), key
        recent = self._recent(where)
        # Move it to the end: the first entry of the table is the next one to drop.
        self._failures.pop(where, None)
        self._failures[where] = [*recent, self._now()]
        if len(self._failures) > MAX_TRACKED:
            del self._failures[next(iter(self._failures))]

    def withdraw_failure(self, address: str, key: str | None) -> None:
        """Take back the latest failure: the token turned out to be good, so it does not count towards the
        limit."""
        where = peer_prefix(address), key
        recent = self._failures.pop(where, [])[:-1]
        if recent:
            self._failures[where] = recent

    def _recent(self, where: tuple[str, str | None]) -> list[float]:
        since = self._now() - WINDOW_SECONDS
        return [at for at in self._failures.get(where, ()) if at > since]
