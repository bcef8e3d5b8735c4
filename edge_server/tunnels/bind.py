"""Binding of names and ports by one client: requests, responses, takeover and release.

This module collects the facts about a Bind, :mod:`edge_server.tunnels.bind_policy` decides,
:mod:`edge_server.tunnels.registry` assigns the tunnel to the client, and this module sends the response. Names and
ports that a client chose are recorded as claims; random names are in tickets, in the snapshot and in the
history of names.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from edge_server.tunnels.backend import Backend, TicketRecord
from edge_server.tunnels.bind_facts import BindFacts, NameFacts, PortFacts, TunnelFacts, requested_name
from edge_server.tunnels.bind_policy import MAX_LEASES_PER_SESSION, BindRefusal
from edge_server.tunnels.grant import GrantKind
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import BANNED_OWNER
from edge_server.tunnels.public_port import PublicPort
from edge_server.tunnels.tickets import Ticket
from edge_server.tunnels.tunnel import Lease, Tunnel
from quictunnel.errors import ProtocolError
from quictunnel.shared.address import short_repr
from quictunnel.wire import labels
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import MAX_REASON, BindRefusedV3, Bound, Unbound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from edge_server.auth.permissions import Identity
    from edge_server.tunnels.bind_context import BindContext
    from edge_server.tunnels.grant import Grant, PortPlan
    from quictunnel.transport.session import Session
    from quictunnel.wire.messages import Bind

logger = logging.getLogger(__name__)


class PortUnavailableError(Exception):
    """The TCP port of a grant is not available."""

    def __init__(self, code: BindCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Bindings:
    """The leases of one client (a backend.BackendBindings)."""

    def __init__(self, context: BindContext, session: Session, end_superseded: Callable[[], None]) -> None:
        """``end_superseded`` ends the session: a newer one with the same ticket has taken one of its names."""
        self._context = context
        self._session = session
        self._end_superseded = end_superseded
        self._leases: dict[int, Lease] = {}
        self._revoked: dict[int, tuple[BindCode, str]] = {}
        """The latest :data:`MAX_LEASES_PER_SESSION` revoked leases, with the reasons. The refusal is sent again on
        each new link, because it may have been lost with the last one, until the client sends Unbind."""

    def __iter__(self) -> Iterator[Lease]:
        return iter(tuple(self._leases.values()))

    def is_held(self, number: int) -> bool:
        """Return True if the client holds the lease with this number."""
        return number in self._leases

    def bind(
        self, identity: Identity, bind: Bind, *, is_draining: bool, is_resumed: bool, points_here: bool = True
    ) -> None:
        """Answer a request for a lease.

        Args:
            identity: the client's identity.
            bind: its request.
            is_draining: True if the edge grants no new leases to this client.
            is_resumed: True if the session was resumed, so an earlier response may have been lost.
            points_here: False if the requested domain points to another server.

        Raises:
            ProtocolError: the number of the lease is in use.
        """
        if (revoked := self._revoked.get(bind.lease)) is not None:
            # A repeated request, because the response was lost with a link. The lease was revoked in the meantime.
            self._refuse(bind.lease, *revoked)
            return
        lease = self._leases.get(bind.lease)
        if lease is not None and not is_resumed:
            raise ProtocolError("a lease number was used twice")
        if lease is not None and not is_draining:
            self._confirm(lease)  # a repeated request, because the response was lost with a link
            return
        facts = self._facts(identity, bind, is_draining=is_draining, points_here=points_here)
        match self._context.policy.decide(bind, facts):
            case BindRefusal(code, reason, level, explanation):
                name = short_repr(requested_name(bind, facts.ticket))
                logger.log(level, "client %s: Bind of name %s refused: %s", identity.key, name, reason)
                self._refuse(bind.lease, code, explanation)
            case grant:
                self._apply(identity, bind, grant)

    def _refuse(self, number: int, code: BindCode, reason: str) -> None:
        """Refuse a lease, with the reason if the client's version of the protocol has one."""
        refused = BindRefusedV3(number, code, reason[:MAX_REASON])
        self._session.send(refused if self._session.version >= 3 else refused.without_reason())

    def unbind(self, number: int) -> None:
        """Release a lease at the client's request, and confirm it."""
        # The lease may have been refused, or its confirmation may still be on the way to the client.
        if number in self._leases:
            self._release(number)
        self._revoked.pop(number, None)
        self._session.send(Unbound(number))

    def release_all(self, *, for_good: bool) -> None:
        """Release all leases, because the session is over. ``for_good``: the client has ended it."""
        for number in tuple(self._leases):
            self._release(number, for_good=for_good)

    def apply_permissions_of(self, identity: Identity) -> None:
        """Apply the changed limits of visitors and bandwidth. :mod:`edge_server.tunnels.forbidden_tunnels` ends
        what the client may no longer have."""
        for lease in self._leases.values():
            self._limit(lease.tunnel, identity)

    def revoke(self, backend: Backend, code: BindCode, reason: str = "") -> None:
        """Revoke a lease, and send the reason to the client. Its active visitors stay."""
        number = backend.number
        lease = self._leases.get(number)
        if lease is not None and lease.backend is backend:
            self._release(number)
            if len(self._revoked) >= MAX_LEASES_PER_SESSION:
                del self._revoked[next(iter(self._revoked))]
            self._revoked[number] = (code, reason)
            if self._session.is_ready:
                self._refuse(number, code, reason)

    def end_superseded(self) -> None:
        """End the session, because a newer one with the same ticket has taken one of its names."""
        self._end_superseded()

    def session_resumed(self) -> None:
        """Send the refusals of revoked leases again, and serve waiting visitors: the session has a new link."""
        for number, revoked in self._revoked.items():
            self._refuse(number, *revoked)
        for lease in self:
            lease.tunnel.serve_waiting()

    @property
    def _address(self) -> str:
        return str(self._session.link.connection.address[0])

    # Facts.

    def _facts(self, identity: Identity, bind: Bind, *, is_draining: bool, points_here: bool) -> BindFacts:
        """Return the facts on which the response to a Bind depends in addition to the request."""
        context = self._context
        ticket = context.sealer.open(bind.ticket, identity.key) if bind.ticket else None
        name = requested_name(bind, ticket) or context.registry.generate_name()
        return BindFacts(
            identity=identity,
            name=self._name_facts(identity, bind, name),
            port=self._port_facts(identity, bind.tcp_port),
            ticket=ticket,
            is_draining=is_draining,
            points_here=points_here,
            session_leases=len(self._leases),
            owner_leases=context.registry.held_by(identity.key),
            can_generate_name=context.random_name_limit.can_take(identity.key),
        )

    def _name_facts(self, identity: Identity, bind: Bind, name: str) -> NameFacts:
        """Return the facts about the name that a client wants."""
        context, key, options = self._context, identity.key, TunnelOptions.of(bind)
        host_name, registry = context.name_directory.host_of(name), context.registry
        certificate_policy = context.certificate_policy
        tunnel, has_share = registry.find(name), registry.may_hold(key, options, instead_of=None)
        return NameFacts(
            name=name,
            owner=context.claims.owner(name),
            forbidden=context.tokens.name_refusal(identity, name),
            can_claim=context.claims.may_claim(key, name),
            other_domains=registry.domains_of(key, besides=name),
            allows_h2=not bind.h2 or certificate_policy.allows_h2(host_name, is_custom_domain="." in name),
            can_certify=not bind.domain or certificate_policy.can_certify(host_name),
            has_share=has_share,
            has_share_if_replaced=has_share or registry.may_hold(key, options, instead_of=tunnel),
            tunnel=None if tunnel is None else self._tunnel_facts(key, tunnel),
        )

    def _tunnel_facts(self, key: str, tunnel: Tunnel) -> TunnelFacts:
        """Return the facts about the tunnel that has a name."""
        now, ticket = time.monotonic(), tunnel.ticket_record
        return TunnelFacts(
            owner=tunnel.owner,
            options=tunnel.options,
            tcp_port=tunnel.tcp_port,
            is_port_free=self._context.claims.is_free_to(key, tunnel.tcp_port),
            generation=ticket.generation,
            ticket_age=now - ticket.since,
            client_id=ticket.client_id,
            is_first_bind=ticket.is_first_bind,
            is_pool=tunnel.is_pool,
            backends=len(tunnel.backends),
            is_of_this_session=bool(tunnel.backends) and tunnel.backends[0].session is self._session,
            takeover_ages=tuple(now - at for at in tunnel.takeovers),
        )

    def _port_facts(self, identity: Identity, port: int) -> PortFacts:
        """Return the facts about a requested TCP port; 0: none."""
        claims, key = self._context.claims, identity.key
        return PortFacts(
            is_free=not port or claims.is_free_to(key, port),
            is_banned=bool(port) and claims.owner(f":{port}") == BANNED_OWNER,
            can_claim=not port or claims.may_claim(key, f":{port}"),
        )

    # Grants.

    def _apply(self, identity: Identity, bind: Bind, grant: Grant) -> None:
        """Apply a grant, and send the response. Nothing changes if the TCP port is not available."""
        context = self._context
        try:
            port = self._open_port(identity, grant.port)
        except PortUnavailableError as error:
            self._refuse(bind.lease, error.code, str(error))
            return
        if grant.is_generated:
            context.random_name_limit.try_take(identity.key)
        tunnel = context.registry.find(grant.name)
        if tunnel is None:
            tunnel = Tunnel(
                grant.name,
                owner=identity.key,
                options=grant.options,
                visitor_filter=grant.visitor_filter,
                admission=context.admission,
                visitor_log=context.visitor_log,
            )
        is_pending = grant.kind is GrantKind.TAKE_OVER and not tunnel.backends
        ticket = TicketRecord(grant.generation, grant.client_id, grant.is_first_bind)
        backend = Backend(self._session, bind.lease, self, ticket)
        replaced = context.registry.assign(tunnel, backend, grant)
        if is_pending:
            context.pending.end_wait_for_client(tunnel)
        if grant.port is None or not grant.port.keeps:
            self._change_port(tunnel, port)
        lease = self._leases[bind.lease] = Lease(tunnel, backend)
        self._limit(tunnel, identity)
        self._record(tunnel, bind)
        self._confirm(lease)
        tunnel.serve_waiting()
        if replaced is not None:
            self._end_replaced(tunnel, replaced, by_ticket=grant.by_ticket)

    def _open_port(self, identity: Identity, plan: PortPlan | None) -> PublicPort | None:
        """Return a new TCP port; None if none was requested, or the tunnel keeps the one that it has.

        Raises PortUnavailableError.
        """
        if plan is None or plan.keeps:
            return None
        context, key = self._context, identity.key
        if plan.exact:
            sock = context.ports.bind_exact(plan.exact, key)
        else:
            is_free = partial(context.claims.is_free_to, key)
            sock = context.ports.bind(key, plan.preferred, identity.permissions.tcp_ports, is_free=is_free)
        if sock is None:
            ports = f"{context.ports.range.start}-{context.ports.range.stop - 1}"
            if plan.exact and plan.exact not in context.ports.range:
                reason = f"TCP port {plan.exact} is outside this edge's range, {ports}"
            elif plan.exact:
                reason = f"TCP port {plan.exact} is in use"
            else:
                reason = f"no TCP port of this edge's range, {ports}, is free for the token"
            raise PortUnavailableError(BindCode.PORT_TAKEN if plan.exact else BindCode.NO_PORT, reason)
        return PublicPort(sock)

    def _change_port(self, tunnel: Tunnel, port: PublicPort | None) -> None:
        """Give a tunnel another TCP port, or none."""
        before, tunnel.port = tunnel.port, port
        if before is not None:
            before.stop()
            self._context.ports.quarantine(before.number, tunnel.owner)
        if port is not None:
            self._context.supervisor.start(port.listen(tunnel.tcp_visitor), "listening for TCP visitors")

    def _limit(self, tunnel: Tunnel, identity: Identity) -> None:
        tunnel.owner_max_visitors = identity.permissions.visitors
        tunnel.bandwidth_limiters = self._context.bandwidth_limiter.buckets_of(identity)

    def _record(self, tunnel: Tunnel, bind: Bind) -> None:
        """Claim a chosen name or port, add to the history, and order a missing certificate."""
        context = self._context
        if not labels.RANDOM_LABEL.fullmatch(tunnel.name):
            context.claims.claim(tunnel.owner, tunnel.name)
        if bind.tcp_port:
            context.claims.claim(tunnel.owner, f":{bind.tcp_port}")
        context.claims.add_to_history("held", tunnel, self._address)
        if not tunnel.options.passthrough:
            host_name = context.name_directory.host_of(tunnel.name)
            context.certificate_policy.order_missing(host_name, tunnel.owner, h2=tunnel.options.h2)

    @staticmethod
    def _end_replaced(tunnel: Tunnel, replaced: Backend, *, by_ticket: bool) -> None:
        """End the lease of a client whose name another client of the same identity has taken over.

        A client with the ticket continues the work of the old one, so the old session ends. A client without it
        may do something else; the old session then keeps its other leases.
        """
        logger.info("a newer session of client %s took over %s", tunnel.owner, tunnel.name)
        if by_ticket:
            replaced.bindings.end_superseded()
        else:
            replaced.bindings.revoke(replaced, BindCode.NAME_TAKEN_OVER)

    # Confirmation and release.

    def _confirm(self, lease: Lease) -> None:
        context, (tunnel, backend) = self._context, lease
        host_name, port = context.name_directory.host_of(tunnel.name), tunnel.tcp_port
        ticket = Ticket(tunnel.name, port, tunnel.owner, backend.ticket_record.generation)
        self._session.send(
            Bound(
                lease=backend.number,
                host=host_name,
                port=context.https_port,
                unencrypted_host=context.tcp_host if port else "",
                unencrypted_port=port,
                ticket=context.sealer.seal(ticket),
            )
        )
        logger.info("client %s holds %s%s", tunnel.owner, host_name, f" and port {port}" * bool(port))

    def _release(self, number: int, *, for_good: bool = True) -> None:
        context, (tunnel, backend) = self._context, self._leases.pop(number)
        backend.is_released = for_good
        context.claims.add_to_history("released", tunnel, self._address, backend.total_visitors)
        port = tunnel.tcp_port
        if context.registry.remove_backend(tunnel, backend):
            tunnel.close()
            if port:
                context.ports.quarantine(port, tunnel.owner)
        else:
            tunnel.serve_waiting()
        if port:
            context.claims.mark_used(tunnel.owner, f":{port}")
        context.claims.mark_used(tunnel.owner, tunnel.name)
        logger.info("client %s released %s", tunnel.owner, context.name_directory.host_of(tunnel.name))
