"""The end of open tunnels that a token may no longer have, after its permissions have changed.

The rules are those for a new Bind that depend on the permissions (:mod:`edge_server.tunnels.bind_policy`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_server.tunnels.bind_facts import BindFacts, NameFacts
from quictunnel.wire import labels
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import Bind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edge_server.auth.permissions import Identity
    from edge_server.auth.token_registry import TokenRegistry
    from edge_server.tunnels.backend import Backend
    from edge_server.tunnels.bind_policy import BindPolicy, BindRefusal
    from edge_server.tunnels.pending import PendingTunnels
    from edge_server.tunnels.registry import Registry
    from edge_server.tunnels.tunnel import Tunnel

logger = logging.getLogger(__name__)

RESERVATIONS: Final = frozenset({BindCode.NAME_RESERVED, BindCode.NAME_TAKEN})
"""Refusals of a name that the token allows by a pattern, but does not list."""


class _Holding(NamedTuple):
    """A lease, or a tunnel that is kept for a client."""

    since: float
    """Time at which it began (time.monotonic)."""
    tunnel: Tunnel
    backend: Backend | None
    """None: the tunnel is kept."""


class ForbiddenTunnels:
    """Ends the tunnels that a token may no longer have, with their visitors."""

    def __init__(
        self, policy: BindPolicy, *, registry: Registry, pending: PendingTunnels, tokens: TokenRegistry
    ) -> None:
        self._policy = policy
        self._registry = registry
        self._pending = pending
        self._tokens = tokens
        self._version = -1
        """Version of the tokens by which the kept tunnels were checked."""

    def end(self, changed: Iterable[Identity], *, is_draining: bool) -> None:
        """End the tunnels of tokens whose permissions have changed, and the kept tunnels that no client would get.

        Args:
            changed: the identities of connected clients before the change; several for one token if its clients
                were connected at different times.
            is_draining: True if the clients move to another edge, which counts their tunnels.
        """
        listed: dict[str, set[str]] = {}
        for before in changed:
            listed.setdefault(before.key, set()).update(before.permissions.names or ())
        if self._tokens.version != self._version:
            self._version = self._tokens.version
            for tunnel in self._registry:
                if not tunnel.backends:
                    listed.setdefault(tunnel.owner, set())
        if not listed:
            return
        for key, holdings in self._holdings(listed).items():
            identity = self._tokens.identity(key)
            if identity is not None:
                self._end_forbidden(identity, holdings, listed[key], is_draining=is_draining)
        self._end_left_visitors(listed)

    def _holdings(self, owners: Mapping[str, object]) -> dict[str, list[_Holding]]:
        """Return what each of these owners holds."""
        found: dict[str, list[_Holding]] = {}
        for tunnel in self._registry:
            if tunnel.owner in owners:
                holdings = found.setdefault(tunnel.owner, [])
                # The first client may have taken the tunnel over, from an earlier session of its own for example.
                for backend in tunnel.backends[1:]:
                    holdings.append(_Holding(backend.ticket_record.since, tunnel, backend))
                holdings.append(_Holding(tunnel.since, tunnel, tunnel.backends[0] if tunnel.backends else None))
        return found

    def _end_forbidden(
        self, identity: Identity, holdings: list[_Holding], listed: set[str], *, is_draining: bool
    ) -> None:
        """End what an identity may not hold. Beyond its limit of tunnels, the newest ones end."""
        allowed = 0
        for _, tunnel, backend in sorted(holdings, key=lambda holding: holding.since):
            older = 0 if is_draining else allowed
            refusal = self._refusal(identity, tunnel, None if backend is None else listed, older=older)
            if refusal is None:
                allowed += 1
                continue
            logger.info("%s is withdrawn from client %s: %s", tunnel.name, identity.key, refusal.reason)
            if backend is None:
                self._pending.withdraw_kept(tunnel)
            else:
                backend.bindings.revoke(backend, refusal.code, refusal.explanation)
                tunnel.end_visitors_of(backend)
            if not tunnel.is_open:
                tunnel.end_visitors()

    def _end_left_visitors(self, listed: Mapping[str, set[str]]) -> None:
        """End the visitors that have stayed at closed tunnels."""
        for tunnel in tuple(self._registry.alive):
            if not tunnel.is_open and tunnel.visitors and tunnel.owner in listed:
                identity = self._tokens.identity(tunnel.owner)
                if identity is None or self._refusal(identity, tunnel, listed[tunnel.owner], older=0):
                    tunnel.end_visitors()

    def _refusal(
        self, identity: Identity, tunnel: Tunnel, listed: set[str] | None, *, older: int
    ) -> BindRefusal | None:
        """Return why an identity may not hold a tunnel; None if it may.

        Args:
            identity: the identity with its present permissions.
            tunnel: the tunnel.
            listed: names that its permissions listed before. A name that they did not list stays although it is
                reserved now. None: every reservation counts, because the client still has to request the name.
            older: number of older tunnels that the identity keeps.
        """
        name, port = tunnel.name, tunnel.tcp_port
        is_random, is_domain = labels.RANDOM_LABEL.fullmatch(name) is not None, "." in name
        forbidden = None if is_random else self._tokens.name_refusal(identity, name)
        if forbidden in RESERVATIONS and listed is not None and name not in listed:
            forbidden = None
        bind = Bind(
            0,
            unencrypted=port != 0,
            h2=False,
            ticket=b"",
            name="" if is_random or is_domain else name,
            domain=name if is_domain else "",
            tcp_port=port,
        )
        facts = BindFacts(identity=identity, name=NameFacts(name=name, forbidden=forbidden), owner_leases=older)
        return self._policy.refuse_open(bind, facts)
