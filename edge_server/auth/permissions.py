"""Identities and their permissions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """The permissions of an identity. None stands for "no limit beyond those of the edge"."""

    tunnels: int | None = None
    """Tunnels at once, over all clients of the identity."""
    visitors: int | None = None
    """Visitors at once, over all tunnels of the identity."""
    names: tuple[str, ...] | None = None
    """Names that it may ask for, exact or with ``*``; empty: only random ones. An exact name is reserved for the
    tokens that list it."""
    domains: tuple[str, ...] | None = None
    """Custom domains that it may bind, exact or with ``*`` for all names below; empty: none."""
    tcp_ports: range | None = None
    """Public TCP ports that it may bind; an empty range: none."""
    bandwidth: int | None = None
    """Bytes a second that the visitors of all its tunnels together may send, and the same again to receive."""
    expires: int | None = None
    """Seconds since the epoch at which every permission ends."""

    def allows_another_tunnel(self, others: int) -> bool:
        """Return True if one more tunnel may be opened beside ``others`` existing ones."""
        return self.tunnels is None or others < self.tunnels

    def allows_name(self, name: str) -> bool:
        """Return True if some pattern of :attr:`names` matches."""
        return self.names is None or any(fnmatchcase(name, pattern) for pattern in self.names)

    def allows_domain(self, domain: str) -> bool:
        """Return True if some pattern of :attr:`domains` matches."""
        return self.domains is None or any(fnmatchcase(domain, pattern) for pattern in self.domains)

    def owns_name(self, name: str) -> bool:
        """Return True if :attr:`names` lists this exact name, which reserves it."""
        return self.names is not None and name in self.names

    @property
    def allows_ports(self) -> bool:
        """Return True if it may bind at least one public TCP port."""
        return self.tcp_ports is None or len(self.tcp_ports) > 0


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of a valid token."""

    key: str
    """Public identifier for tickets, logs and commands; the token cannot be derived from it."""
    permissions: Permissions = field(default_factory=Permissions)
