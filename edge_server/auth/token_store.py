"""Token database: digests, permissions and dates. The tokens themselves are not stored."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token import digest_of, new_token
from edge_server.storage.sqlite import Database

if TYPE_CHECKING:
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

    def change(self, key: str, permissions: Permissions, note: str) -> bool:
        """Replace the permissions and the note of a token; return False if none has this key, or it is revoked."""
        with self._database.writing() as database:
            changed = database.execute(
                "UPDATE token SET rights = ?, note = ? WHERE key = ? AND revoked IS NULL",
                (_encode_permissions(permissions), note[:MAX_NOTE], key),
            )
            return changed.rowcount > 0

    def entries(self) -> list[TokenEntry]:
        """Return all tokens, the oldest first; an empty list before the first one is created."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT key, digest, note, created, revoked, rights FROM token ORDER BY created, key"
            )
            return [TokenEntry(key, digest, note, created, revoked, _decode_permissions(rights))
                    for key, digest, note, created, revoked, rights in rows]  # fmt: skip

    def changes(self) -> int:
        """Return a number that changes after another process has written."""
        return self._database.changes()


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
