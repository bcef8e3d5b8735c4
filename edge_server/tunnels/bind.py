"""Binding of names and ports by one client: requests, answers, take-over and release.

:mod:`edge_server.tunnels.bind_policy` decides who may have which name and port; this file carries it out. It
remembers names and ports that somebody asked for in the claims, random names in tickets, and ports in the port
table.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from edge_server.tunnels.bind_facts import BindFacts, HeldTunnel, NameFacts, PortFacts, wanted_name
from edge_server.tunnels.bind_policy import MAX_LEASES, MAX_TAKEOVERS, GrantKind, Refusal
from edge_server.tunnels.lease import Lease
from edge_server.tunnels.load_balancer import LoadBalancer
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.tickets import Ticket
from quictunnel.errors import ProtocolError
from quictunnel.wire import labels
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import BindRefused, Bound, Unbound

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from edge_server.auth.permissions import Identity
    from edge_server.tunnels.bind_context import BindContext
    from edge_server.tunnels.bind_policy import Grant, PortPlan
    from quictunnel.transport.session import Session
    from quictunnel.wire.messages import Bind

logger = logging.getLogger(__name__)


class Refused(Exception):  # noqa: N818 - an answer, not an error
    """A lease that cannot be given."""

    def __init__(self, code: BindCode) -> None:
        super().__init__(code.name)
        self.code = code


class Bindings:
    """The leases of one client."""

    def __init__(self, context: BindContext, session: Session, superseded: Callable[[], None]) -> None:
        """``superseded`` ends the session because a newer one of the same program has a name of it."""
        self._context = context
        self._session = session
        self._superseded = superseded
        self._leases: dict[int, Lease] = {}
        self._lost: dict[int, BindCode] = {}
        """Leases that were taken away, and why. The client is told on each of its links, because what was said may
        have been lost with one, until it gives the lease back. Of :data:`MAX_LEASES` at most, the latest."""

    def __iter__(self) -> Iterator[Lease]:
        return iter(tuple(self._leases.values()))

    def is_held(self, number: int) -> bool:
        """Return True if the client holds the lease with this number."""
        return number in self._leases

    def bind(
        self, identity: Identity, bind: Bind, *, is_leaving: bool, is_resumed: bool, points_here: bool = True
    ) -> None:
        """Answer a request for a lease.

        Args:
            identity: the client's identity.
            bind: its request.
            is_leaving: the edge gives no new leases to this client.
            is_resumed: the session was resumed, so an earlier answer may have been lost.
            points_here: False if the domain that it asks for leads elsewhere.

        Raises ProtocolError.
        """
        if (code := self._lost.get(bind.lease)) is not None:
            # Asked again, because the answer was lost with a link; it was taken away meanwhile.
            self._session.say(BindRefused(bind.lease, code))
            return
        held = self._leases.get(bind.lease)
        if held is not None and not is_resumed:
            raise ProtocolError("a lease number was used twice")
        if held is not None and not is_leaving:
            self._confirm(held)  # asked again, because the answer was lost with a link
            return
        try:
            self._give(identity, bind, is_leaving=is_leaving, points_here=points_here)
        except Refused as refused:
            self._session.say(BindRefused(bind.lease, refused.code))

    def unbind(self, number: int) -> None:
        """Give a lease up at the client's request, and confirm that."""
        # The client may be giving up a lease that was refused, or is confirmed at this very moment.
        if number in self._leases:
            self._release(number)
        self._lost.pop(number, None)
        self._session.say(Unbound(number))

    def release_all(self, *, for_good: bool) -> None:
        """Release all leases, because the session is over. ``for_good``: the client has ended it."""
        for number in tuple(self._leases):
            self._release(number, for_good=for_good)

    def have_rights_of(self, identity: Identity) -> None:
        """Apply the changed rights of the identity."""
        for lease in self._leases.values():
            self._limit(lease, identity)

    def lose(self, lease: Lease, code: BindCode) -> None:
        """Take a lease away from the client, which is told why. Visitors who are in stay."""
        if self._leases.get(lease.number) is lease:
            self._release(lease.number)
            if len(self._lost) >= MAX_LEASES:
                del self._lost[next(iter(self._lost))]
            self._lost[lease.number] = code
            if self._session.can_carry:
                self._session.say(BindRefused(lease.number, code))

    def supersede(self) -> None:
        """End the session, because a newer one of the same program has a name of it."""
        self._superseded()

    def client_is_back(self) -> None:
        """Tell the client again what it lost, and let waiting visitors in: it is back on another link."""
        for number, code in self._lost.items():
            self._session.say(BindRefused(number, code))
        for lease in self:
            lease.client_is_back()

    @property
    def _host(self) -> str:
        return str(self._session.link.connection.address[0])

    # Giving.

    def _facts(
        self, identity: Identity, bind: Bind, held: Lease | None, name: str, ticket: Ticket | None
    ) -> BindFacts:
        """Return the facts on which the answer to a Bind depends."""
        context, key, options = self._context, identity.key, TunnelOptions.of(bind)
        host, certificates, port = context.names.host_of(name), context.certificates, bind.tcp_port
        return BindFacts(
            identity=identity,
            ticket=ticket,
            session_leases=len(self._leases),
            owner_leases=context.registry.held_by(key),
            has_fresh_name=context.fresh_names.can_take(key),
            has_share=context.registry.may_hold(key, options, instead_of=None),
            has_share_instead=context.registry.may_hold(key, options, instead_of=held),
            name=NameFacts(
                name=name,
                owner=context.claims.owner(name),
                forbidden=context.tokens.name_refusal(identity, name),
                can_claim=context.claims.may_claim(key, name),
                other_domains=context.registry.domains_of(key, besides=name),
                allows_h2=not bind.h2 or certificates.allows_h2(host, is_whole_domain="." in name),
                can_certify=not bind.domain or certificates.can_certify(host),
                tunnel=None if held is None else self._held(key, held),
            ),
            port=PortFacts(
                is_free=not port or context.claims.is_free_to(key, port),
                can_claim=not port or context.claims.may_claim(key, f":{port}"),
            ),
        )

    def _held(self, key: str, lease: Lease) -> HeldTunnel:
        """Return the facts about the lease that has a name."""
        now = time.monotonic()
        return HeldTunnel(
            owner=lease.owner,
            options=lease.terms,
            tcp_port=lease.tcp_port,
            is_port_free=self._context.claims.is_free_to(key, lease.tcp_port),
            generation=lease.generation,
            age=now - lease.since,
            program=lease.program,
            is_first_ask=lease.is_first_ask,
            is_pool=lease.pool is not None,
            backends=0 if lease.session is None else 1 if lease.pool is None else len(lease.pool.members),
            is_own=lease.session is self._session,
            takeover_ages=tuple(now - at for at in lease.takeovers),
        )

    def _give(self, identity: Identity, bind: Bind, *, is_leaving: bool, points_here: bool) -> None:
        """Decide about a request, and carry the decision out. Raises Refused."""
        context = self._context
        ticket = context.sealer.open(bind.ticket, identity.key) if bind.ticket else None
        name = wanted_name(bind, ticket) or context.registry.fresh_name()
        held = context.registry.find(name)
        facts = self._facts(identity, bind, held, name, ticket)
        facts = dataclasses.replace(facts, is_leaving=is_leaving, points_here=points_here)
        match context.policy.decide(bind, facts):
            case Refusal(code, reason, level):
                logger.log(level, "client %s %s", identity.key, reason)
                raise Refused(code)
            case grant:
                self._apply(identity, bind, grant, held)

    def _apply(self, identity: Identity, bind: Bind, grant: Grant, held: Lease | None) -> None:
        """Give what was granted. Raises Refused, and changes nothing, if the TCP port cannot be had."""
        context = self._context
        shared = held.pool if held is not None and grant.kind is GrantKind.JOIN else None
        evicted = held if grant.kind is GrantKind.TAKE_OVER else None
        lease = Lease(
            self._session,
            bind.lease,
            grant.name,
            owner=identity.key,
            admission=context.admission,
            ledger=context.ledger,
            terms=grant.options,
            visitors_filter=grant.visitor_filter,
            generation=grant.generation,
        )
        lease.program, lease.is_first_ask = grant.program, grant.is_first_ask
        lease.pool = shared or (LoadBalancer() if grant.is_pool else None)
        self._limit(lease, identity)
        if grant.port is not None:
            self._listen(lease, self._public_socket(identity, held, grant.port))
        if grant.is_fresh:
            context.fresh_names.try_take(identity.key)
        if evicted is not None:
            self._evict(evicted, lease)
        self._hold(lease, bind)
        if evicted is not None:
            lease.take_over(evicted)
            self._dismiss(evicted, by_ticket=grant.by_ticket)
        elif shared is not None:
            for fellow in shared.members:
                if not fellow.is_well:
                    lease.take_waiting_of(fellow)

    def _evict(self, evicted: Lease, heir: Lease) -> None:
        """Make room for a lease of the same owner and name, which wins at once.

        The older session still looks alive here, or its name was kept for it.
        """
        context = self._context
        evicted.stop_listening()
        if evicted.tcp_port not in (0, heir.tcp_port):
            context.ports.release(evicted.tcp_port, evicted.owner)
        evicted.tcp_port = 0  # not free: it has moved on
        context.registry.remove(evicted)

    def _hold(self, lease: Lease, bind: Bind) -> None:
        """Register a lease as this client's, and confirm it."""
        context = self._context
        context.registry.add(lease)
        self._leases[bind.lease] = lease
        if not labels.RANDOM_LABEL.fullmatch(lease.name):
            context.claims.claim(lease.owner, lease.name)
        if bind.tcp_port:
            context.claims.claim(lease.owner, f":{bind.tcp_port}")
        context.claims.record("held", lease, self._host)
        if not lease.terms.passthrough:
            host = context.names.host_of(lease.name)
            context.certificates.order_missing(host, lease.owner, h2=lease.terms.h2)
        self._confirm(lease)

    def _limit(self, lease: Lease, identity: Identity) -> None:
        lease.max_visitors = identity.rights.visitors
        lease.meters = self._context.shaping.buckets_of(identity)

    def _public_socket(self, identity: Identity, held: Lease | None, plan: PortPlan) -> socket.socket:
        """Return the socket of the lease before, or another one. Raises Refused if there is none."""
        context, key = self._context, identity.key
        if held is not None and plan.keeps and (kept := held.keep_socket()) is not None:
            return kept
        if plan.exact:
            sock = context.ports.bind_exact(plan.exact, key)
            if sock is None:
                raise Refused(BindCode.PORT_TAKEN)
            return sock
        is_free = partial(context.claims.is_free_to, key)
        sock = context.ports.bind(key, plan.preferred, identity.rights.tcp_ports, is_free=is_free)
        if sock is None:
            raise Refused(BindCode.NO_PORT)
        return sock

    def _listen(self, lease: Lease, sock: socket.socket) -> None:
        lease.hold(sock)
        self._context.supervisor.start(lease.listen(), "listening for TCP visitors")

    # Taking over.

    def _dismiss(self, ghost: Lease, *, by_ticket: bool) -> None:
        """With a ticket it is the same program, started again: of its old session nothing is left. By name it may
        be another one, which goes on with whatever else it has."""
        ghost.close()
        session = ghost.session
        if session is None:
            self._context.pending.claim(ghost)
            return
        logger.info("client %s took %s over from its older session", ghost.owner, ghost.name)
        assert ghost.holdings is not None, "a session confirms what it holds"
        if by_ticket:
            ghost.holdings.supersede()
            return
        if ghost.heir is not None:
            ghost.heir.takeovers = (*ghost.takeovers, time.monotonic())[-MAX_TAKEOVERS:]
        ghost.holdings.lose(ghost, BindCode.REPLACED)

    # Answering, and giving back.

    def _confirm(self, lease: Lease) -> None:
        context = self._context
        host = context.names.host_of(lease.name)
        lease.holdings = self
        self._session.say(
            Bound(
                lease=lease.number,
                host=host,
                port=context.https_port,
                unencrypted_host=context.tcp_host if lease.tcp_port else "",
                unencrypted_port=lease.tcp_port,
                ticket=context.sealer.seal(Ticket(lease.name, lease.tcp_port, lease.owner, lease.generation)),
            )
        )
        logger.info(
            "client %s holds %s%s", lease.owner, host, f" and port {lease.tcp_port}" * bool(lease.tcp_port)
        )

    def _release(self, number: int, *, for_good: bool = True) -> None:
        lease = self._leases.pop(number)
        lease.is_given_up = for_good
        context = self._context
        context.claims.record("released", lease, self._host)
        lease.close()
        context.registry.remove(lease)
        if lease.tcp_port:
            context.claims.seen(lease.owner, f":{lease.tcp_port}")
            if not (lease.pool is not None and lease.pool.members):
                context.ports.release(lease.tcp_port, lease.owner)
        context.claims.seen(lease.owner, lease.name)
        logger.info("client %s gave %s back", lease.owner, context.names.host_of(lease.name))
