"""Tokens as the operator's page lists, creates, limits and revokes them.

It uses the database as ``quictunnel-edge token`` does, so a change takes effect within a second. Methods
without ``async`` run in the thread of the databases.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edge_server.admin.lists import ListQuery, ListView, Page
from edge_server.admin.state_types import OwnerName, Timestamp
from edge_server.auth.credentials import credential_of
from edge_server.auth.permission_texts import (
    MAX_COUNT,
    PermissionTextError,
    format_ports,
    parse_bandwidth,
    parse_domains,
    parse_expiry,
    parse_names,
    parse_ports,
)
from edge_server.auth.permissions import Permissions
from edge_server.auth.token_store import MAX_NOTE
from quictunnel.errors import ConfigError
from quictunnel.shared.output import escape_unprintable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.auth.token_store import TokenEntry, TokenStore

logger = logging.getLogger(__name__)

MAX_TEXT: Final = 8000
"""Characters of a list of names or domains; the body is limited as well."""
TOKEN_SORTS: Final = ("note", "key", "state", "created", "expires")
"""Columns that can be sorted."""

Note = Annotated[str, Meta(max_length=MAX_NOTE, description="Purpose or owner.")]
Limit = Annotated[int, Meta(ge=0, le=MAX_COUNT)]
Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A token, without its secret. null stands for no limit beyond those of the edge."""

    key: Annotated[str, Meta(description="Its public identifier.")]
    note: OwnerName
    state: Annotated[str, Meta(description="good, expired or revoked.")]
    created: Timestamp
    revoked: Timestamp | None
    expires: Annotated[Timestamp | None, Meta(description="null: never.")]
    tunnels: Annotated[int | None, Meta(description="Tunnels at once.")]
    visitors: Annotated[int | None, Meta(description="Visitors at once.")]
    names: Annotated[list[str] | None, Meta(description="Names that it may request.")]
    domains: Annotated[list[str] | None, Meta(description="Custom domains that it may bind; null: all.")]
    tcp_ports: Annotated[str | None, Meta(description="A-B, or none.")]
    bandwidth: Annotated[int | None, Meta(description="Bytes a second, in each direction.")]


class NewToken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to create. Texts are as on the command line; null stands for no limit."""

    note: Note = ""
    tunnels: Limit | None = None
    visitors: Limit | None = None
    names: Annotated[Text | None, Meta(description="A,B* or none.")] = None
    domains: Annotated[Text, Meta(description="A,*.B, none or all.")] = "none"
    tcp_ports: Annotated[Text | None, Meta(description="A-B or none.")] = None
    bandwidth: Annotated[Text | None, Meta(description="500k, 10M or 1G.")] = None
    expires: Annotated[Text | None, Meta(description="12h, 30d, 8w or 2027-01-31.")] = None


class TokenChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The fields of a token to change, as in :class:`NewToken`; absent ones stay."""

    note: Note | UnsetType = UNSET
    tunnels: Limit | UnsetType | None = UNSET
    visitors: Limit | UnsetType | None = UNSET
    names: Text | UnsetType | None = UNSET
    domains: Text | UnsetType = UNSET
    tcp_ports: Text | UnsetType | None = UNSET
    bandwidth: Text | UnsetType | None = UNSET
    expires: Text | UnsetType | None = UNSET


class CreatedToken(msgspec.Struct, frozen=True, kw_only=True):
    """A new token."""

    token: Annotated[str, Meta(description="The token itself, which cannot be shown again.")]
    credential: Annotated[
        str | None,
        Meta(
            description="The token with the edge's address and authority, for ``quictunnel login``; null: the "
            "edge's public address is not known."
        ),
    ]
    entry: Token


class TokenManagement:
    """The tokens in the database. Methods raise ConfigError when it cannot be used."""

    def __init__(self, store: TokenStore, directory: Path) -> None:
        """Use ``store``, which belongs to this object. ``directory``: the state directory."""
        self._store = store
        self._directory = directory
        self._view: ListView[Token, Token] = ListView(
            key=lambda token: token.key,
            show=lambda token: token,
            texts=lambda token: (token.key, token.note, *(token.names or ()), *(token.domains or ())),
            columns={
                "note": lambda token: (not token.note, token.note.casefold()),
                "expires": lambda token: (token.expires is None, token.expires),
                **{name: attrgetter(name) for name in ("key", "state", "created")},
            },
        )

    def page(self, query: ListQuery, only: str) -> Page[Token]:
        """Return a page of the tokens, the newest first. ``only``: in this state."""
        now = time.time()
        shown = [_shown(entry, now) for entry in reversed(self._store.entries())]
        return self._view.page([token for token in shown if only in ("", token.state)], query)

    def create(self, wanted: NewToken) -> CreatedToken:
        """Create a token. Raises PermissionTextError."""
        now = int(time.time())
        values = {field: getattr(wanted, field) for field in wanted.__struct_fields__}
        note = values.pop("note")
        secret, entry = self._store.create(_changed(Permissions(domains=()), values, now), note, now)
        try:
            credential = credential_of(self._directory, secret)
        except ConfigError as error:  # the token exists and has to be shown all the same
            logger.warning("token %s has no credential: %s", entry.key, error)
            credential = None
        return CreatedToken(token=secret, credential=credential, entry=_shown(entry, now))

    def change(self, key: str, wanted: TokenChange) -> Token | None:
        """Change a token. Return None if there is none with this key or it is revoked. Raises
        PermissionTextError."""
        now = int(time.time())
        fields = {field: getattr(wanted, field) for field in wanted.__struct_fields__}
        values = {field: value for field, value in fields.items() if value is not UNSET}
        note = values.pop("note", None)

        def edit(entry: TokenEntry) -> tuple[Permissions, str]:
            return _changed(entry.permissions, values, now), entry.note if note is None else note

        changed = self._store.change(key, edit)
        return None if changed is None else _shown(changed, now)

    def revoke(self, key: str) -> Token | None:
        """Revoke a token for good. Return None if there is none with this key."""
        return self.shown(key) if self._store.revoke(key, int(time.time())) else None

    def find(self, key: str) -> TokenEntry | None:
        """Return the entry of a token, or None."""
        return next((entry for entry in self._store.entries() if entry.key == key), None)

    def shown(self, key: str) -> Token | None:
        """Return a token as it is shown, or None."""
        entry = self.find(key)
        return None if entry is None else _shown(entry, time.time())


_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "names": parse_names,
    "domains": parse_domains,
    "tcp_ports": lambda text: parse_ports(text, what="tcp_ports"),
    "bandwidth": parse_bandwidth,
}


def _changed(permissions: Permissions, values: dict[str, Any], now: int) -> Permissions:
    """Return permissions with some fields replaced by those of a request. Raises PermissionTextError, with the
    name of the field."""
    parsed: dict[str, Any] = {}
    for field, value in values.items():
        parse = _PARSERS.get(field)
        try:
            if field == "expires":
                parsed[field] = None if value is None else parse_expiry(value, now)
            else:
                parsed[field] = value if value is None or parse is None else parse(value)
        except PermissionTextError as error:
            raise PermissionTextError(f"{field}: {error}") from None
    return replace(permissions, **parsed)


def _shown(entry: TokenEntry, now: float) -> Token:
    permissions = entry.permissions
    names, domains, ports = permissions.names, permissions.domains, permissions.tcp_ports
    return Token(
        key=entry.key,
        note=escape_unprintable(entry.note),
        state=entry.state(now),
        created=entry.created,
        revoked=entry.revoked,
        expires=permissions.expires,
        tunnels=permissions.tunnels,
        visitors=permissions.visitors,
        names=None if names is None else list(names),
        domains=None if domains is None else list(domains),
        tcp_ports=None if ports is None else format_ports(ports),
        bandwidth=permissions.bandwidth,
    )
