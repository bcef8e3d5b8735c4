"""The visitors that left within the last hour, for the operator's page: in memory only, and fair by token."""

from __future__ import annotations

import time
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta

from edge_server.admin.lists import ListQuery, ListView, Page
from edge_server.admin.state_types import Bytes, Seconds, Timestamp

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.tunnels.visitor_log import EndReason, VisitorConnection, VisitorLog

MAX_VISITS: Final = 2000
"""Visits in memory, about 500 bytes each. When there is no place, a token with more than its share gives one."""
KEPT_SECONDS: Final = 3600.0
"""Seconds for which a visit is shown: as long as the addresses of the top talkers."""
FAILURES: Final = frozenset(("origin", "refused", "stalled", "closed", "sent_away"))
"""Labels of the ends that are not the visitor's choice."""

SORTS: Final = ("ended_at", "address", "tunnel", "owner", "duration", "bytes_in", "bytes_out")
"""Columns that can be sorted."""


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """A public connection that has ended."""

    id: str
    address: str
    port: int
    tunnel: str
    owner: str
    owner_name: Annotated[str, Meta(description="Note of the owner's token; empty: none.")]
    kind: Annotated[str, Meta(description="tls, tcp or passthrough.")]
    ended_at: Timestamp
    duration: Seconds
    first_byte: Annotated[
        float | None, Meta(description="Seconds to the first byte of the origin; null: none came.")
    ]
    bytes_in: Bytes
    bytes_out: Bytes
    ending: Annotated[str, Meta(description="How it ended, as a label of the metrics.")]
    reason: Annotated[str, Meta(description="How it ended, in words.")]
    is_failure: Annotated[bool, Meta(description="The visitor was not served to the end.")]


class _Kept(NamedTuple):
    """A visit in memory; the name of its owner is looked up when it is shown."""

    number: int
    visit: Visit


class VisitHistory:
    """The latest visits of each token."""

    def __init__(
        self,
        visitor_log: VisitorLog,
        owner_name: Callable[[str], str],
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Start empty.

        Args:
            visitor_log: names the visits.
            owner_name: returns the name of an owner.
            wall: returns seconds since the epoch.
        """
        self._visitor_log = visitor_log
        self._owner_name = owner_name
        self._wall = wall
        self._by_owner: dict[str, deque[_Kept]] = {}
        self._count = 0
        self._added = 0
        self._view: ListView[Visit, Visit] = ListView(
            key=lambda visit: visit.id,
            show=self._show,
            texts=lambda visit: (
                visit.address,
                visit.tunnel,
                visit.owner,
                owner_name(visit.owner),
                visit.reason,
            ),
            columns={name: attrgetter(name) for name in SORTS},
        )

    def __len__(self) -> int:
        return self._count

    def add(self, visit: VisitorConnection, duration: float, ending: EndReason) -> None:
        """Add a visitor whose connection ended (``VisitorLog.on_end``)."""
        if self._count >= MAX_VISITS:
            self._make_place(visit.owner)
        self._added += 1
        self._count += 1
        kept = Visit(
            id=self._visitor_log.id_of(visit),
            address=visit.address,
            port=visit.port,
            tunnel=visit.tunnel_name,
            owner=visit.owner,
            owner_name="",
            kind=visit.kind,
            ended_at=self._wall(),
            duration=duration,
            first_byte=visit.time_to_first_byte,
            bytes_in=visit.bytes_in,
            bytes_out=visit.bytes_out,
            ending=ending.label,
            reason=ending.description,
            is_failure=ending.label in FAILURES,
        )
        self._by_owner.setdefault(visit.owner, deque()).append(_Kept(self._added, kept))

    def page(self, query: ListQuery, *, tunnel: str = "", is_failure: bool = False) -> Page[Visit]:
        """Return a page of the visits, the newest first.

        Args:
            query: the part of the list.
            tunnel: only visits of this tunnel; empty for all.
            is_failure: True for visits that failed only.
        """
        wanted = (
            visit
            for visit in self._newest_first()
            if tunnel in ("", visit.tunnel) and (visit.is_failure or not is_failure)
        )
        return self._view.page(wanted, query)

    def _newest_first(self) -> list[Visit]:
        since = self._wall() - KEPT_SECONDS
        for owner, kept in tuple(self._by_owner.items()):
            while kept and kept[0].visit.ended_at < since:
                self._drop_oldest(owner)
        everything = [each for kept in self._by_owner.values() for each in kept]
        everything.sort(reverse=True)
        return [visit for _, visit in everything]

    def _make_place(self, owner: str) -> None:
        """Remove the oldest visit of a token with more than its share: of ``owner``, if it has that."""
        share = MAX_VISITS // (len(self._by_owner) + (owner not in self._by_owner))
        if len(self._by_owner.get(owner, ())) < max(1, share):
            owner = max(self._by_owner, key=lambda each: len(self._by_owner[each]))
        self._drop_oldest(owner)

    def _drop_oldest(self, owner: str) -> None:
        kept = self._by_owner[owner]
        kept.popleft()
        self._count -= 1
        if not kept:
            del self._by_owner[owner]

    def _show(self, visit: Visit) -> Visit:
        return msgspec.structs.replace(visit, owner_name=self._owner_name(visit.owner))
