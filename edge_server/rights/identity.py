"""Identities and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What an identity may do. None: as much as the edge itself allows."""

    tunnels: int | None = None
    """Tunnels at once, of all its clients together."""
    visitors: int | None = None
    """Visitors at once, of all its tunnels together."""
    tcp_ports: range | None = None
    """The public TCP ports that it may have; an empty range: none."""
    expires: int | None = None
    """Seconds since the epoch from which on it may nothing."""

    def allows_tunnel_beside(self, others: int) -> bool:
        """Whether one more may be opened."""
        return self.tunnels is None or others < self.tunnels

    @property
    def allows_ports(self) -> bool:
        """Whether it may have any public TCP port."""
        return self.tcp_ports is None or len(self.tcp_ports) > 0


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whose token was good."""

    key: str
    """A name for it in tickets, logs and commands, from which the token cannot be found."""
    rights: Rights = field(default_factory=Rights)
