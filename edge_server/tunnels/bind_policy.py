"""The decision about a Bind: whether a client gets the requested name and port.

:meth:`BindPolicy.decide` has no state, no clock and no I/O: it compares a request with the facts about the edge at
that moment. :data:`RULES` lists the refusals in the order in which they are checked. The first that applies is the
response.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final, NamedTuple

from edge_server.ingress.ip_filter import IpFilter
from edge_server.tunnels.bind_explanations import banned_port, forbidden_name, forbidden_port, limit_of_tunnels
from edge_server.tunnels.bind_facts import chosen_name, ticket_for
from edge_server.tunnels.grant import Grant, GrantKind, PortPlan
from edge_server.tunnels.load_balancer import MAX_BACKENDS
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import BANNED_OWNER
from quictunnel.wire import labels
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import BindV2

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_server.tunnels.bind_facts import BindFacts, TunnelFacts
    from edge_server.tunnels.tickets import Ticket
    from quictunnel.wire.messages import Bind

MAX_LEASES_PER_SESSION: Final = 100
"""Leases of one session: far more than the services of one container."""
MAX_DOMAINS: Final = 20
"""Custom domains that one identity holds at once: each needs a certificate of its own, and certificate authorities
limit their number."""
MAX_TAKEOVERS: Final = 10
"""Takeovers by name of one name within :data:`TAKEOVER_SECONDS`, from one connected client to another of the same
identity: enough for a program that is restarted again and again, too few for two that take the name from each
other in turn."""
TAKEOVER_SECONDS: Final = 60.0


class BindRefusal(NamedTuple):
    """A Bind that is refused."""

    code: BindCode
    reason: str
    """Reason for the log."""
    level: int
    """Log level of the message."""
    explanation: str = ""
    """The reason for the client: printable ASCII, with names and figures of its own token and of the edge."""


class BindCheck:
    """A request and the facts, with the conclusions from both."""

    def __init__(self, domain: str, bind: Bind, facts: BindFacts) -> None:
        """``domain``: the domain of the edge."""
        self.domain = domain
        self.bind = bind
        self.facts = facts
        chosen, tunnel = chosen_name(bind), facts.name.tunnel
        self.name = facts.name.name
        """The name that the client would get."""
        self.is_domain = "." in self.name
        """True if the name is a custom domain."""
        self.ticket = ticket_for(bind, facts.ticket)
        """The ticket in the request, if it is for this name."""
        self.is_generated = not chosen and self.ticket is None
        """True if a new random name is requested: no name is chosen, and the request has no ticket."""
        self.is_chosen = bool(chosen) or not (self.is_generated or labels.RANDOM_LABEL.fullmatch(self.name))
        """True if a client chose the name: now, or when the ticket was issued. Another identity may have claimed
        it since then. Random names cannot be claimed."""
        self.tunnel = tunnel
        """The current tunnel of the name."""
        self.pool = tunnel if tunnel is not None and tunnel.backends and bind.pool else None
        """The tunnel that the client wants to share. A tunnel that is kept for a client that has not reconnected
        yet is taken over instead."""
        self.takeover_target = tunnel if self.pool is None else None
        """The tunnel that the client wants to take over."""

    @property
    def is_valid_name(self) -> bool:
        """Return True if the name has a valid form, and is not a custom domain within the edge's own domain."""
        if not self.is_domain:
            return labels.validation_error(self.name) is None
        is_below = f".{self.name}".endswith(f".{self.domain}")
        return labels.domain_validation_error(self.name) is None and not is_below

    @property
    def has_other_owner(self) -> bool:
        """Return True if another identity owns the name."""
        return self.facts.name.owner not in (None, self.facts.identity.key, BANNED_OWNER)

    @cached_property
    def visitor_filter(self) -> IpFilter | None:
        """Return the filter of visitors; None if a network is invalid."""
        try:
            return IpFilter(self.bind.allow, self.bind.deny)
        except ValueError:
            return None

    @property
    def contradicts(self) -> bool:
        """Return True if two options of the request contradict each other."""
        bind = self.bind
        return bool(
            (bind.h2 and (bind.unencrypted or bind.passthrough))
            or (bind.tcp_port and not bind.unencrypted)
            or (bind.pool and not (bind.name or bind.domain))
            or (bind.domain and (bind.name or labels.domain_validation_error(bind.domain) is not None))
        )

    @property
    def has_share(self) -> bool:
        """Return True if the identity's share of the edge allows the tunnel."""
        name = self.facts.name
        return name.has_share if self.takeover_target is None else name.has_share_if_replaced

    @property
    def has_stale_ticket(self) -> bool:
        """Return True if the name is held by a client that was started later, with this ticket or a newer one."""
        ticket, bind, target = self.ticket, self.bind, self.takeover_target
        if ticket is None or target is None:
            return False
        # A predecessor or a snapshot passes on the ticket and ID of one client of a pool only.
        is_one_of_several = bind.pool and not target.backends
        is_old = target.is_too_old(ticket.generation) or is_older_client(bind, ticket, target)
        return is_old and not is_one_of_several and not _is_same_client(bind, target)

    @property
    def has_too_many_takeovers(self) -> bool:
        """Return True if the limit of takeovers by name is reached."""
        ages = () if self.takeover_target is None else self.takeover_target.takeover_ages
        return self.ticket is None and len(ages) >= MAX_TAKEOVERS and ages[0] < TAKEOVER_SECONDS

    @property
    def keeps_port(self) -> bool:
        """Return True if the current TCP port of the tunnel is still requested and allowed."""
        requested, tunnel = self.bind.tcp_port, self.tunnel
        return (
            tunnel is not None
            and tunnel.tcp_port != 0
            and requested in (0, tunnel.tcp_port)
            and tunnel.is_port_free
            and self.allows_port(tunnel.tcp_port)
        )

    def allows_port(self, port: int) -> bool:
        """Return True if the token may have this TCP port."""
        allowed = self.facts.identity.permissions.tcp_ports
        return allowed is None or port in allowed


class RefusalRule(NamedTuple):
    """One refusal."""

    code: BindCode | None
    """None: the code is that of the permissions (``NameFacts.forbidden``)."""
    reason: str
    """As in :class:`BindRefusal`."""
    applies: Callable[[BindCheck], bool]
    level: int = logging.DEBUG
    explain: Callable[[BindCheck], str] | None = None
    """Returns the reason for the client; None: it is the one for the log."""
    is_permission: bool = False
    """True if it depends on the permissions of the token, so that a change of them ends open tunnels."""

    def refusal(self, check: BindCheck) -> BindRefusal:
        """Return the refusal of a request to which the rule applies."""
        code = self.code if self.code is not None else check.facts.name.forbidden
        assert code is not None, "the rule of the permissions applies where they forbid something"
        explanation = self.reason if self.explain is None else self.explain(check)
        return BindRefusal(code, self.reason, self.level, explanation)


RULES: Final = (
    RefusalRule(BindCode.CLOSING, "the edge is draining", lambda check: check.facts.is_draining),
    RefusalRule(
        BindCode.DOMAIN_ELSEWHERE,
        "the domain does not point to this edge",
        lambda check: not check.facts.points_here,
    ),
    # The request itself.
    RefusalRule(
        BindCode.FORBIDDEN,
        "the token allows no TCP port",
        lambda check: check.bind.unencrypted and not check.facts.identity.permissions.allows_ports,
        is_permission=True,
    ),
    RefusalRule(BindCode.INVALID, "options of the request contradict each other", lambda check: check.contradicts),
    RefusalRule(
        BindCode.INVALID, "a network of the visitor filter is invalid", lambda check: check.visitor_filter is None
    ),
    RefusalRule(
        BindCode.TOO_MANY,
        f"the session holds {MAX_LEASES_PER_SESSION} leases, the maximum",
        lambda check: check.facts.session_leases >= MAX_LEASES_PER_SESSION,
    ),
    # A chosen name. The permissions are checked before the owner of a domain, because a client that may not bind a
    # domain should not learn that another token owns it.
    RefusalRule(
        BindCode.INVALID,
        "the name is invalid",
        lambda check: check.is_chosen and not check.is_valid_name,
        explain=lambda check: (
            f"the domain {check.name} is invalid, or one of the edge's own: those are chosen with name= (--name)"
            if check.is_domain
            else f"the name {check.name} is invalid"
        ),
    ),
    RefusalRule(
        BindCode.NAME_TAKEN,
        "another token owns the name",
        lambda check: check.is_chosen and not check.is_domain and check.has_other_owner,
        explain=lambda check: f"another token owns the name {check.name}",
    ),
    RefusalRule(
        None,
        "the token does not allow the name",
        lambda check: check.is_chosen and check.facts.name.forbidden is not None,
        explain=lambda check: forbidden_name(check.name, check.facts),
        is_permission=True,
    ),
    RefusalRule(
        BindCode.NAME_TAKEN,
        "another token owns the domain",
        lambda check: check.is_chosen and check.is_domain and check.has_other_owner,
        explain=lambda check: f"another token owns the domain {check.name}",
    ),
    RefusalRule(
        BindCode.TOO_MANY_NAMES,
        f"the token holds {MAX_DOMAINS} domains, the maximum",
        lambda check: check.is_chosen and check.is_domain and check.facts.name.other_domains >= MAX_DOMAINS,
    ),
    RefusalRule(
        BindCode.TOO_MANY_NAMES,
        "the token owns the maximum of names and ports, so it cannot claim the name",
        lambda check: check.is_chosen and not check.facts.name.can_claim,
    ),
    # Chosen and random names.
    RefusalRule(
        BindCode.TOO_MANY_NAMES,
        "the token has reached its rate limit for random names",
        lambda check: check.is_generated and not check.facts.can_generate_name,
        logging.WARNING,
    ),
    RefusalRule(
        BindCode.BANNED, "the operator has banned the name", lambda check: check.facts.name.owner == BANNED_OWNER
    ),
    RefusalRule(
        BindCode.H2_FORBIDDEN,
        "HTTP/2 is not allowed with a certificate of several names",
        lambda check: check.bind.h2 and not check.facts.name.allows_h2,
    ),
    RefusalRule(
        BindCode.NO_CERTIFICATE,
        "there is no certificate for the domain, and none can be ordered",
        lambda check: bool(check.bind.domain) and not check.bind.passthrough and not check.facts.name.can_certify,
    ),
    # A TCP port by number.
    RefusalRule(
        BindCode.FORBIDDEN,
        "the token does not allow the TCP port",
        lambda check: bool(check.bind.tcp_port) and not check.allows_port(check.bind.tcp_port),
        explain=lambda check: forbidden_port(check.bind.tcp_port, check.facts.identity),
        is_permission=True,
    ),
    RefusalRule(
        BindCode.BANNED,
        "the operator has banned the TCP port",
        lambda check: check.facts.port.is_banned,
        explain=lambda check: banned_port(check.bind.tcp_port),
    ),
    RefusalRule(
        BindCode.PORT_TAKEN,
        "another token owns the TCP port",
        lambda check: bool(check.bind.tcp_port) and not check.facts.port.is_free,
        explain=lambda check: f"another token owns TCP port {check.bind.tcp_port}",
    ),
    RefusalRule(
        BindCode.TOO_MANY_NAMES,
        "the token owns the maximum of names and ports, so it cannot claim the TCP port",
        lambda check: bool(check.bind.tcp_port) and not check.facts.port.can_claim,
    ),
    # The current tunnel of the name, whose claim may have ended or changed in the meantime.
    RefusalRule(
        BindCode.NAME_TAKEN,
        "a client of another token holds the name",
        lambda check: check.tunnel is not None and check.tunnel.owner != check.facts.identity.key,
    ),
    # A pool, whose clients must all have the same options.
    RefusalRule(
        BindCode.NOT_SHARED,
        "the tunnel of the name is no pool, or has other options",
        lambda check: (
            check.pool is not None
            and (
                not check.pool.is_pool
                or check.pool.options != TunnelOptions.of(check.bind)
                or bool(check.pool.tcp_port) != check.bind.unencrypted
            )
        ),
    ),
    RefusalRule(
        BindCode.PORT_TAKEN,
        "the pool has another TCP port",
        lambda check: check.pool is not None and check.bind.tcp_port not in (0, check.pool.tcp_port),
    ),
    RefusalRule(
        BindCode.FORBIDDEN,
        "the pool has a TCP port that the token does not allow",
        lambda check: check.pool is not None and check.bind.unencrypted and not check.keeps_port,
    ),
    RefusalRule(
        BindCode.TOO_MANY,
        f"the pool has {MAX_BACKENDS} clients, the maximum",
        lambda check: check.pool is not None and check.pool.backends >= MAX_BACKENDS,
    ),
    # A takeover from another client of the same identity. A session with a mistake in one request is not closed,
    # because that would end its other tunnels.
    RefusalRule(
        BindCode.STALE,
        "the session has a lease with this ticket already",
        lambda check: (
            check.takeover_target is not None
            and check.takeover_target.is_of_this_session
            and check.ticket is not None
        ),
    ),
    RefusalRule(
        BindCode.NOT_SHARED,
        "the session holds the name already",
        lambda check: check.takeover_target is not None and check.takeover_target.is_of_this_session,
    ),
    RefusalRule(
        BindCode.NOT_SHARED,
        "several clients of a pool serve the name",
        lambda check: (
            check.takeover_target is not None
            and check.takeover_target.is_pool
            and check.takeover_target.backends > 1
        ),
    ),
    RefusalRule(
        BindCode.STALE,
        "a newer client holds the name, so the ticket is stale",
        lambda check: check.has_stale_ticket,
        logging.INFO,
        explain=lambda _: "another program has used this tunnel's ticket later and has its name",
    ),
    RefusalRule(
        BindCode.NOT_SHARED,
        f"the name was taken over {MAX_TAKEOVERS} times within {TAKEOVER_SECONDS:.0f} s, the maximum",
        lambda check: check.has_too_many_takeovers,
    ),
    # Limits, last, because the other reasons are more specific.
    RefusalRule(
        BindCode.TOO_MANY,
        "the token holds as many tunnels as its permissions allow",
        lambda check: (
            not check.facts.identity.permissions.allows_another_tunnel(
                check.facts.owner_leases - (check.takeover_target is not None)
            )
        ),
        explain=lambda check: limit_of_tunnels(check.facts.identity),
        is_permission=True,
    ),
    RefusalRule(
        BindCode.TOO_MANY,
        "the token holds its fair share of the tunnels of this edge",
        lambda check: not check.has_share,
        logging.WARNING,
    ),
)
"""Each refusal, in the order in which they are checked."""


@dataclass(frozen=True, slots=True)
class BindPolicy:
    """The rules of an edge with this domain."""

    domain: str

    def decide(self, bind: Bind, facts: BindFacts) -> Grant | BindRefusal:
        """Return the answer to a Bind.

        Args:
            bind: the request of a client.
            facts: the facts about its name (``bind_facts.requested_name``), its port and its identity now.
        """
        check = BindCheck(self.domain, bind, facts)
        refusals = (rule.refusal(check) for rule in RULES if rule.applies(check))
        return next(refusals, None) or _grant(check)

    def refuse_open(self, bind: Bind, facts: BindFacts) -> BindRefusal | None:
        """Return why the permissions forbid an open tunnel, as ``bind`` requests it; None if they allow it."""
        check = BindCheck(self.domain, bind, facts)
        return next((rule.refusal(check) for rule in RULES if rule.is_permission and rule.applies(check)), None)


def _grant(check: BindCheck) -> Grant:
    bind, ticket, tunnel = check.bind, check.ticket, check.tunnel
    visitor_filter = check.visitor_filter
    assert visitor_filter is not None, "an invalid filter was refused"
    kind = GrantKind.NEW if tunnel is None else GrantKind.TAKE_OVER if check.pool is None else GrantKind.JOIN
    client_id, is_first_bind = b"", False
    if isinstance(bind, BindV2):
        was_first = tunnel is not None and tunnel.client_id == bind.client_id and tunnel.is_first_bind
        client_id, is_first_bind = bind.client_id, was_first or not bind.again
    return Grant(
        kind=kind,
        name=check.name,
        is_generated=check.is_generated,
        by_ticket=ticket is not None,
        options=TunnelOptions.of(bind),
        visitor_filter=visitor_filter,
        is_pool=bind.pool,
        port=_port_plan(check) if bind.unencrypted else None,
        generation=1 + _generation_before(check),
        client_id=client_id,
        is_first_bind=is_first_bind,
    )


def _port_plan(check: BindCheck) -> PortPlan:
    """Return the plan of the TCP port."""
    if check.keeps_port:
        return PortPlan(keeps=True)
    return PortPlan(exact=check.bind.tcp_port, preferred=0 if check.ticket is None else check.ticket.port)


def _generation_before(check: BindCheck) -> int:
    """Return the generation from which the new ticket counts.

    It is that of the ticket in the request, and not that of the tunnel: otherwise a client that crashes each time
    before it has stored the response would fall behind and be refused as stale. A client without a ticket cannot
    be refused as stale, and counts from the latest ticket.
    """
    if check.ticket is not None:
        return check.ticket.generation
    return 0 if check.takeover_target is None else check.takeover_target.generation


def _is_same_client(bind: Bind, tunnel: TunnelFacts) -> bool:
    """Return True if the client holds the name itself, in another session: the response with its latest ticket
    was lost."""
    return isinstance(bind, BindV2) and bind.client_id != b"" and bind.client_id == tunnel.client_id


def is_older_client(bind: Bind, ticket: Ticket, tunnel: TunnelFacts) -> bool:
    """Return True if the name is held by a client that was started later, with the same ticket.

    The generations alone do not show this after a restart of the edge, because the tickets of both may have been
    counted separately.
    """
    if not isinstance(bind, BindV2) or not bind.again or tunnel.client_id in (b"", bind.client_id):
        return False
    return tunnel.is_first_bind or ticket.generation < tunnel.generation
