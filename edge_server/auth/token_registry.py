"""Validation of tokens, from memory.

:meth:`TokenRegistry.refresh` checks the database for changes. It is called twice a second, off the event loop's
thread, so that a revocation takes effect within a second.
"""

from __future__ import annotations

import hmac
import secrets
import time
from typing import TYPE_CHECKING, Final

from edge_server.auth.permissions import Identity
from edge_server.auth.reserved_names import RESERVED
from edge_server.auth.token import digest_of, key_of, operator_key
from quictunnel.wire.codes import BindCode

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.auth.token_store import TokenEntry, TokenStore

OPERATOR_NAME: Final = "the operator's token"
"""Name of the owner of the operator's token."""


class TokenRegistry:
    """The operator's token, whose holder can read the state directory and has all permissions, and the tokens of
    the database."""

    def __init__(
        self, operator_token: str, store: TokenStore | None = None, now: Callable[[], float] = time.time
    ) -> None:
        """Read the database.

        Args:
            operator_token: the token in the state directory's file ``token``; empty for none.
            store: the database; None for none.
            now: seconds since the epoch.

        Raises:
            ConfigError: the database cannot be read.
        """
        # A client without a token sends an empty one, so an empty token must never be valid.
        self._operator_digest = digest_of(operator_token) if operator_token else None
        self._operator_key = key_of(operator_token)
        self._operator = Identity(operator_key(operator_token)) if operator_token else None
        self._store = store
        self._now = now
        self._version = -1
        self._entries: dict[str, TokenEntry] = {}
        self._reserved_names: frozenset[str] = frozenset()
        """Names that the permissions of a token list exactly, unless it is revoked."""
        self._unknown_digest = secrets.token_bytes(32)
        self.refresh()

    def refresh(self) -> bool:
        """Read the database if it has changed. Return True if it has.

        Raises:
            ConfigError: it cannot be read; the entries in memory stay in use.
        """
        if self._store is None:
            return False
        version = self._store.changes()
        if version == self._version:
            return False
        self._entries = {entry.key: entry for entry in self._store.entries()}
        self._reserved_names = frozenset(
            name
            for entry in self._entries.values()
            if entry.revoked is None
            for name in entry.permissions.names or ()
        )
        self._version = version
        return True

    @property
    def version(self) -> int:
        """Return the version of the entries in memory: another one after each change that was read."""
        return self._version

    def close(self) -> None:
        """Close the database."""
        if self._store is not None:
            self._store.close()

    def known_key(self, token: str) -> str | None:
        """Return the key that a token names, if a token with that key exists, even if the secret is wrong."""
        key = key_of(token)
        return key if key is not None and (key in self._entries or key == self._operator_key) else None

    def check(self, token: str) -> Identity | None:
        """Return the identity of a token; None if it is unknown, revoked or expired.

        The entry is found by its key and the digests are compared in constant time, so the duration reveals
        nothing about the secret.
        """
        digest = digest_of(token)
        if self._operator_digest is not None and hmac.compare_digest(self._operator_digest, digest):
            return self._operator
        entry = self._entries.get(key_of(token) or "")
        is_match = hmac.compare_digest(self._unknown_digest if entry is None else entry.digest, digest)
        return self._if_valid(entry) if is_match else None

    def refusal_reason(self, token: str) -> str:
        """Return why a token with the right secret is not valid: that it was revoked or has expired, and when.

        Empty for any other token: nobody else learns that its key exists."""
        entry = self._entries.get(key_of(token) or "")
        is_match = hmac.compare_digest(self._unknown_digest if entry is None else entry.digest, digest_of(token))
        return self._reason(entry) if is_match else ""

    def end_reason(self, key: str) -> str:
        """Return why the token with this key is no longer valid; empty if it is, or if there is none."""
        return self._reason(self._entries.get(key))

    def _reason(self, entry: TokenEntry | None) -> str:
        state = "" if entry is None else entry.state(self._now())
        if entry is None or state == "good":
            return ""
        when = entry.revoked if state == "revoked" else entry.permissions.expires
        at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(when))
        return f"it was revoked at {at}" if state == "revoked" else f"it expired at {at}"

    def current(self, identity: Identity) -> Identity | None:
        """Return the identity with its present permissions; None if its token is no longer valid."""
        return self.identity(identity.key)

    def identity(self, key: str) -> Identity | None:
        """Return the identity of a key with its present permissions; None if the token is not valid."""
        if self._operator is not None and key == self._operator.key:
            return self._operator
        return self._if_valid(self._entries.get(key))

    def name_of_owner(self, key: str) -> str:
        """Return the note of a token, which names its owner; empty if it has none or there is no such token."""
        if self._operator is not None and key == self._operator.key:
            return OPERATOR_NAME
        entry = self._entries.get(key)
        return "" if entry is None else entry.note

    def is_over(self, key: str) -> bool:
        """Return True if no token with this key will be valid again: it was revoked, or there is none."""
        if self._operator is not None and key == self._operator.key:
            return False
        entry = self._entries.get(key)
        return entry is None or entry.revoked is not None

    def name_refusal(self, identity: Identity, name: str) -> BindCode | None:
        """Return why the permissions of an identity forbid a name or a custom domain; None if they allow it."""
        permissions = identity.permissions
        if "." in name:
            return None if permissions.allows_domain(name) else BindCode.DOMAIN_FORBIDDEN
        if not permissions.allows_name(name):
            return BindCode.FORBIDDEN
        if permissions.owns_name(name):
            return None
        if name in RESERVED:
            return BindCode.NAME_RESERVED
        return BindCode.NAME_TAKEN if name in self._reserved_names else None

    def _if_valid(self, entry: TokenEntry | None) -> Identity | None:
        return entry.identity if entry is not None and entry.state(self._now()) == "good" else None
