"""Facts about an edge on which the answer to a Bind depends, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_server.tunnels.options import TunnelOptions

if TYPE_CHECKING:
    from edge_server.auth.permissions import Identity
    from edge_server.tunnels.tickets import Ticket
    from quictunnel.wire.codes import BindCode
    from quictunnel.wire.messages import Bind

UNCONFIRMED: Final = 30.0
"""Seconds after which a client has its ticket, or has lost its link, which is dead after as many in silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldTunnel:
    """The tunnel that has the wanted name now."""

    owner: str
    options: TunnelOptions = field(default_factory=TunnelOptions)
    tcp_port: int = 0
    """Its TCP port; 0 for none."""
    is_port_free: bool = True
    """Nobody else owns that port."""
    generation: int = 1
    """Generation of the ticket that was given for it last."""
    age: float = 0.0
    """Seconds since that ticket was given."""
    program: bytes = b""
    """Program that holds it (``messages.BindV2``), if its client said so."""
    is_first_ask: bool = False
    """That program had not had it before: it was started later than one that asks again."""
    is_pool: bool = False
    backends: int = 1
    """Clients that serve it; 0 while it is kept for a client that has not come yet."""
    is_own: bool = False
    """The session that asks is the one that holds it."""
    takeover_ages: tuple[float, ...] = ()
    """Seconds since each of the latest take-overs by name (``MAX_TAKEOVERS`` of them), oldest first."""

    def is_newer_than(self, generation: int) -> bool:
        """Return True if a ticket of that generation is too old to take the name.

        The ticket before the last one may take it for a while: the answer with the last one may have been lost,
        and the client be back in another session.
        """
        if generation >= self.generation:
            return False
        return generation < self.generation - 1 or self.age >= UNCONFIRMED


@dataclass(frozen=True, slots=True, kw_only=True)
class NameFacts:
    """Facts about the wanted name, or about a random one that would be given."""

    name: str
    owner: str | None = None
    """Its owner by the claims; ``BANNED`` if nobody may have it, None if it is free."""
    forbidden: BindCode | None = None
    """The refusal by the permissions of the token."""
    can_claim: bool = True
    """The identity owns it, or may own one more name or port."""
    other_domains: int = 0
    """Whole domains that the identity holds beside this one."""
    allows_h2: bool = True
    """HTTP/2 may be offered for it."""
    can_certify: bool = True
    """There is, or will be, a certificate for it."""
    has_share: bool = True
    """The identity's share of the edge allows one more tunnel with these options."""
    has_share_instead: bool = True
    """The identity's share allows it instead of the tunnel that has the name now."""
    tunnel: HeldTunnel | None = None
    """The tunnel that has it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PortFacts:
    """Facts about the TCP port that a Bind asks for by number."""

    is_free: bool = True
    """It is the identity's, or nobody's."""
    can_claim: bool = True
    """The identity owns it, or may own one more name or port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BindFacts:
    """Everything but the request that a decision depends on."""

    identity: Identity
    name: NameFacts
    port: PortFacts = field(default_factory=PortFacts)
    ticket: Ticket | None = None
    """The ticket that was shown, if this edge gave it to this identity."""
    is_leaving: bool = False
    """The edge gives no new leases to this client."""
    points_here: bool = True
    """The domain that is asked for leads to this edge, as far as is known."""
    session_leases: int = 0
    """Leases of the session that asks."""
    owner_leases: int = 0
    """Leases of the identity, over all of its sessions."""
    has_fresh_name: bool = True
    """The identity may be given one more random name now."""


def asked_name(bind: Bind) -> str:
    """Return the name, or whole domain, that a client chose; empty if it takes any."""
    return bind.domain or bind.name


def ticket_for(bind: Bind, ticket: Ticket | None) -> Ticket | None:
    """Return the ticket unless it is for another name than the one that is asked for."""
    asked = asked_name(bind)
    return ticket if ticket is not None and asked in ("", ticket.name) else None


def wanted_name(bind: Bind, ticket: Ticket | None) -> str:
    """Return the name that a client wants, by choice or by its ticket; empty: a fresh random one."""
    used = ticket_for(bind, ticket)
    return asked_name(bind) or ("" if used is None else used.name)
