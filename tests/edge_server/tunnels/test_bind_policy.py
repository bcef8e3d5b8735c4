"""The table of decisions about a Bind: refusals with their reasons, their order, and what is granted."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import pytest

from edge_server.auth.permissions import Identity, Permissions
from edge_server.tunnels.bind_facts import (
    PREVIOUS_TICKET_SECONDS,
    BindFacts,
    NameFacts,
    PortFacts,
    TunnelFacts,
    requested_name,
)
from edge_server.tunnels.bind_policy import (
    MAX_DOMAINS,
    MAX_LEASES_PER_SESSION,
    MAX_TAKEOVERS,
    RULES,
    TAKEOVER_SECONDS,
    BindPolicy,
    BindRefusal,
)
from edge_server.tunnels.grant import Grant, GrantKind, PortPlan
from edge_server.tunnels.load_balancer import MAX_BACKENDS
from edge_server.tunnels.options import TunnelOptions
from edge_server.tunnels.ownership_store import BANNED_OWNER
from edge_server.tunnels.tickets import Ticket
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import Bind, BindV2

RANDOM: Final = "abcdefgh23456777"
FULL: Final = (0.0,) * MAX_TAKEOVERS
POLICY: Final = BindPolicy("example.com")
LIMITED: Final = Identity("a", Permissions(tcp_ports=range(1, 10)))
NO_PORTS: Final = Identity("a", Permissions(tcp_ports=range(0)))
TWO_TUNNELS: Final = Identity("a", Permissions(tunnels=2))


def bind(*, client_id: bytes | None = None, again: bool = False, **fields: Any) -> Bind:
    """Return a Bind; of version 2 if a client ID is given."""
    fields = {"lease": 1, "unencrypted": "tcp_port" in fields, "h2": False, "ticket": b""} | fields
    return Bind(**fields) if client_id is None else BindV2(**fields, client_id=client_id, again=again)


def ticket(name: str = RANDOM, generation: int = 1, port: int = 0) -> Ticket:
    return Ticket(name, port, "a", generation)


def decide(request: Bind, facts: dict[str, Any]) -> Grant | BindRefusal:
    """Return the decision, where ``facts`` may have those of the name (``name_``) and of the port (``port_``)."""
    sets: dict[str, dict[str, Any]] = {"name": {}, "port": {}, "": {}}
    for key, value in facts.items():
        part, _, rest = key.partition("_")
        if part in ("name", "port"):
            sets[part][rest] = value
        else:
            sets[""][key] = value
    name = requested_name(request, sets[""].get("ticket")) or RANDOM
    return POLICY.decide(
        request,
        BindFacts(
            **{"identity": Identity("a")} | sets[""],
            name=NameFacts(name=name, **sets["name"]),
            port=PortFacts(**sets["port"]),
        ),
    )


def held(**fields: Any) -> TunnelFacts:
    return TunnelFacts(**{"owner": "a"} | fields)


class Row(NamedTuple):
    """A request that is refused, and the beginning of the reason."""

    code: BindCode
    reason: str
    bind: Bind
    facts: dict[str, Any]


WEB: Final = bind(name="web")
SHOP: Final = bind(domain="shop.example.org")
POOL: Final = bind(name="web", pool=True)
ANY: Final = bind()

REFUSALS: Final = (
    Row(BindCode.CLOSING, "the edge is draining", ANY, {"is_draining": True}),
    Row(BindCode.DOMAIN_ELSEWHERE, "the domain does not point to this edge", SHOP, {"points_here": False}),
    Row(BindCode.FORBIDDEN, "the token allows no TCP port", bind(unencrypted=True), {"identity": NO_PORTS}),
    Row(BindCode.INVALID, "options of the request contradict each other", bind(h2=True, unencrypted=True), {}),
    Row(BindCode.INVALID, "options of the request contradict each other", bind(h2=True, passthrough=True), {}),
    Row(BindCode.INVALID, "options of the request contradict each other", bind(tcp_port=5, unencrypted=False), {}),
    Row(BindCode.INVALID, "options of the request contradict each other", bind(pool=True), {}),
    Row(
        BindCode.INVALID,
        "options of the request contradict each other",
        bind(name="a", domain="shop.example.org"),
        {},
    ),
    Row(BindCode.INVALID, "options of the request contradict each other", bind(domain="*.example.org"), {}),
    Row(BindCode.INVALID, "a network of the visitor filter is invalid", bind(allow=["300.0.0.0/8"]), {}),
    Row(BindCode.TOO_MANY, "the session holds", ANY, {"session_leases": MAX_LEASES_PER_SESSION}),
    Row(BindCode.INVALID, "the name is invalid", bind(name="-web"), {}),
    Row(BindCode.INVALID, "the name is invalid", bind(name=RANDOM), {}),
    Row(BindCode.INVALID, "the name is invalid", bind(domain="example.com"), {}),
    Row(BindCode.INVALID, "the name is invalid", bind(domain="a.example.com"), {}),
    Row(BindCode.NAME_TAKEN, "another token owns the name", WEB, {"name_owner": "b"}),
    Row(BindCode.NAME_TAKEN, "another token owns the name", ANY, {"ticket": ticket("web"), "name_owner": "b"}),
    Row(BindCode.FORBIDDEN, "the token does not allow the name", WEB, {"name_forbidden": BindCode.FORBIDDEN}),
    Row(
        BindCode.NAME_RESERVED,
        "the token does not allow the name",
        WEB,
        {"name_forbidden": BindCode.NAME_RESERVED},
    ),
    Row(
        BindCode.DOMAIN_FORBIDDEN,
        "the token does not allow the name",
        SHOP,
        {"name_forbidden": BindCode.DOMAIN_FORBIDDEN},
    ),
    Row(BindCode.NAME_TAKEN, "another token owns the domain", SHOP, {"name_owner": "b"}),
    Row(BindCode.TOO_MANY_NAMES, "the token holds", SHOP, {"name_other_domains": MAX_DOMAINS}),
    Row(
        BindCode.TOO_MANY_NAMES,
        "the token owns the maximum of names and ports, so it cannot claim the name",
        WEB,
        {"name_can_claim": False},
    ),
    Row(
        BindCode.TOO_MANY_NAMES,
        "the token has reached its rate limit for random names",
        ANY,
        {"can_generate_name": False},
    ),
    Row(BindCode.BANNED, "the operator has banned the name", WEB, {"name_owner": BANNED_OWNER}),
    Row(
        BindCode.BANNED, "the operator has banned the name", ANY, {"ticket": ticket(), "name_owner": BANNED_OWNER}
    ),
    Row(
        BindCode.H2_FORBIDDEN,
        "HTTP/2 is not allowed with a certificate of several names",
        bind(h2=True),
        {"name_allows_h2": False},
    ),
    Row(
        BindCode.NO_CERTIFICATE,
        "there is no certificate for the domain, and none can be ordered",
        SHOP,
        {"name_can_certify": False},
    ),
    Row(BindCode.FORBIDDEN, "the token does not allow the TCP port", bind(tcp_port=70), {"identity": LIMITED}),
    Row(
        BindCode.BANNED,
        "the operator has banned the TCP port",
        bind(tcp_port=5),
        {"port_is_banned": True, "port_is_free": False},
    ),
    Row(BindCode.PORT_TAKEN, "another token owns the TCP port", bind(tcp_port=5), {"port_is_free": False}),
    Row(
        BindCode.TOO_MANY_NAMES,
        "the token owns the maximum of names and ports, so it cannot claim the TCP port",
        bind(tcp_port=5),
        {"port_can_claim": False},
    ),
    Row(
        BindCode.NAME_TAKEN,
        "a client of another token holds the name",
        WEB,
        {"name_tunnel": held(owner="b")},
    ),
    Row(
        BindCode.NOT_SHARED,
        "the tunnel of the name is no pool, or has other options",
        POOL,
        {"name_tunnel": held()},
    ),
    Row(
        BindCode.NOT_SHARED,
        "the tunnel of the name is no pool, or has other options",
        POOL,
        {"name_tunnel": held(is_pool=True, options=TunnelOptions(passthrough=True))},
    ),
    Row(
        BindCode.NOT_SHARED,
        "the tunnel of the name is no pool, or has other options",
        POOL,
        {"name_tunnel": held(is_pool=True, tcp_port=5)},
    ),
    Row(
        BindCode.PORT_TAKEN,
        "the pool has another TCP port",
        bind(name="web", pool=True, tcp_port=6),
        {"name_tunnel": held(is_pool=True, tcp_port=5)},
    ),
    Row(
        BindCode.FORBIDDEN,
        "the pool has a TCP port that the token does not allow",
        bind(name="web", pool=True, unencrypted=True),
        {"identity": LIMITED, "name_tunnel": held(is_pool=True, tcp_port=70)},
    ),
    Row(
        BindCode.FORBIDDEN,
        "the pool has a TCP port that the token does not allow",
        bind(name="web", pool=True, unencrypted=True),
        {"name_tunnel": held(is_pool=True, tcp_port=5, is_port_free=False)},
    ),
    Row(
        BindCode.TOO_MANY,
        "the pool has ",
        POOL,
        {"name_tunnel": held(is_pool=True, backends=MAX_BACKENDS)},
    ),
    Row(
        BindCode.STALE,
        "the session has a lease with this ticket already",
        ANY,
        {"ticket": ticket(), "name_tunnel": held(is_of_this_session=True)},
    ),
    Row(
        BindCode.NOT_SHARED,
        "the session holds the name already",
        WEB,
        {"name_tunnel": held(is_of_this_session=True)},
    ),
    Row(
        BindCode.NOT_SHARED,
        "several clients of a pool serve the name",
        WEB,
        {"name_tunnel": held(is_pool=True, backends=2)},
    ),
    Row(
        BindCode.STALE,
        "a newer client holds the name, so the ticket is stale",
        ANY,
        {"ticket": ticket(), "name_tunnel": held(generation=3)},
    ),
    Row(
        BindCode.STALE,
        "a newer client holds the name, so the ticket is stale",
        ANY,
        {"ticket": ticket(), "name_tunnel": held(generation=2, ticket_age=PREVIOUS_TICKET_SECONDS)},
    ),
    Row(
        BindCode.STALE,
        "a newer client holds the name, so the ticket is stale",
        bind(client_id=b"old", again=True),
        {"ticket": ticket(), "name_tunnel": held(generation=2, client_id=b"new")},
    ),
    Row(
        BindCode.STALE,
        "a newer client holds the name, so the ticket is stale",
        bind(client_id=b"old", again=True),
        {"ticket": ticket(generation=9), "name_tunnel": held(client_id=b"new", is_first_bind=True)},
    ),
    Row(
        BindCode.NOT_SHARED,
        "the name was taken over",
        WEB,
        {"name_tunnel": held(takeover_ages=FULL)},
    ),
    Row(
        BindCode.TOO_MANY,
        "the token holds as many tunnels as its permissions allow",
        ANY,
        {"identity": TWO_TUNNELS, "owner_leases": 2},
    ),
    Row(
        BindCode.TOO_MANY,
        "the token holds as many tunnels as its permissions allow",
        WEB,
        {"identity": TWO_TUNNELS, "owner_leases": 3, "name_tunnel": held()},
    ),
    Row(
        BindCode.TOO_MANY,
        "the token holds its fair share of the tunnels of this edge",
        ANY,
        {"name_has_share": False},
    ),
    Row(
        BindCode.TOO_MANY,
        "the token holds its fair share of the tunnels of this edge",
        WEB,
        {"name_has_share_if_replaced": False, "name_tunnel": held()},
    ),
)


@pytest.mark.parametrize("row", REFUSALS, ids=[f"{row.code.name}: {row.reason}" for row in REFUSALS])
def test_request_is_refused_for_its_reason(row: Row) -> None:
    answer = decide(row.bind, row.facts)
    assert isinstance(answer, BindRefusal), answer
    assert answer.code is row.code
    assert answer.reason.startswith(row.reason)


def test_table_covers_each_refusal() -> None:
    reasons = [answer.reason for row in REFUSALS if isinstance(answer := decide(row.bind, row.facts), BindRefusal)]
    assert set(reasons) == {rule.reason for rule in RULES}
    assert len({rule.reason for rule in RULES}) == len(RULES)


EVERYTHING_WRONG: Final = {
    "is_draining": True,
    "points_here": False,
    "session_leases": MAX_LEASES_PER_SESSION,
    "name_forbidden": BindCode.DOMAIN_FORBIDDEN,
    "name_owner": "b",
    "name_other_domains": MAX_DOMAINS,
    "name_can_claim": False,
    "name_can_certify": False,
    "identity": TWO_TUNNELS,
    "owner_leases": 9,
    "name_has_share": False,
    "name_has_share_if_replaced": False,
}
MENDED: Final = (
    (BindCode.CLOSING, "is_draining"),
    (BindCode.DOMAIN_ELSEWHERE, "points_here"),
    (BindCode.TOO_MANY, "session_leases"),
    # A token that may not have a domain does not learn whether it is somebody's.
    (BindCode.DOMAIN_FORBIDDEN, "name_forbidden"),
    (BindCode.NAME_TAKEN, "name_owner"),
    (BindCode.TOO_MANY_NAMES, "name_other_domains"),
    (BindCode.TOO_MANY_NAMES, "name_can_claim"),
    (BindCode.NO_CERTIFICATE, "name_can_certify"),
    (BindCode.TOO_MANY, "owner_leases"),
    (BindCode.TOO_MANY, "name_has_share"),
)


def test_refusals_are_checked_in_their_order() -> None:
    """The faults are mended one after the other, and the next one is the answer."""
    facts: dict[str, Any] = dict(EVERYTHING_WRONG)
    for code, fact in MENDED:
        answer = decide(SHOP, facts)
        assert isinstance(answer, BindRefusal)
        assert answer.code is code, fact
        del facts[fact]
    assert isinstance(decide(SHOP, facts), Grant)


def test_foreign_name_is_refused_before_permissions() -> None:
    answer = decide(WEB, {"name_owner": "b", "name_forbidden": BindCode.FORBIDDEN})
    assert isinstance(answer, BindRefusal)
    assert answer.code is BindCode.NAME_TAKEN


GRANTED: Final = (
    (ANY, {}, {"kind": GrantKind.NEW, "name": RANDOM, "is_generated": True, "generation": 1, "port": None}),
    (ANY, {"ticket": ticket(generation=7)}, {"is_generated": False, "by_ticket": True, "generation": 8}),
    # Rights and owners of chosen names say nothing about a random one.
    (ANY, {"ticket": ticket(), "name_forbidden": BindCode.FORBIDDEN}, {"name": RANDOM}),
    (ANY, {"name_can_claim": False}, {"is_generated": True}),
    (WEB, {"can_generate_name": False}, {"name": "web", "is_generated": False}),
    (WEB, {"name_owner": "a"}, {"name": "web"}),
    # A ticket for another name than the one that is asked for is none.
    (WEB, {"ticket": ticket("other", generation=7)}, {"name": "web", "by_ticket": False, "generation": 1}),
    (bind(name="shop.example.org"), {}, {"name": "shop.example.org"}),
    (bind(domain="shop.example.org", passthrough=True), {"name_can_certify": False}, {}),
    # Whether h2 is allowed is asked for h2 alone.
    (WEB, {"name_allows_h2": False}, {"kind": GrantKind.NEW}),
    (WEB, {"name_tunnel": held(generation=4)}, {"kind": GrantKind.TAKE_OVER, "generation": 5}),
    (WEB, {"name_tunnel": held(backends=0)}, {"kind": GrantKind.TAKE_OVER}),
    (WEB, {"name_tunnel": held(is_pool=True)}, {"kind": GrantKind.TAKE_OVER, "is_pool": False}),
    (POOL, {"name_tunnel": held(is_pool=True)}, {"kind": GrantKind.JOIN, "generation": 1, "is_pool": True}),
    (POOL, {"name_tunnel": held(is_pool=True, is_of_this_session=True)}, {"kind": GrantKind.JOIN}),
    # One that is kept for a client is not shared, whoever of its pool comes first.
    (POOL, {"name_tunnel": held(backends=0)}, {"kind": GrantKind.TAKE_OVER}),
    (POOL, {"ticket": ticket("web"), "name_tunnel": held(backends=0, generation=5)}, {"generation": 2}),
    # The answer with the newest ticket was lost: a moment ago, or by this very client.
    (
        ANY,
        {"ticket": ticket(), "name_tunnel": held(generation=2, ticket_age=PREVIOUS_TICKET_SECONDS - 1)},
        {"by_ticket": True},
    ),
    (
        bind(client_id=b"p", again=True),
        {"ticket": ticket(), "name_tunnel": held(generation=9, ticket_age=99.0, client_id=b"p")},
        {"generation": 2},
    ),
    (WEB, {"name_tunnel": held(takeover_ages=FULL[1:])}, {"kind": GrantKind.TAKE_OVER}),
    (WEB, {"name_tunnel": held(takeover_ages=(TAKEOVER_SECONDS, *FULL[1:]))}, {"kind": GrantKind.TAKE_OVER}),
    (
        bind(name="web"),
        {"ticket": ticket("web"), "name_tunnel": held(takeover_ages=FULL)},
        {"kind": GrantKind.TAKE_OVER},
    ),
    # A tunnel that is taken over makes room for itself.
    (
        WEB,
        {"identity": TWO_TUNNELS, "owner_leases": 2, "name_has_share": False, "name_tunnel": held()},
        {"kind": GrantKind.TAKE_OVER},
    ),
    (bind(client_id=b"p"), {}, {"client_id": b"p", "is_first_bind": True}),
    (bind(client_id=b"p", again=True), {}, {"client_id": b"p", "is_first_bind": False}),
    (
        bind(client_id=b"p", again=True, name="web"),
        {"name_tunnel": held(client_id=b"p", is_first_bind=True)},
        {"is_first_bind": True},
    ),
    # TCP ports.
    (bind(unencrypted=True), {}, {"port": PortPlan()}),
    (bind(unencrypted=True), {"ticket": ticket(port=7)}, {"port": PortPlan(preferred=7)}),
    (bind(tcp_port=5), {}, {"port": PortPlan(exact=5)}),
    (bind(unencrypted=True, name="web"), {"name_tunnel": held(tcp_port=7)}, {"port": PortPlan(keeps=True)}),
    (bind(tcp_port=7, name="web"), {"name_tunnel": held(tcp_port=7)}, {"port": PortPlan(keeps=True)}),
    (bind(tcp_port=8, name="web"), {"name_tunnel": held(tcp_port=7)}, {"port": PortPlan(exact=8)}),
    (
        bind(unencrypted=True, name="web"),
        {"name_tunnel": held(tcp_port=7, is_port_free=False)},
        {"port": PortPlan()},
    ),
    (
        bind(unencrypted=True, name="web"),
        {"identity": LIMITED, "name_tunnel": held(tcp_port=70)},
        {"port": PortPlan()},
    ),
    (WEB, {"name_tunnel": held(tcp_port=7)}, {"port": None}),
    (
        bind(name="web", pool=True, unencrypted=True),
        {"name_tunnel": held(is_pool=True, tcp_port=7)},
        {"kind": GrantKind.JOIN, "port": PortPlan(keeps=True)},
    ),
)


@pytest.mark.parametrize(("request_", "facts", "expected"), GRANTED)
def test_request_is_granted(request_: Bind, facts: dict[str, Any], expected: dict[str, Any]) -> None:
    answer = decide(request_, facts)
    assert isinstance(answer, Grant), answer
    found = {key: getattr(answer, key) for key in expected}
    assert found == expected
    assert answer.options == TunnelOptions.of(request_)
