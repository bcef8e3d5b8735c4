"""The directory of public names: the host name, the tunnel and the owner of each.

A name is a label below the edge's domain, or a custom domain, which contains dots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.tunnels.ownership_store import BANNED_OWNER
from quictunnel.wire.labels import RANDOM_LABEL

if TYPE_CHECKING:
    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.tunnels.ownership import NameOwnership
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.tunnel import Tunnel


class NameDirectory:
    """Finds host names, tunnels and owners of names."""

    def __init__(self, domain: str, registry: Registry, claims: NameOwnership, tokens: TokenRegistry) -> None:
        self.domain = domain
        self._registry = registry
        self._claims = claims
        self._tokens = tokens

    def host_of(self, name: str) -> str:
        """Return the host name of a name."""
        return name if "." in name else f"{name}.{self.domain}"

    def name_of(self, host_name: str) -> str | None:
        """Return the name for a host name; None if no tunnel can have this host name."""
        label, _, domain = host_name.partition(".")
        if domain == self.domain:
            return label
        # A single label is a name below the edge's domain, and no host name.
        return host_name if domain else None

    def find(self, host_name: str) -> Tunnel | None:
        """Return the tunnel of a host name, or None."""
        name = self.name_of(host_name)
        return None if name is None else self._registry.find(name)

    def is_owned(self, host_name: str) -> bool:
        """Return True if a host name has an owner, connected or not, whose token may still use it.

        Certificates of such names are renewed.
        """
        name = self.name_of(host_name)
        if name is None:
            return False
        tunnel, claimed_by = self._registry.find(name), self._claims.owner(name)
        owner = claimed_by if tunnel is None else tunnel.owner
        if owner is None or claimed_by == BANNED_OWNER:
            return False
        identity = self._tokens.identity(owner)
        if identity is None:
            return False
        # The permissions of tokens cover chosen names only; random ones are assigned by the edge.
        return RANDOM_LABEL.fullmatch(name) is not None or self._tokens.name_refusal(identity, name) is None

    @property
    def in_use(self) -> frozenset[str]:
        """Return the names and TCP ports (``:PORT``, as in claims) of all tunnels, kept ones included."""
        tunnels = tuple(self._registry)
        return frozenset(each.name for each in tunnels) | {f":{each.tcp_port}" for each in tunnels}
