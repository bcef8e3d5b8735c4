"""Facts about an edge on which the response to a Bind depends, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_server.tunnels.options import TunnelOptions

if TYPE_CHECKING:
    from edge_server.auth.permissions import Identity
    from edge_server.tunnels.tickets import Ticket
    from quictunnel.wire.codes import BindCode
    from quictunnel.wire.messages import Bind

PREVIOUS_TICKET_SECONDS: Final = 30.0
"""Seconds for which the previous ticket of a name is valid, too: by then a client has received the latest one,
or its link has been closed by the idle timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelFacts:
    """The tunnel that has the requested name now."""

    owner: str
    options: TunnelOptions = field(default_factory=TunnelOptions)
    tcp_port: int = 0
    """Its TCP port; 0 for none."""
    is_port_free: bool = True
    """True unless another identity owns that port."""
    generation: int = 1
    """Generation of its latest ticket."""
    ticket_age: float = 0.0
    """Seconds since that ticket was issued, or since this edge restored the tunnel."""
    client_id: bytes = b""
    """ID of its client (``messages.BindV2.client_id``); empty if the client did not send it."""
    is_first_bind: bool = False
    """True if this client got the name by its first Bind (``again`` False), so it is newer than every earlier
    holder of the name."""
    is_pool: bool = False
    backends: int = 1
    """Clients that serve it; 0 while it is kept for a client that has not reconnected yet."""
    is_of_this_session: bool = False
    """True if the requesting session serves it."""
    takeover_ages: tuple[float, ...] = ()
    """Seconds since each of the latest takeovers by name (at most ``MAX_TAKEOVERS``), oldest first."""

    def is_too_old(self, generation: int) -> bool:
        """Return True if a ticket of that generation is too old to take the name over.

        For :data:`PREVIOUS_TICKET_SECONDS` the previous ticket is valid, too: the response with the latest one
        may have been lost, and the client may have returned with a new session.
        """
        if generation >= self.generation:
            return False
        return generation < self.generation - 1 or self.ticket_age >= PREVIOUS_TICKET_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFacts:
    """Facts about the requested name, or about the random one that would be assigned."""

    name: str
    owner: str | None = None
    """Its owner by the claims; ``BANNED_OWNER`` if the operator has banned it, None if it is free."""
    forbidden: BindCode | None = None
    """The refusal by the permissions of the token; None if they allow the name."""
    can_claim: bool = True
    """True if the identity owns it, or may own one more name or port."""
    other_domains: int = 0
    """Number of other custom domains that the identity holds."""
    allows_h2: bool = True
    """True if HTTP/2 may be offered for it."""
    can_certify: bool = True
    """True if it has a certificate, or one can be ordered."""
    has_share: bool = True
    """True if the identity's share of the edge allows one more tunnel with these options."""
    has_share_if_replaced: bool = True
    """True if the share allows the new tunnel once the current tunnel of the name is replaced."""
    tunnel: TunnelFacts | None = None
    """The current tunnel of the name; None if there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFacts:
    """Facts about the TCP port that a Bind requests by number."""

    is_free: bool = True
    """True if the identity owns it, or it has no owner."""
    is_banned: bool = False
    """True if the operator has banned it."""
    can_claim: bool = True
    """True if the identity owns it, or may own one more name or port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindFacts:
    """The facts on which a decision depends in addition to the request."""

    identity: Identity
    name: NameFacts
    port: PortFacts = field(default_factory=PortFacts)
    ticket: Ticket | None = None
    """The content of the ticket in the request, if this edge issued it to this identity."""
    is_draining: bool = False
    """True if the edge grants no new leases to this client."""
    points_here: bool = True
    """True if the requested domain points to this edge, as far as is known."""
    session_leases: int = 0
    """Leases of the requesting session."""
    owner_leases: int = 0
    """Leases of the identity, over all of its sessions."""
    can_generate_name: bool = True
    """True if the identity may be assigned one more random name now."""


def chosen_name(bind: Bind) -> str:
    """Return the name or custom domain that a client chose; empty if it accepts any name."""
    return bind.domain or bind.name


def ticket_for(bind: Bind, ticket: Ticket | None) -> Ticket | None:
    """Return the ticket; None if it is for another name than the requested one."""
    chosen = chosen_name(bind)
    return ticket if ticket is not None and chosen in ("", ticket.name) else None


def requested_name(bind: Bind, ticket: Ticket | None) -> str:
    """Return the requested name, by choice or by ticket; empty if a new random one is to be assigned."""
    used = ticket_for(bind, ticket)
    return chosen_name(bind) or ("" if used is None else used.name)
