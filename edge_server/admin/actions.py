"""What an operator can do from the page. Each is said in the log, with who asked for it, whatever the level."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
from msgspec import Meta

from edge_server.admin.models import id_of
from quictunnel.transport.qlog import NotTracedError
from quictunnel.wire.codes import BindCode, SessionCode

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_server.clients.session import ClientSession
    from edge_server.observability.introspection import Introspection
    from edge_server.tunnels.lease import Lease

audit: Final = logging.getLogger("edge_server.audit")
audit.setLevel(logging.INFO)  # who ended what is said also where --log-level is higher


class Done(msgspec.Struct, frozen=True):
    """An action that was carried out."""

    action: str
    target: Annotated[str, Meta(description="What it was done to; empty for the edge itself.")]


class Traced(Done, frozen=True):
    """A session is traced, or no more."""

    is_traced: Annotated[
        bool,
        Meta(description="Whether it is from now on. After a DELETE it is where ``--qlog`` traces all."),
    ]
    file: Annotated[
        str | None,
        Meta(description="What is or was written; null: it is away, and the file begins when it comes back."),
    ]


class RefusedError(Exception):
    """An action that cannot be done although there is what it is for; says why."""


class Actions:
    """See the module. Each returns None when there is no such thing."""

    def __init__(self, scene: Introspection, drain: Callable[[], None]) -> None:
        self._scene = scene
        self._drain = drain

    def drain(self, target: str, who: str) -> Done:
        """Take nobody any more, let those who are in finish within ``--grace``, and end the edge."""
        _say(who, "drains the edge", "drain", "")
        self._drain()
        return Done("drain", target)

    def end_session(self, target: str, who: str) -> Done | None:
        """End a session, its tunnels and their visitors. The client gives up; started again, it may come back."""
        found = self._session(target)
        if found is None:
            return None
        guest, whose = found
        _say(who, f"ends session {target} of client {whose}", "end session", target)
        guest.end(SessionCode.ENDED)
        return Done("end_session", target)

    def trace_session(self, target: str, who: str) -> Traced | None:
        """Write what its QUIC connection does to a file, and what those do that take its place. Raises
        RefusedError when there can be no file."""
        found = self._session(target)
        if found is None:
            return None
        guest, whose = found
        try:
            file = self._scene.tracing.begin(guest)
        except NotTracedError as error:
            raise RefusedError(str(error)) from None
        where = f"to {file}" if file is not None else "as soon as it is back"
        _say(who, f"traces session {target} of client {whose} {where}", "trace session", target)
        return Traced("trace_session", target, is_traced=True, file=_text(file))

    def end_trace(self, target: str, who: str) -> Traced | None:
        """Withdraw that."""
        found, tracing = self._session(target), self._scene.tracing
        if found is None or not tracing.is_asked_for(found[0]):
            return None
        guest, whose = found
        file = tracing.end(guest)
        _say(who, f"traces session {target} of client {whose} no more", "end trace", target)
        return Traced("end_trace", target, is_traced=tracing.file_of(guest) is not None, file=_text(file))

    def close_tunnel(self, target: str, who: str) -> Done | None:
        """End a tunnel and its visitors; its clients are told that it was withdrawn. The name is not banned."""
        scene = self._scene
        held = scene.registry.find(target)
        if held is None:
            return None
        _say(who, f"closes tunnel {target} of client {held.owner}", "close tunnel", target)
        for lease in tuple(scene.registry.alive):
            if lease.name == target:  # also those whose lease is over, and who stayed
                lease.end_visitors()
        for lease in tuple(held.pool.members) if held.pool is not None else (held,):
            self._take_away(lease)
        return Done("close_tunnel", target)

    def end_visitor(self, target: str, who: str) -> Done | None:
        """Reset one visitor's connection."""
        scene = self._scene
        number = scene.ledger.number_of(target)
        visit = next((visit for visit in scene.ledger.now if visit.number == number), None)
        if visit is None:
            return None
        _say(who, f"ends visitor {target} of {visit.lease}, from {visit.host}", "end visitor", target)
        is_ended = any(lease.end_visit(visit) for lease in tuple(scene.registry.alive))
        return Done("end_visitor", target) if is_ended else None

    def _session(self, target: str) -> tuple[ClientSession, str] | None:
        """Which that is, and whose."""
        for guest in self._scene.guests:
            if guest.identity is not None and id_of(guest) == target:
                return guest, guest.identity.key
        return None

    def _take_away(self, lease: Lease) -> None:
        self._scene.claims.record("closed", lease, "")
        if lease.holdings is None:
            self._scene.pending.give_up(lease)
        else:
            lease.holdings.lose(lease, BindCode.BANNED)


def _text(file: Path | None) -> str | None:
    return str(file) if file is not None else None


def _say(who: str, what: str, action: str, target: str) -> None:
    fields = {"audit": action, "target": target, "operator": who}
    audit.info("the operator at %s %s", who, what, extra={"fields": fields})
