"""A visitor of an episode, and the reasons for which it may be reset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.model.tcp import Peer

if TYPE_CHECKING:
    from edge_server.tunnels.tunnel import Tunnel
    from quictunnel.transport.splice import TcpSplice
    from tests.model.edge import ModelEdge
    from tests.model.program import Program, Ticket

REFUSED_BY_SERVICE = "refused by the local service"
CLOSED = "the tunnel was closed"
WITHDRAWN = "the operator has withdrawn the name or its token"
"""Reasons for which a visitor may be reset."""


class Visitor:
    """Visitor, from its ClientHello on."""

    def __init__(
        self, number: int, edge: ModelEdge, tunnel: Tunnel, protocol: TcpSplice, ticket: Ticket, *, by_port: bool
    ) -> None:
        self.number = number
        self.ticket = ticket
        """Of the name for which it comes."""
        self.edge = edge
        self.tunnel = tunnel
        """The tunnel that it came for; that of its name is looked up again when its handshake is complete."""
        self.by_port = by_port
        self.splice = protocol
        self.peer = Peer(2 * number, f"visitor {number}")
        self.origin: Peer | None = None
        self.is_in = False
        """Its handshake is complete."""
        self.came_at = 0.0
        self.excuse = ""
        """Reason why it may be reset although neither end has reset it."""
        self.client_session: Any = None
        self.refused_by: Program | None = None
        """The program whose local service has refused it last."""

    def __repr__(self) -> str:
        return f"{self.peer} with {self.origin}"

    def may_be_reset(self, why: str) -> None:
        """Note a reason for a reset by the tunnel; those that pass give way to others."""
        if self.excuse in ("", REFUSED_BY_SERVICE, CLOSED):
            self.excuse = why

    @property
    def ends(self) -> list[Peer]:
        return [peer for peer in (self.peer, self.origin) if peer is not None]

    @property
    def is_served(self) -> bool:
        """Return True if both directions ended in good order at both ends."""
        return self.origin is not None and all(peer.is_complete for peer in self.ends)

    @property
    def is_over(self) -> bool:
        return all(peer.is_done for peer in self.ends)
