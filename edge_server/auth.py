"""Who may hold tunnels here."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whose token was good."""

    key: str
    """A name for it in tickets and logs, from which the token cannot be found."""


class Tokens:
    """The tokens that are accepted, kept as hashes."""

    def __init__(self, *tokens: str) -> None:
        # An empty token is what a client sends that has none: never one of ours.
        self._hashes = [_digest(token) for token in tokens if token]

    def check(self, token: str) -> Identity | None:
        """Whose token this is. Takes the same time for every wrong one: hashing hides the token's own bytes,
        and every hash is compared whole."""
        digest = _digest(token)
        found: Identity | None = None
        for known in self._hashes:
            if hmac.compare_digest(known, digest):
                found = Identity(known.hex()[:12])
        return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
