"""Token database: digests, permissions and dates. The tokens themselves are not stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token import digest_of, new_token
from edge_server.storage.sqlite import Database

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILE_NAME: Final = "tokens.db"
"""File name in the state directory."""
SCHEMA_VERSION: Final = 1
MAX_NOTE: Final = 200
"""Characters of a note."""

_SCHEMA: Final = """
CREATE TABLE token (
    key TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    note TEXT NOT NULL,
    created INTEGER NOT NULL,
    revoked INTEGER,
    rights TEXT NOT NULL
) STRICT
"""
_SELECT: Final = "SELECT key, digest, note, created, revoked, rights FROM token"


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """A token as stored in the database."""

    key: str
    digest: bytes
    note: str
    created: int
    """Seconds since the epoch, like ``revoked``."""
    revoked: int | None
    permissions: Permissions

    @property
    def identity(self) -> Identity:
        """Identity of the token's holder."""
        return Identity(self.key, self.permissions)

    def state(self, now: float) -> str:
        """Return ``good``, ``revoked`` or ``expired``."""
        if self.revoked is not None:
            return "revoked"
        expires = self.permissions.expires
        return "expired" if expires is not None and expires <= now else "good"


class TokenStore:
    """The token database. Every method raises ConfigError when it cannot be read or written."""

    def __init__(self, directory: Path) -> None:
        """``directory``: the state directory. Nothing is opened before first use."""
        self._database = Database(directory / FILE_NAME, _SCHEMA, SCHEMA_VERSION)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def create(self, permissions: Permissions, note: str, now: int) -> tuple[str, TokenEntry]:
        """Create a token and return it with its entry. The token itself cannot be read again later."""
        key, token = new_token()
        entry = TokenEntry(key, digest_of(token), note[:MAX_NOTE], now, None, permissions)
        with self._database.writing() as database:
            database.execute(
                "INSERT INTO token VALUES (?, ?, ?, ?, NULL, ?)",
                (entry.key, entry.digest, entry.note, entry.created, _encode_permissions(permissions)),
            )
        return token, entry

    def revoke(self, key: str, now: int) -> bool:
        """Revoke a token; return False if none has this key. A revoked token stays revoked and is kept for the
        record."""
        with self._database.writing() as database:
            database.execute("UPDATE token SET revoked = ? WHERE key = ? AND revoked IS NULL", (now, key))
            return database.execute("SELECT 1 FROM token WHERE key = ?", (key,)).fetchone() is not None

    def change(self, key: str, edit: Callable[[TokenEntry], tuple[Permissions, str]]) -> TokenEntry | None:
        """Replace the permissions and the note of a token, in one transaction.

        Args:
            key: key of the token.
            edit: returns the new permissions and note for the present entry. What it raises is raised here, and
                nothing is changed.

        Returns:
            The changed entry; None if no token has this key, or it is revoked.
        """
        with self._database.writing() as database:
            database.execute("BEGIN IMMEDIATE")  # the entry stays as it was read until it is written
            row = database.execute(f"{_SELECT} WHERE key = ? AND revoked IS NULL", (key,)).fetchone()
            if row is None:
                return None
            entry = _decode_entry(row)
            permissions, note = edit(entry)
            changed = replace(entry, permissions=permissions, note=note[:MAX_NOTE])
            database.execute(
                "UPDATE token SET rights = ?, note = ? WHERE key = ?",
                (_encode_permissions(permissions), changed.note, key),
            )
            return changed

    def entries(self) -> list[TokenEntry]:
        """Return all tokens, the oldest first; an empty list before the first one is created."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            return [_decode_entry(row) for row in database.execute(f"{_SELECT} ORDER BY created, key")]

    def changes(self) -> int:
        """Return a number that changes after another process has written."""
        return self._database.changes()


def _decode_entry(row: tuple[Any, ...]) -> TokenEntry:
    """Return the entry of a row of :data:`_SELECT`."""
    key, digest, note, created, revoked, permissions = row
    return TokenEntry(key, digest, note, created, revoked, _decode_permissions(permissions))


def _encode_permissions(permissions: Permissions) -> str:
    ports = permissions.tcp_ports
    return json.dumps(
        {
            "tunnels": permissions.tunnels,
            "visitors": permissions.visitors,
            "names": permissions.names,
            "domains": permissions.domains,
            "tcp_ports": None if ports is None else [ports.start, ports.stop],
            "bandwidth": permissions.bandwidth,
            "expires": permissions.expires,
        }
    )


def _decode_permissions(text: str) -> Permissions:
    fields = json.loads(text)
    ports, names = fields.pop("tcp_ports"), fields.pop("names", None)
    # Tokens from before domains existed have no permission for any.
    domains = fields.pop("domains", ())
    # An unknown field would be a permission that is not enforced: raise TypeError, and do not start.
    return Permissions(
        tcp_ports=None if ports is None else range(*ports),
        names=None if names is None else tuple(names),
        domains=None if domains is None else tuple(domains),
        **fields,
    )
