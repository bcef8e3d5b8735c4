"""Backends: the clients that serve a tunnel, each with one lease of its session."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from edge_server.ingress import proxy_protocol
from quictunnel.transport.link import KEEPALIVE

if TYPE_CHECKING:
    from edge_server.tunnels.visitor_log import EntryPoint
    from quictunnel.transport.session import Session
    from quictunnel.transport.splice import Splice
    from quictunnel.transport.stream import Stream
    from quictunnel.wire.codes import BindCode

UNKNOWN_PEER: Final = ("", 0)
SILENT: Final = 1.5 * KEEPALIVE
"""Seconds without a packet from a client after which other clients of its pool are preferred."""
REFUSAL_PENALTY: Final = 5.0
"""Seconds for which other clients of a pool are preferred after a client's origin has refused a visitor."""


@dataclass(slots=True)
class TicketRecord:
    """The latest ticket of a lease, and the client that it was given to."""

    generation: int = 1
    client_id: bytes = b""
    """``messages.BindV2.client_id``; empty if the client did not send it."""
    is_first_bind: bool = False
    """True if this client got the name by its first Bind (``again`` False), so it is newer than every earlier
    holder of the name."""
    since: float = field(default_factory=time.monotonic)
    """Time at which it was issued, or at which this edge restored its tunnel (time.monotonic)."""


class BackendBindings(Protocol):
    """The bindings of a client, as far as other parts may end its leases."""

    def revoke(self, backend: Backend, code: BindCode, reason: str = "") -> None:
        """Revoke the lease of the backend, and send the reason to the client: the code, and a clause for people if
        there is more to say."""

    def end_superseded(self) -> None:
        """End the client's session, because a newer session with the same ticket has taken the name."""


class Backend:
    """One client that serves a tunnel."""

    def __init__(
        self, session: Session, number: int, bindings: BackendBindings, ticket_record: TicketRecord
    ) -> None:
        """Serve as the lease ``number`` of a session."""
        self.session = session
        self.number = number
        self.bindings = bindings
        self.ticket_record = ticket_record
        self.is_released = False
        """True if its client or the operator has ended the lease; False if the session was lost."""
        self.active = 0
        """Visitors that it serves now."""
        self.total_visitors = 0
        """Visitors for whom it was chosen so far."""
        self._penalised_until = 0.0

    @property
    def is_reachable(self) -> bool:
        """Return True if a visitor would most likely reach the client."""
        if not self.session.is_ready:
            return False
        return asyncio.get_running_loop().time() - self.session.stats().last_heard < SILENT

    @property
    def is_healthy(self) -> bool:
        """Return True if the client is reachable and its origin has not refused a visitor lately."""
        return self.is_reachable and time.monotonic() >= self._penalised_until

    def note_refusal(self) -> None:
        """Note that its origin has refused a visitor; others are preferred for :data:`REFUSAL_PENALTY` seconds."""
        self._penalised_until = time.monotonic() + REFUSAL_PENALTY

    def open(self, address: str, port: int, *, tls: bool) -> Stream | None:
        """Return a new stream for a visitor from this address; None if the client allows no more."""
        return self.session.open(lease=self.number, tls=tls, host=address, port=port)


def proxy_header(splice: Splice, entry_point: EntryPoint, version: int) -> bytes:
    """Return the header of the PROXY protocol for a visitor."""
    tls = None
    if entry_point.is_tls_terminated:
        tls_object = splice.transport.get_extra_info("ssl_object")
        cipher = tls_object.cipher()
        tls = proxy_protocol.Tls(
            entry_point.host_name,
            tls_object.version() or "",
            cipher[0] if cipher else "",
            tls_object.selected_alpn_protocol() or "",
        )
    elif entry_point.host_name:
        tls = proxy_protocol.Tls(entry_point.host_name)
    return proxy_protocol.header(version, address_of(splice, "peername"), address_of(splice, "sockname"), tls)


def address_of(splice: Splice, which: str) -> tuple[str, int]:
    """Return the address (``peername`` or ``sockname``) and port of an end of a visitor's connection."""
    address, port = (splice.transport.get_extra_info(which) or UNKNOWN_PEER)[:2]
    return address, port
