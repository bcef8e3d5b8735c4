"""Actions of the operator. Each is logged with the address of the operator, at any log level."""

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

audit: Final = logging.getLogger("edge_server.audit")
audit.setLevel(logging.INFO)  # the audit log is written also where --log-level is higher


class Done(msgspec.Struct, frozen=True):
    """An action that was carried out."""

    action: str
    target: Annotated[str, Meta(description="The object of the action; empty for the edge itself.")]


class Traced(Done, frozen=True):
    """A change to the tracing of a session."""

    is_traced: Annotated[
        bool,
        Meta(
            description="True if the session is traced now; after a DELETE only with ``--qlog``, which traces all."
        ),
    ]
    file: Annotated[
        str | None,
        Meta(
            description="The trace file; null while the session is disconnected: the file starts when it resumes."
        ),
    ]


class RefusedError(Exception):
    """An action that is impossible although its target exists; the message has the reason."""


class Actions:
    """The actions on one edge. Each returns None if its target does not exist.

    Args of each: ``target``, the ID or the name, and ``who``, the address of the operator for the log.
    """

    def __init__(self, introspection: Introspection, drain: Callable[[], None]) -> None:
        """``drain`` makes the owner of the edge drain and stop it."""
        self._introspection = introspection
        self._drain = drain

    def drain(self, who: str) -> Done:
        """Stop accepting connections, let active visitors finish within ``--grace``, and end the edge."""
        write_audit(who, "drains the edge", "drain", "")
        self._drain()
        return Done("drain", "")

    def end_session(self, target: str, who: str) -> Done | None:
        """End a session, its tunnels and their visitors. Its client stops; it may connect again when it is
        restarted."""
        found = self._session(target)
        if found is None:
            return None
        client, owner = found
        write_audit(who, f"ends session {target} of client {owner}", "end session", target)
        client.end(SessionCode.ENDED)
        return Done("end_session", target)

    def trace_session(self, target: str, who: str) -> Traced | None:
        """Write the events of a session's QUIC connection, and of later ones that replace it, to a file. Raises
        RefusedError if no file can be created."""
        found = self._session(target)
        if found is None:
            return None
        client, owner = found
        try:
            file = self._introspection.tracing.begin(client)
        except NotTracedError as error:
            raise RefusedError(str(error)) from None
        where = f"to {file}" if file is not None else "as soon as it resumes"
        write_audit(who, f"traces session {target} of client {owner} {where}", "trace session", target)
        return Traced("trace_session", target, is_traced=True, file=_text(file))

    def end_trace(self, target: str, who: str) -> Traced | None:
        """Stop tracing a session."""
        found, tracing = self._session(target), self._introspection.tracing
        if found is None or not tracing.is_chosen(found[0]):
            return None
        client, owner = found
        file = tracing.end(client)
        write_audit(who, f"stops tracing session {target} of client {owner}", "end trace", target)
        return Traced("end_trace", target, is_traced=tracing.file_of(client) is not None, file=_text(file))

    def close_tunnel(self, target: str, who: str) -> Done | None:
        """End a tunnel and its visitors; its clients are told that it was withdrawn. The name is not banned."""
        introspection = self._introspection
        found = introspection.registry.find(target)
        if found is None:
            return None
        write_audit(who, f"closes tunnel {target} of client {found.owner}", "close tunnel", target)
        for tunnel in tuple(introspection.registry.alive):
            if tunnel.name == target:  # including visitors that outlived a tunnel of this name
                tunnel.end_visitors()
        introspection.claims.add_to_history("closed", found, "")
        found.revoke_leases(BindCode.BANNED)
        introspection.pending.withdraw_kept(found)
        return Done("close_tunnel", target)

    def end_visitor(self, target: str, who: str) -> Done | None:
        """Reset the connection of one visitor."""
        introspection = self._introspection
        number = introspection.visitor_log.number_of(target)
        visit = next((visit for visit in introspection.visitor_log.active if visit.number == number), None)
        if visit is None:
            return None
        write_audit(
            who, f"ends visitor {target} of {visit.tunnel_name}, from {visit.address}", "end visitor", target
        )
        is_ended = any(tunnel.end_visit(visit) for tunnel in tuple(introspection.registry.alive))
        return Done("end_visitor", target) if is_ended else None

    def _session(self, target: str) -> tuple[ClientSession, str] | None:
        """Return the session of this ID, and the key of its token."""
        for client in self._introspection.clients:
            if client.identity is not None and id_of(client) == target:
                return client, client.identity.key
        return None


def _text(file: Path | None) -> str | None:
    return str(file) if file is not None else None


def write_audit(who: str, what: str, action: str, target: str) -> None:
    """Write a line of the audit log.

    Args:
        who: address of the operator.
        what: the action, as the end of a sentence; no secrets.
        action: its name, for programs.
        target: its object.
    """
    fields = {"audit": action, "target": target, "operator": who}
    audit.info("the operator at %s %s", who, what, extra={"fields": fields})
