"""Owners of names and ports, and bans, as the operator's page lists and changes them.

It uses the database as ``quictunnel-edge name`` does, so a change takes effect within a second. All methods
run in the thread of the databases.
"""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.lists import ListQuery, ListView, Page
from edge_server.admin.state_types import Count, OwnerName, Timestamp
from edge_server.tunnels.claim_names import ClaimKind, format_claim, kind_of, label_below, parse_claim

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from edge_server.tunnels.ownership_store import Claim, HistoryEntry, OwnershipStore

NAME_SORTS: Final = ("name", "kind", "owner", "last_used")
"""Columns that can be sorted."""
MAX_EVENTS: Final = 500
"""Entries of the history in one response."""
MAX_NAME: Final = 300
"""Characters of a name in a request; a domain has at most 253."""


class Name(msgspec.Struct, frozen=True, kw_only=True):
    """A name, TCP port or network with an owner or a ban."""

    name: Annotated[str, Meta(description="A name, a port (:20022) or a network.")]
    kind: ClaimKind
    owner: Annotated[str | None, Meta(description="Key of a token; null: banned.")]
    owner_name: OwnerName
    is_banned: bool
    is_held: Annotated[bool, Meta(description="A tunnel has it now.")]
    last_used: Annotated[Timestamp, Meta(description="Last use, to within a day; of a ban, its time.")]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One name of one owner on one day."""

    name: Annotated[str, Meta(description="Empty: further names of that day together.")]
    owner: str
    owner_name: OwnerName
    since: Timestamp
    until: Timestamp
    port: Annotated[int | None, Meta(description="Its public TCP port.")]
    client: Annotated[str, Meta(description="Address of its first client; empty: unknown.")]
    last_client: str
    held: Annotated[int, Meta(description="Number of times that it was bound.", ge=0)]
    released: Count
    banned: Count
    visitors: Count


class Events(msgspec.Struct, frozen=True):
    """Part of the history of names."""

    items: list[Event]


class NameRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The object of a change."""

    name: Annotated[
        str, Meta(max_length=MAX_NAME, description="A name, a port (:20022), an address or a network.")
    ]


class ChangedName(msgspec.Struct, frozen=True, kw_only=True):
    """A change that was carried out."""

    name: str
    state: Annotated[str, Meta(description="banned or released.")]


class NameManagement:
    """The owners in the database. Methods raise ConfigError when it cannot be used."""

    def __init__(self, store: OwnershipStore, owner_name: Callable[[str], str], domain: str) -> None:
        """Use ``store``, which belongs to this object.

        ``owner_name`` returns the name of an owner; ``domain`` is the edge's.
        """
        self._store = store
        self._domain = domain
        self._owner_name = owner_name
        self._view: ListView[Name, Name] = ListView(
            key=lambda name: name.name,
            show=lambda name: name,
            texts=lambda name: (name.name, name.owner or "banned", name.owner_name),
            columns={
                "owner": lambda name: (name.is_banned, name.owner_name or name.owner or ""),
                **{column: attrgetter(column) for column in ("name", "kind", "last_used")},
            },
        )

    def page(self, query: ListQuery, only: str, in_use: Container[str]) -> Page[Name]:
        """Return a page of the names, sorted by name.

        Args:
            query: the part of the list.
            only: ``banned`` or ``owned``; empty for all.
            in_use: names and ports of tunnels, as in claims.
        """
        wanted = {"banned": True, "owned": False}.get(only)
        claims = [claim for claim in self._store.claims() if wanted in (None, claim.is_banned)]
        return self._view.page([self._shown(claim, in_use) for claim in claims], query)

    def release(self, text: str) -> ChangedName | None:
        """Make a name or port available to all tokens again, or lift a ban. Return None if it has no owner.
        Raises ClaimNameError."""
        what = parse_claim(text, self._domain)
        return ChangedName(name=format_claim(what), state="released") if self._store.remove(what) else None

    def ban(self, text: str) -> ChangedName:
        """Ban a name, port, address or network. Raises ClaimNameError."""
        what = parse_claim(text, self._domain)
        self._store.ban(what, int(time.time()))
        return ChangedName(name=format_claim(what), state="banned")

    def history(self, limit: int, name: str, owner: str) -> Events:
        """Return the latest entries of the history, the newest first."""
        entries = self._store.history(label_below(self._domain, name.lower()) or None, limit, owner or None)
        return Events([self._event(entry) for entry in reversed(entries)])

    def _shown(self, claim: Claim, in_use: Container[str]) -> Name:
        return Name(
            name=format_claim(claim.subject),
            kind=kind_of(claim.subject),
            owner=None if claim.is_banned else claim.owner,
            owner_name="" if claim.is_banned else self._owner_name(claim.owner),
            is_banned=claim.is_banned,
            is_held=claim.subject in in_use,
            last_used=claim.last_used,
        )

    def _event(self, entry: HistoryEntry) -> Event:
        return Event(
            name=entry.name,
            owner=entry.owner,
            owner_name=self._owner_name(entry.owner),
            since=entry.since,
            until=entry.until,
            port=entry.port or None,
            client=entry.host,
            last_client=entry.last_host,
            held=entry.held,
            released=entry.released,
            banned=entry.banned,
            visitors=entry.visitors,
        )
