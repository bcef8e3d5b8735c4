"""Whose token is this, and is it still good?

Everything is answered from memory. :meth:`TokenRegistry.refresh` looks whether the database has changed and is
called twice a second, off the loop's thread, so that what was revoked ends within a second.
"""

from __future__ import annotations

import hmac
import secrets
import time
from typing import TYPE_CHECKING

from edge_server.auth.permissions import Identity
from edge_server.auth.reserved_names import RESERVED
from edge_server.auth.token import digest_of, key_of
from quictunnel.wire.codes import BindCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.auth.token_store import TokenEntry, TokenStore


class TokenRegistry:
    """The development token, whose holder reads the state directory and may do everything, and the database's."""

    def __init__(
        self, development: str, store: TokenStore | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """Reads the database; raises ConfigError when it cannot."""
        # An empty token is what a client sends that has none: never one of ours.
        self._development = digest_of(development) if development else None
        self._development_key = key_of(development)
        self._developer = None if self._development is None else Identity(self._development.hex()[:12])
        self._store = store
        self._now = now
        self._version = -1
        self._entries: dict[str, TokenEntry] = {}
        self._named: frozenset[str] = frozenset()
        """What the rights of some token say exactly."""
        self._nobody = secrets.token_bytes(32)
        self.refresh()

    def refresh(self) -> bool:
        """Read what has changed in the database; whether anything has. Raises ConfigError when it cannot be read:
        what was known stays as it is."""
        if self._store is None:
            return False
        version = self._store.changes()
        if version == self._version:
            return False
        self._entries = {entry.key: entry for entry in self._store.entries()}
        self._named = frozenset(
            name for entry in self._entries.values() if entry.revoked is None for name in entry.rights.names or ()
        )
        self._version = version
        return True

    def close(self) -> None:
        if self._store is not None:
            self._store.close()

    def is_known(self, token: str) -> str | None:
        """The key that a token names, if there is such a token, whether or not the rest of it is right."""
        key = key_of(token)
        return key if key is not None and (key in self._entries or key == self._development_key) else None

    def check(self, token: str) -> Identity | None:
        """Whose token this is; None when it is nobody's, revoked or expired. What it is compared with is found by
        its key, and compared whole: the time says nothing about the secret."""
        digest = digest_of(token)
        if self._development is not None and hmac.compare_digest(self._development, digest):
            return self._developer
        entry = self._entries.get(key_of(token) or "")
        is_right = hmac.compare_digest(self._nobody if entry is None else entry.digest, digest)
        return self._good(entry) if is_right else None

    def current(self, identity: Identity) -> Identity | None:
        """The same identity with the rights that it has now; None when it has none any more."""
        return self.identity(identity.key)

    def identity(self, key: str) -> Identity | None:
        """Whose key this is, with the rights that it has now; None when its token is not good."""
        if self._developer is not None and key == self._developer.key:
            return self._developer
        return self._good(self._entries.get(key))

    def is_over(self, key: str) -> bool:
        """Return True if no token with this key will be good again: it was revoked, or there is none."""
        if self._developer is not None and key == self._developer.key:
            return False
        entry = self._entries.get(key)
        return entry is None or entry.revoked is not None

    def objection(self, identity: Identity, name: str) -> BindCode | None:
        """Why rights do not let somebody have a name, or a whole domain, that was asked for; None: they do."""
        rights = identity.rights
        if "." in name:
            return None if rights.allows_domain(name) else BindCode.DOMAIN_FORBIDDEN
        if not rights.allows_name(name):
            return BindCode.FORBIDDEN
        if rights.owns_name(name):
            return None
        if name in RESERVED:
            return BindCode.NAME_RESERVED
        return BindCode.NAME_TAKEN if name in self._named else None

    def _good(self, entry: TokenEntry | None) -> Identity | None:
        return entry.identity if entry is not None and entry.state(self._now()) == "good" else None
