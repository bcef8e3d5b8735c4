"""Binding of custom domains: who may have one, for how long, and how many."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edge_server.auth.permissions import Identity, Permissions
from edge_server.change_watcher import ChangeWatcher
from edge_server.tunnels.bind_policy import MAX_DOMAINS
from edge_server.tunnels.ownership_store import OwnershipStore
from quictunnel.wire.codes import BindCode
from quictunnel.wire.messages import Bind, BindRefused, Bound
from tests.edge_server.tunnels.bind_rig import Client, issue_for

if TYPE_CHECKING:
    from pathlib import Path

    from edge_server.wiring import EdgeServices


ANY = Identity("a", Permissions(domains=None))


async def test_a_domain_is_given_as_it_is_and_kept_for_its_owner(services: EdgeServices):
    services.certificates.set_issued("shop.example.org", *issue_for("shop.example.org"))
    bound = Client(services, ANY).got(domain="shop.example.org")
    assert bound.host == "shop.example.org"
    assert services.registry.find(services.name_directory.name_of("shop.example.org")) is not None
    assert services.registry.find("shop") is None
    assert services.claims.owner("shop.example.org") == "a"
    other = Identity("b", Permissions(domains=("*.example.org",)))
    assert Client(services, other).ask(domain="shop.example.org") is BindCode.NAME_TAKEN
    assert Client(services, other).ask(domain="shop.example.org", ticket=bound.ticket) is BindCode.NAME_TAKEN


@pytest.mark.parametrize(
    ("domains", "domain", "is_allowed"),
    [
        ((), "app.example.org", False),
        (("app.example.org",), "app.example.org", True),
        (("app.example.org",), "other.example.org", False),
        (("*.example.org",), "app.example.org", True),
        (("*.example.org",), "a.b.example.org", True),
        (("*.example.org",), "example.org", False),
        (("*.example.org",), "app.example.org.evil.net", False),
        (None, "anything.example.net", True),
    ],
)
async def test_domain_permissions_of_a_token(services: EdgeServices, domains, domain: str, is_allowed: bool):
    client = Client(services, Identity("a", Permissions(domains=domains)))
    answer = client.ask(domain=domain, passthrough=True)
    assert isinstance(answer, Bound) if is_allowed else answer is BindCode.DOMAIN_FORBIDDEN


@pytest.mark.parametrize(
    "more",
    [
        {"domain": "example.com"},  # the edge's own
        {"domain": "shop.example.com"},
        {"domain": "a.b.example.com"},
        {"domain": "Shop.example.org"},
        {"domain": "shop.example.org."},
        {"domain": "*.example.org"},
        {"domain": "example"},
        {"domain": "203.0.113.1"},
        {"domain": "a..example.org"},
        {"domain": f"{'a' * 64}.example.org"},
        {"domain": "shop.example.org", "name": "shop"},
    ],
)
async def test_malformed_domains_are_refused(services: EdgeServices, more: dict[str, str]):
    assert Client(services, ANY).ask(passthrough=True, **more) is BindCode.INVALID


async def test_domain_without_a_certificate_is_refused(services: EdgeServices):
    assert Client(services, ANY).ask(domain="shop.example.org") is BindCode.NO_CERTIFICATE
    Client(services, ANY).got(2, domain="shop.example.org", passthrough=True)


async def test_a_domain_that_points_elsewhere(services: EdgeServices):
    client = Client(services, ANY)
    bind = Bind(1, False, False, b"", domain="shop.example.org")
    client.bindings.bind(ANY, bind, is_draining=False, is_resumed=False, points_here=False)
    assert client.session.sent == [BindRefused(1, BindCode.DOMAIN_ELSEWHERE)]


async def test_a_domain_may_be_shared_and_taken_over_like_a_name(services: EdgeServices):
    one, two, three = (Client(services, ANY) for _ in range(3))
    one.got(domain="pool.example.org", passthrough=True, pool=True)
    two.got(domain="pool.example.org", passthrough=True, pool=True)
    assert three.ask(domain="pool.example.org", passthrough=True) is BindCode.NOT_SHARED
    one.got(2, domain="solo.example.org", passthrough=True)
    two.got(2, domain="solo.example.org", passthrough=True)
    assert one.session.sent[-1] == BindRefused(2, BindCode.NAME_TAKEN_OVER)


async def test_an_identity_has_so_many_domains_at_once(services: EdgeServices):
    client = Client(services, ANY)
    for number in range(MAX_DOMAINS):
        client.got(number, domain=f"n{number}.example.org", passthrough=True)
    refused = client.ask(MAX_DOMAINS, domain="one-more.example.org", passthrough=True)
    assert refused is BindCode.TOO_MANY_NAMES
    client.bindings.unbind(0)
    client.got(MAX_DOMAINS, domain="one-more.example.org", passthrough=True)


async def test_a_banned_domain_is_taken_away(services: EdgeServices, tmp_path: Path):
    client = Client(services, ANY)
    client.got(domain="bad.example.org", passthrough=True)
    services.claims.synchronise()
    OwnershipStore(tmp_path).ban("bad.example.org", 0)
    services.claims.synchronise()
    watch = ChangeWatcher(services, ())
    watch._apply()
    await watch.close()
    assert client.session.sent[-1] == BindRefused(1, BindCode.BANNED)
    assert Client(services, ANY).ask(domain="bad.example.org", passthrough=True) is BindCode.BANNED


async def test_a_ticket_of_a_domain_is_no_way_around_rights(services: EdgeServices):
    ticket = Client(services, ANY).got(domain="shop.example.org", passthrough=True).ticket
    less = Identity("a", Permissions(domains=()))
    assert Client(services, less).ask(ticket=ticket, passthrough=True) is BindCode.DOMAIN_FORBIDDEN
