"""Identities and what they may do."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """What an identity may do. None: as much as the edge itself allows."""

    tunnels: int | None = None
    """Tunnels at once, of all its clients together."""
    visitors: int | None = None
    """Visitors at once, of all its tunnels together."""
    names: tuple[str, ...] | None = None
    """The names that it may ask for, exact or with ``*``; none at all: only random ones. What is exact here is
    kept for those whose rights say so."""
    domains: tuple[str, ...] | None = None
    """The whole domains that it may have, exact or with ``*`` for any names below; none at all: none."""
    tcp_ports: range | None = None
    """The public TCP ports that it may have; an empty range: none."""
    bandwidth: int | None = None
    """Bytes a second that visitors of all its tunnels together may send, and as many that they may receive."""
    expires: int | None = None
    """Seconds since the epoch from which on it may nothing."""

    def allows_tunnel_beside(self, others: int) -> bool:
        """Whether one more may be opened."""
        return self.tunnels is None or others < self.tunnels

    def allows_name(self, name: str) -> bool:
        return self.names is None or any(fnmatchcase(name, pattern) for pattern in self.names)

    def allows_domain(self, domain: str) -> bool:
        return self.domains is None or any(fnmatchcase(domain, pattern) for pattern in self.domains)

    def owns_name(self, name: str) -> bool:
        """Whether the rights say this very name."""
        return self.names is not None and name in self.names

    @property
    def allows_ports(self) -> bool:
        """Whether it may have any public TCP port."""
        return self.tcp_ports is None or len(self.tcp_ports) > 0


@dataclass(frozen=True, slots=True)
class Identity:
    """Somebody whose token was good."""

    key: str
    """A name for it in tickets, logs and commands, from which the token cannot be found."""
    rights: Permissions = field(default_factory=Permissions)
