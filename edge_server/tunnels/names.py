"""The public names of an edge: the host name of each, the tunnel that has it, and its owner.

A name is a label below the edge's domain, or a whole domain, which has dots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_server.tunnels.ownership_store import BANNED
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

    def name_of(self, host: str) -> str | None:
        """Return the name of a host name; None if no tunnel can have that one."""
        label, _, domain = host.partition(".")
        if domain == self.domain:
            return label
        # A label alone is a name below the edge's domain, and no host name.
        return host if domain else None

    def find(self, host: str) -> Tunnel | None:
        """Return the tunnel of a host name, or None."""
        name = self.name_of(host)
        return None if name is None else self._registry.find(name)

    def is_owned(self, host: str) -> bool:
        """Return True if a host name has an owner, present or away, whose token may still have it.

        The certificates of such names are renewed.
        """
        name = self.name_of(host)
        if name is None:
            return False
        tunnel, claimed_by = self._registry.find(name), self._claims.owner(name)
        owner = claimed_by if tunnel is None else tunnel.owner
        if owner is None or claimed_by == BANNED:
            return False
        identity = self._tokens.identity(owner)
        if identity is None:
            return False
        # A random name was given by this edge, so the rights of tokens do not mention it.
        return RANDOM_LABEL.fullmatch(name) is not None or self._tokens.name_refusal(identity, name) is None

    @property
    def held(self) -> frozenset[str]:
        """Return the names and TCP ports (``:PORT``, as in claims) that are held or kept for a client."""
        tunnels = tuple(self._registry)
        return frozenset(each.name for each in tunnels) | {f":{each.tcp_port}" for each in tunnels}
