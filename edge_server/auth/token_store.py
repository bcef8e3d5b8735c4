"""Tokens on disk: hashes, rights and dates. What a token itself says is nowhere in it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_server.auth.permissions import Identity, Permissions
from edge_server.auth.token import digest_of, new_token
from edge_server.storage.sqlite import Database

if TYPE_CHECKING:
    from pathlib import Path

FILE: Final = "tokens.db"
VERSION: Final = 1
MAX_NOTE: Final = 200

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
    """One token, as the database has it."""

    key: str
    digest: bytes
    note: str
    created: int
    """Seconds since the epoch, as is ``revoked``."""
    revoked: int | None
    rights: Permissions

    @property
    def identity(self) -> Identity:
        return Identity(self.key, self.rights)

    def state(self, now: float) -> str:
        """``good``, ``revoked`` or ``expired``."""
        if self.revoked is not None:
            return "revoked"
        expires = self.rights.expires
        return "expired" if expires is not None and expires <= now else "good"


class TokenStore:
    """The database. Every method raises ConfigError when it cannot be read or written."""

    def __init__(self, directory: Path) -> None:
        self._database = Database(directory / FILE, _SCHEMA, VERSION)

    def close(self) -> None:
        self._database.close()

    def create(self, rights: Permissions, note: str, now: int) -> tuple[str, TokenEntry]:
        """A new token, which is told this once, and its entry."""
        key, token = new_token()
        entry = TokenEntry(key, digest_of(token), note[:MAX_NOTE], now, None, rights)
        with self._database.writing() as database:
            database.execute(
                "INSERT INTO token VALUES (?, ?, ?, ?, NULL, ?)",
                (entry.key, entry.digest, entry.note, entry.created, _written(rights)),
            )
        return token, entry

    def revoke(self, key: str, now: int) -> bool:
        """Whether there was such a token. One that is revoked stays so, and is kept for the record."""
        with self._database.writing() as database:
            database.execute("UPDATE token SET revoked = ? WHERE key = ? AND revoked IS NULL", (now, key))
            return database.execute("SELECT 1 FROM token WHERE key = ?", (key,)).fetchone() is not None

    def entries(self) -> list[TokenEntry]:
        """All of them, oldest first; none when no token was ever made."""
        if not self._database.exists:
            return []
        with self._database.reading() as database:
            rows = database.execute(
                "SELECT key, digest, note, created, revoked, rights FROM token ORDER BY created, key"
            )
            return [TokenEntry(key, digest, note, created, revoked, _read(rights))
                    for key, digest, note, created, revoked, rights in rows]  # fmt: skip

    def changes(self) -> int:
        """A number that changes when another process has written."""
        return self._database.changes()


def _written(rights: Permissions) -> str:
    ports = rights.tcp_ports
    return json.dumps(
        {
            "tunnels": rights.tunnels,
            "visitors": rights.visitors,
            "names": rights.names,
            "domains": rights.domains,
            "tcp_ports": None if ports is None else [ports.start, ports.stop],
            "bandwidth": rights.bandwidth,
            "expires": rights.expires,
        }
    )


def _read(text: str) -> Permissions:
    fields = json.loads(text)
    ports, names = fields.pop("tcp_ports"), fields.pop("names", None)
    # Tokens that were made before there were domains were not meant to have any.
    domains = fields.pop("domains", ())
    # Something that is not known here would be a right that is not enforced: TypeError, and no edge.
    return Permissions(
        tcp_ports=None if ports is None else range(*ports),
        names=None if names is None else tuple(names),
        domains=None if domains is None else tuple(domains),
        **fields,
    )
