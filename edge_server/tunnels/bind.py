"""Binding of names and ports by one client: requests, answers, take-over and release.

This file alone decides who may have which name and port. It remembers names and ports that somebody asked for in
the claims, random names in tickets, and ports in the port table.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from edge_server.ingress.ip_filter import IpFilter
from edge_server.tunnels.lease import Lease
from edge_server.tunnels.load_balancer import MAX_MEMBERS, LoadBalancer
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import BANNED
from edge_server.tunnels.tickets import Ticket
from quictunnel.errors import ProtocolError
from quictunnel.wire import labels
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import Bind, BindRefused, BindV2, Bound, Unbound

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from edge_server.auth.permissions import Identity
    from edge_server.tunnels.bind_context import BindContext
    from quictunnel.transport.session import Session

logger = logging.getLogger(__name__)

MAX_LEASES: Final = 100
"""Leases of one session; a container with more services than this is several containers."""
MAX_DOMAINS: Final = 20
"""Whole domains that one identity holds at once: each has a certificate of its own, which its authority counts."""
MAX_TAKEOVERS: Final = 10
"""Times a minute that a name may go from one living client to another of the same identity: room for somebody who
starts a program again and again, none for two that fight over it."""
TAKEOVER_SECONDS: Final = 60.0


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
            if is_leaving:
                raise Refused(BindCode.CLOSING)
            if not points_here:
                raise Refused(BindCode.DOMAIN_ELSEWHERE)
            self._give(identity, bind)
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

    def _give(self, identity: Identity, bind: Bind) -> None:
        context = self._context
        visitors_filter = _check(bind, identity)
        if len(self._leases) >= MAX_LEASES:
            raise Refused(BindCode.TOO_MANY)
        name, ticket = self._name(identity, bind)
        if bind.tcp_port:
            self._check_port(identity, bind.tcp_port)
        ghost = context.registry.find(name)
        if ghost is not None and ghost.owner != identity.key:
            raise Refused(BindCode.NAME_TAKEN)  # whatever became of the claim since it was given
        shared = self._shared(ghost, bind)
        if ghost is not None and shared is None:
            self._check_takeover(ghost, ticket, bind)
        evicted = None if shared is not None else ghost
        terms = TunnelOptions.of(bind)
        self._check_count(identity, terms, evicted)
        lease = Lease(
            self._session,
            bind.lease,
            name,
            owner=identity.key,
            admission=context.admission,
            ledger=context.ledger,
            terms=terms,
            visitors_filter=visitors_filter,
            generation=1 + _generation_before(ticket, evicted),
        )
        _note_program(lease, bind, ghost)
        lease.pool = shared or (LoadBalancer() if bind.pool else None)
        self._limit(lease, identity)
        if bind.unencrypted:
            kept = ghost.keep_socket() if ghost is not None else None
            self._listen(lease, self._public_socket(identity, kept, bind, 0 if ticket is None else ticket.port))
        if evicted is not None:
            self._evict(evicted, lease)
        self._hold(lease, bind)
        if evicted is not None:
            lease.take_over(evicted)
            self._dismiss(evicted, by_ticket=ticket is not None)
        elif shared is not None:
            for fellow in shared.members:
                if not fellow.is_well:
                    lease.take_waiting_of(fellow)

    def _check_count(self, identity: Identity, terms: TunnelOptions, evicted: Lease | None) -> None:
        """Check that an identity may hold one more, by its rights and by its share. Raises Refused."""
        registry, key = self._context.registry, identity.key
        if not identity.rights.allows_another_tunnel(registry.held_by(key) - (evicted is not None)):
            raise Refused(BindCode.TOO_MANY)
        if not registry.may_hold(key, terms, instead_of=evicted):
            logger.warning("client %s holds its share of this edge's tunnels; another one is refused", key)
            raise Refused(BindCode.TOO_MANY)

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

    def _name(self, identity: Identity, bind: Bind) -> tuple[str, Ticket | None]:
        """Return the name that the client is to have, and the ticket that was shown for it. Raises Refused."""
        context = self._context
        ticket = context.sealer.open(bind.ticket, identity.key) if bind.ticket else None
        if asked := bind.domain or bind.name:
            self._check_asked(identity, asked)
            ticket = ticket if ticket is not None and ticket.name == asked else None
        elif ticket is not None and not labels.RANDOM_LABEL.fullmatch(ticket.name):
            # A ticket for a name that somebody chose: it may have become somebody else's since.
            self._check_asked(identity, ticket.name)
        name = asked or (self._fresh_name(identity) if ticket is None else ticket.name)
        if context.claims.owner(name) == BANNED:
            raise Refused(BindCode.BANNED)
        host, certificates = context.names.host_of(name), context.certificates
        if bind.h2 and not certificates.allows_h2(host, is_whole_domain="." in name):
            raise Refused(BindCode.H2_FORBIDDEN)
        if bind.domain and not bind.passthrough and not certificates.can_certify(host):
            raise Refused(BindCode.NO_CERTIFICATE)
        return name, ticket

    def _fresh_name(self, identity: Identity) -> str:
        if not self._context.fresh_names.try_take(identity.key):
            logger.warning("client %s has been given too many random names lately", identity.key)
            raise Refused(BindCode.TOO_MANY_NAMES)
        return self._context.registry.fresh_name()

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

    def _check_asked(self, identity: Identity, name: str) -> None:
        """Check that somebody may have the name, or whole domain, that was asked for. Raises Refused."""
        if "." in name:
            self._check_domain(identity, name)
        else:
            self._check_name(identity, name)
        if not self._context.claims.may_claim(identity.key, name):
            raise Refused(BindCode.TOO_MANY_NAMES)

    def _check_domain(self, identity: Identity, domain: str) -> None:
        context, key = self._context, identity.key
        if labels.domain_validation_error(domain) is not None or f".{domain}".endswith(f".{context.names.domain}"):
            raise Refused(BindCode.INVALID)
        # Before it is said whether it is somebody's: that is nobody's business who may not have it.
        if (why := context.tokens.name_refusal(identity, domain)) is not None:
            raise Refused(why)
        if context.claims.owner(domain) not in (None, key, BANNED):
            raise Refused(BindCode.NAME_TAKEN)
        if context.registry.domains_of(key, besides=domain) >= MAX_DOMAINS:
            raise Refused(BindCode.TOO_MANY_NAMES)

    def _check_name(self, identity: Identity, name: str) -> None:
        context, key = self._context, identity.key
        if labels.validation_error(name) is not None:
            raise Refused(BindCode.INVALID)
        owner = context.claims.owner(name)
        if owner not in (None, key, BANNED):
            raise Refused(BindCode.NAME_TAKEN)
        if (why := context.tokens.name_refusal(identity, name)) is not None:
            raise Refused(why)

    def _check_port(self, identity: Identity, port: int) -> None:
        context, key, ports = self._context, identity.key, identity.rights.tcp_ports
        if ports is not None and port not in ports:
            raise Refused(BindCode.FORBIDDEN)
        if not context.claims.is_free_to(key, port):
            raise Refused(BindCode.PORT_TAKEN)
        if not context.claims.may_claim(key, f":{port}"):
            raise Refused(BindCode.TOO_MANY_NAMES)

    @staticmethod
    def _shared(ghost: Lease | None, bind: Bind) -> LoadBalancer[Lease] | None:
        """Return the load balancer to join, or None. Raises Refused.

        A lease that is kept for an expected client shares nothing.
        """
        if ghost is None or ghost.session is None or not bind.pool:
            return None
        if ghost.pool is None or ghost.terms != TunnelOptions.of(bind) or bool(ghost.tcp_port) != bind.unencrypted:
            raise Refused(BindCode.NOT_SHARED)
        if bind.tcp_port not in (0, ghost.tcp_port):
            raise Refused(BindCode.PORT_TAKEN)
        if len(ghost.pool.members) >= MAX_MEMBERS:
            raise Refused(BindCode.TOO_MANY)
        return ghost.pool

    def _check_takeover(self, ghost: Lease, ticket: Ticket | None, bind: Bind) -> None:
        """Check that a name may go to this client from the one that has it. Raises Refused.

        Both are of the same identity: tickets and claims are good for nobody else.
        """
        if ghost.session is self._session:
            # A mistake about one tunnel, which is not to end the others.
            raise Refused(BindCode.NOT_SHARED if ticket is None else BindCode.STALE)
        if ghost.pool is not None and len(ghost.pool.members) > 1:
            raise Refused(BindCode.NOT_SHARED)
        if ticket is not None:
            # Of a pool's tickets and programs the edge before this one has told of one alone.
            is_one_of_several = bind.pool and ghost.session is None
            is_old = ghost.is_newer_than(ticket.generation) or _is_older_program(bind, ticket, ghost)
            if is_old and not is_one_of_several and not _is_same_program(bind, ghost):
                logger.info("client %s showed an old ticket of %s", ghost.owner, ghost.name)
                raise Refused(BindCode.STALE)
        elif len(ghost.takeovers) >= MAX_TAKEOVERS and ghost.takeovers[0] > time.monotonic() - TAKEOVER_SECONDS:
            raise Refused(BindCode.NOT_SHARED)

    def _limit(self, lease: Lease, identity: Identity) -> None:
        lease.max_visitors = identity.rights.visitors
        lease.meters = self._context.shaping.buckets_of(identity)

    def _public_socket(
        self, identity: Identity, kept: socket.socket | None, bind: Bind, wanted: int
    ) -> socket.socket:
        """Return the socket of the lease before if its port is still wanted and allowed; else another one."""
        allowed = identity.rights.tcp_ports
        context, key = self._context, identity.key
        if kept is not None:
            port = kept.getsockname()[1]
            if (
                context.claims.is_free_to(key, port)
                and (allowed is None or port in allowed)
                and bind.tcp_port in (0, port)
            ):
                return kept
            kept.close()
        if bind.tcp_port:
            sock = context.ports.bind_exact(bind.tcp_port, key)
            if sock is None:
                raise Refused(BindCode.PORT_TAKEN)
            return sock
        sock = context.ports.bind(key, wanted, allowed, is_free=partial(context.claims.is_free_to, key))
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


def _generation_before(ticket: Ticket | None, evicted: Lease | None) -> int:
    """Return that of the ticket that was shown, and not that of the lease which is evicted: a client that dies
    each time before it has kept the answer would else fall behind and be locked out. Who asks by name alone cannot
    be, and has a newer ticket than the one before."""
    if ticket is not None:
        return ticket.generation
    return 0 if evicted is None else evicted.generation


def _note_program(lease: Lease, bind: Bind, ghost: Lease | None) -> None:
    if isinstance(bind, BindV2):
        was_first = ghost is not None and ghost.program == bind.program and ghost.is_first_ask
        lease.program, lease.is_first_ask = bind.program, was_first or not bind.again


def _is_same_program(bind: Bind, ghost: Lease) -> bool:
    """Return True if a program asks for what it holds itself: the answer with its newest ticket was lost."""
    return isinstance(bind, BindV2) and bind.program != b"" and bind.program == ghost.program


def _is_older_program(bind: Bind, ticket: Ticket, ghost: Lease) -> bool:
    """Return True if a program asks again for what another one holds, which was started later with its ticket.
    After a restart of the edge the tickets of the two may have been counted apart."""
    if not isinstance(bind, BindV2) or not bind.again or ghost.program in (b"", bind.program):
        return False
    return ghost.is_first_ask or ticket.generation < ghost.generation


def _check(bind: Bind, identity: Identity) -> IpFilter:
    """Check a Bind by itself, and return the filter of its visitors. Raises Refused."""
    if bind.unencrypted and not identity.rights.allows_ports:
        raise Refused(BindCode.FORBIDDEN)
    contradicts = (bind.h2 and (bind.unencrypted or bind.passthrough)) or (bind.tcp_port and not bind.unencrypted)
    if contradicts or (bind.pool and not (bind.name or bind.domain)):
        raise Refused(BindCode.INVALID)
    if bind.domain and (bind.name or labels.domain_validation_error(bind.domain) is not None):
        raise Refused(BindCode.INVALID)
    try:
        return IpFilter(bind.allow, bind.deny)
    except ValueError:
        raise Refused(BindCode.INVALID) from None
