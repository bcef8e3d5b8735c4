"""A granted Bind, as the policy decides it and the bindings apply it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_server.ingress.ip_filter import IpFilter
    from edge_server.tunnels.options import TunnelOptions


class GrantKind(enum.Enum):
    """The way in which a client gets a name."""

    NEW = "the name is free"
    JOIN = "the clients of a pool serve it together"
    TAKE_OVER = "another client of the identity had it, or it was kept for one"


@dataclass(frozen=True, slots=True, kw_only=True)
class PortPlan:
    """The TCP port of a grant."""

    keeps: bool = False
    """True if the tunnel keeps the port that it has; the other fields are then 0."""
    exact: int = 0
    """The only acceptable port; 0: any."""
    preferred: int = 0
    """The port to use if it is available; 0: any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A Bind that is granted. Nothing has changed yet: the grant still has to be applied."""

    kind: GrantKind
    name: str
    is_generated: bool
    """True if it is a new random name."""
    by_ticket: bool
    """True if the request has a ticket for the name."""
    options: TunnelOptions
    visitor_filter: IpFilter
    is_pool: bool
    port: PortPlan | None
    """None: no TCP port."""
    generation: int
    """Generation of the ticket to issue."""
    client_id: bytes
    """Random ID of the client, by which its retries are recognised; empty if it sent none."""
    is_first_bind: bool
    """As in ``bind_facts.TunnelFacts``."""
